"""Programs, tables, links and counters while there is something to execute.

New tables come in three steps. Prepare: look at routes and neighbours, build the image, write it where no program
looks, attach to interfaces that are new. Commit: one word says which image is current; or, if the tables outgrew
their map or the programs are another process' own, every link gets the new programs, one after the other. Tidy: detach
from interfaces that are not needed any more. What was prepared is undone when something fails before the commit.
"""

import asyncio
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Self

from asynclb.datapath.ask import LiveVerdict, frame_of, live_verdict
from asynclb.datapath.base import Counters, FlowRecord, HostSettings
from asynclb.datapath.core import layout
from asynclb.datapath.core.image import ImageCache, Plan, build_image
from asynclb.datapath.core.layout import CONSTANTS
from asynclb.datapath.core.leaving import member_names
from asynclb.datapath.core.memory import MARKS, flow_view
from asynclb.datapath.core.values import NextHop
from asynclb.datapath.host import take_namespace
from asynclb.datapath.kernel.ask import ask
from asynclb.datapath.kernel.attach import Attachments, Pair, Wanted, needed, wanted
from asynclb.datapath.kernel.bpffs import REMEDY
from asynclb.datapath.kernel.counting import Counting
from asynclb.datapath.kernel.drained import drained
from asynclb.datapath.kernel.features import xdp_features
from asynclb.datapath.kernel.hops import Hops
from asynclb.datapath.kernel.host import KernelHost, forwarding_off
from asynclb.datapath.kernel.leftovers import CONTROL, PROGRAMS, Leftover, find_leftover
from asynclb.datapath.kernel.links import LinkMaps
from asynclb.datapath.kernel.pins import Pins
from asynclb.datapath.kernel.programs import (
    MAX_HOPS,
    MAX_MEMBERS,
    MAX_RULES,
    FlowLimits,
    Programs,
    capacity_for,
    grace_period,
    layout_digest,
)
from asynclb.datapath.kernel.remembered import MemberName, Remembered, remember
from asynclb.datapath.kernel.send import Sender
from asynclb.datapath.kernel.speech import Speech
from asynclb.datapath.kernel.sweep import Sweep, flows_in
from asynclb.datapath.kernel.tally import is_late
from asynclb.datapath.kernel.upkeep import Upkeep, now_ms
from asynclb.datapath.packet.ids import Ids
from asynclb.datapath.packet.limits import clashes
from asynclb.datapath.packet.neighbours import Neighbours, Surroundings
from asynclb.datapath.packet.numbers import MAX_SOURCES, member_addresses, outbound_names, routed_keys
from asynclb.datapath.packet.report import counters_of, outbound_record_of, record_of, with_snat
from asynclb.errors import ApplyError, HostError
from asynclb.events import Emit, Event
from asynclb.net.address import Address
from asynclb.net.flow import Flow
from asynclb.tables.row import Delivery, Row
from asynclb.tables.tables import EMPTY_TABLES, Tables


class Running:
    """Owner: the datapath. Made by `start`, ended by `close` or `abandon`."""

    def __init__(self, host: KernelHost, pins: Pins, emit: Emit, lock: socket.socket, found: Leftover) -> None:
        self.settings = HostSettings()
        self._host, self._pins, self._emit, self._lock = host, pins, emit, lock
        self._bpf, self._state, self._found = host.bpf, found.state, found
        self._limits = FlowLimits()
        self._attachments = Attachments(host.bpf, pins, emit)
        self._rules: Ids[str] = Ids(MAX_RULES, found.rules)
        self._members: Ids[MemberName] = Ids(MAX_MEMBERS, found.members)
        self._hop_numbers: Ids[Address] = Ids(MAX_HOPS)
        self._sources: Ids[Address] = Ids(MAX_SOURCES, found.sources)  # never given back: connections outlast the rules
        self._remembered: Remembered | None = None
        self._programs: Programs | None = None
        self._hops: Hops | None = None
        self._maps: LinkMaps | None = None
        self._counting: Counting | None = None
        self._sweep: Sweep | None = None
        self._upkeep: Upkeep | None = None
        self._quiet: asyncio.Task[None] | None = None  # ends when the image before may be written again
        self._generation = found.generation  # goes on: flows of a process before this one must not look current
        self._tables, self._around = EMPTY_TABLES, Surroundings({}, {}, (), {})
        self._images = ImageCache()
        self._targets: frozenset[int] = frozenset()  # interfaces that XDP can redirect to
        self._turn = asyncio.Lock()  # tables and surroundings change one after the other
        self._news: Surroundings | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._speech = Speech(Sender(emit))
        self._neighbours = Neighbours(emit, self._surroundings_changed)

    @classmethod
    async def start(cls, host: KernelHost, pins: Pins, emit: Emit, limits: FlowLimits, settings: HostSettings) -> Self:
        """Take the namespace, and what an instance before this one left. Raises: HostError -> another one runs here."""
        lock = take_namespace("kernel")
        try:
            found = await asyncio.to_thread(find_leftover, host.bpf, pins, host.code)
            running = cls(host, pins, emit, lock, found)
        except BaseException:
            lock.close()
            raise
        running.settings, running._limits = settings, limits
        pins.hold()
        running._attachments.adopt()
        for name in forwarding_off():
            remedy = (
                f"packets whose next hop is not resolved yet, or that XDP cannot send, are lost: sysctl -w {name}=1"
            )
            emit(Event.HOST_LIMIT, what=name, value=0, remedy=remedy)
        if pins.directory is None:
            remedy = f"forwarding ends with the process without it; {REMEDY}"
            emit(Event.HOST_LIMIT, what="bpffs that this user may write to", value="missing", remedy=remedy)
        return running

    async def execute(self, tables: Tables) -> None:
        """Prepare, commit, tidy. Raises: OSError, HostError, LookupError, ValueError -> nothing has changed."""
        rows = [entry.row for entry in tables.entries.values()]
        problems = clashes(rows)
        if problems:
            raise ApplyError(problems)
        async with self._turn:
            around = await self._neighbours.want(member_addresses(rows))
            await self._enter(tables, rows, around)

    async def _enter(self, tables: Tables, rows: list[Row], around: Surroundings) -> None:
        plan = self._plan(rows, around, tables)
        self._generation += 1
        image = await asyncio.to_thread(build_image, replace(tables, generation=self._generation), plan, self._images)
        features = await asyncio.to_thread(xdp_features)
        self._targets = features.targets
        links = dict(around.links) if tables.outbound else needed(rows, around, self.settings.interfaces)
        interfaces = wanted(links, self.settings.interfaces, features.native, features.targets)
        if self._programs is None or len(image) > self._programs.capacity:
            await self._replace_programs(image, around, interfaces, rows)
        else:
            await self._replace_image(self._programs, image, around, interfaces, rows)
        self._tables, self._around = tables, around
        self._tidy(rows, around, interfaces)

    async def _replace_image(
        self,
        programs: Programs,
        image: bytes,
        around: Surroundings,
        interfaces: dict[int, Wanted],
        rows: list[Row],
    ) -> None:
        await self._remember()
        if self._quiet is not None:
            await self._quiet
        await asyncio.to_thread(programs.write, image)
        self._link_maps().widen(around.links, self._targets, _appliances(rows, around))
        self._attachments.widen(_pair(programs), interfaces)
        self._set_hops(around)
        programs.flip(self._generation)
        self._quiet = asyncio.create_task(asyncio.to_thread(grace_period), name="kernel-grace")

    async def _replace_programs(
        self,
        image: bytes,
        around: Surroundings,
        interfaces: dict[int, Wanted],
        rows: list[Row],
    ) -> None:
        """Load programs aside with these tables, and put them in the place of those that forward now."""
        fresh = await asyncio.to_thread(
            Programs, self._bpf, self._host.code, self._state, self._limits, capacity_for(len(image))
        )
        hops = Hops(fresh.hops)
        try:
            await self._remember()
            await asyncio.to_thread(fresh.write, image)
            fresh.flip(self._generation)
            hops.set(self._hops_of(around), self._targets)
            self._link_maps().widen(around.links, self._targets, _appliances(rows, around))
            before = self._found.programs if self._programs is None else _pair(self._programs)
            added = self._attachments.widen(_pair(fresh), interfaces)
            try:
                self._attachments.switch(before, _pair(fresh))
            except BaseException:
                self._attachments.drop(added)
                raise
        except BaseException:
            hops.close()
            fresh.close()
            raise
        old, self._programs, self._hops, self._around = self._programs, fresh, hops, around
        self._pin(fresh)
        if old is None:
            self._begin()
        else:
            old.close()

    def _pin(self, programs: Programs) -> None:
        for name, fd in zip(PROGRAMS, (programs.tc, programs.xdp), strict=True):
            self._pins.keep(fd, name)
        self._pins.keep(programs.control, CONTROL)
        for name, fd in self._state.maps.items():
            self._pins.keep(fd, f"map-{name}")

    def _begin(self) -> None:
        """Count and sweep from here on."""
        self._counting = Counting(self._bpf, self._state)
        self._sweep = Sweep(self._bpf, self._state, self._numbers_used)
        self._upkeep = Upkeep(self._sweep, self._tell_ends, self._emit)
        before = self._found.programs
        if before is not None:
            for fd in (before.tc, before.xdp):
                os.close(fd)
            names = [self._name_of(index) for index in self._attachments.modes]
            counts = {"rules": len(self._found.rules), "members": len(self._found.members)}
            self._emit(Event.DATAPATH_ADOPTED, datapath="kernel", interfaces=names, **counts)

    def _numbers_used(self) -> tuple[int, int, int]:
        return self._rules.used, self._members.used, self._sources.used if self._tables.outbound else 0

    @property
    def capacity(self) -> int:
        """Bytes that tables may have before they need other programs."""
        return 0 if self._programs is None else self._programs.capacity

    def mode(self, row: Row) -> str:
        """Return how the interfaces are attached that the row's traffic comes by."""
        modes = {
            self._name_of(index): "xdp" if mode.is_xdp else "tc" for index, mode in self._attachments.modes.items()
        }
        interface = row.frontend.interface
        return modes[interface] if interface in modes else ", ".join(sorted(set(modes.values())))

    def counters(self) -> Counters:
        """Return the counters by name."""
        if self._counting is None or self._sweep is None:
            return Counters()
        core = self._counting.read(self._rules.used, self._members.used, self._sweep.counted)
        counted, marks = counters_of(core, self._rules.names(), self._members.names(), 0), self._sweep.counted.marks
        marks = marks.ljust(self._sources.used * 2 * MARKS, b"\0")
        return with_snat(counted, self._tables.outbound, marks, self._sources.names())

    def flows(self) -> Iterator[FlowRecord]:
        """Walk through the flows."""
        rules, members = self._rules.names(), self._members.names()
        rows = {entry.row.rule.name: entry.row for entry in self._tables.entries.values()}
        sources, moment_ms = self._sources.names(), now_ms()
        for found in flows_in(self._bpf, self._state):
            if found.flow.flags & CONSTANTS["FLOW_RETURN"] or is_late(found.flow.deadline_ms, moment_ms):
                continue
            flow = flow_view(found)
            if flow.source is None:
                yield record_of(flow, rules, members, rows, time.monotonic())
            else:
                yield outbound_record_of(flow, rules, members, sources, time.monotonic())

    def ask(self, flow: Flow, interface: str | None) -> LiveVerdict | None:
        """Ask who would get a packet that begins a flow."""
        if self._programs is None or not self._attachments.modes:
            return LiveVerdict(None, None)
        index = next((link.index for link in self._around.links.values() if link.name == interface), 0)
        asked = ask(self._bpf, self._programs.ask, frame_of(flow), index)
        return live_verdict(asked.member, asked.reason, asked.known, self._members.names())

    async def close(self, drain_s: float) -> int:
        """Let flows end for `drain_s`, then detach and remove everything; or leave everything as it is.

        Returns how many flows had not ended.
        """
        if self.settings.leave and self._pins.directory is not None:
            names = [self._name_of(index) for index in self._attachments.modes]
            self._emit(Event.DATAPATH_LEFT, datapath="kernel", interfaces=names)
            await self._end(leave=True)
            return 0
        if drain_s and self._upkeep is not None:
            with suppress(TimeoutError, OSError, HostError, LookupError, ValueError):
                async with asyncio.timeout(drain_s):
                    await self.execute(drained(self._tables))
                    await self._upkeep.emptied()
        left = 0 if self._sweep is None else self._sweep.counted.open
        await self._end(leave=False)
        return left

    async def abandon(self) -> None:
        """Undo a start that failed: what an instance before this one left goes on as it was."""
        await self._end(leave=self._programs is not None or bool(self._attachments.modes))

    async def _end(self, *, leave: bool) -> None:
        self._neighbours.close()
        for task in (self._refreshing, self._quiet):
            if task is not None:
                task.cancel()
        if self._upkeep is not None:
            await self._upkeep.close()
        if leave:
            self._attachments.release()
        else:
            self._attachments.narrow(())
            self._pins.drop_all()
        if self._hops is not None:
            self._hops.close()
        if self._programs is not None:
            self._programs.close()
        self._state.close()
        self._pins.release()
        self._speech.close()
        self._lock.close()

    def _plan(self, rows: Iterable[Row], around: Surroundings, tables: Tables) -> Plan:
        members = self._members.of((*member_names(rows), *outbound_names(tables.outbound)))
        return Plan(
            rules=self._rules.of((*(row.rule.name for row in rows), *(rule.name for rule in tables.outbound))),
            members={(pool, name): members[pool, name, address] for pool, name, address in members},
            next_hops=self._hop_numbers.of(member_addresses(rows)),
            routed=routed_keys(rows, around),
            local=frozenset(around.addresses) | tables.elsewhere,
            sources=self._sources.of(address for rule in tables.outbound for address in rule.sources),
        )

    async def _remember(self) -> None:
        """Write down which numbers are in use, before anything in the kernel has a new one."""
        rules, members = self._rules.names(), self._members.names()
        now = Remembered(
            layout_digest(),
            {name: number for number, name in rules.items()},
            {name: number for number, name in members.items()},
            {address: number for number, address in self._sources.names().items()},
        )
        if now != self._remembered:
            os.close(await asyncio.to_thread(remember, self._bpf, self._pins, now))
            self._remembered = now

    def _link_maps(self) -> LinkMaps:
        self._maps = self._maps or LinkMaps(self._bpf, self._state)
        return self._maps

    def _hops_of(self, around: Surroundings) -> dict[int, NextHop | None]:
        return {index: around.hops.get(address) for index, address in self._hop_numbers.names().items()}

    def _set_hops(self, around: Surroundings) -> None:
        if self._hops is not None:
            self._hops.set(self._hops_of(around), self._targets)

    def _tidy(self, rows: list[Row], around: Surroundings, interfaces: dict[int, Wanted]) -> None:
        self._attachments.narrow(interfaces)
        self._link_maps().narrow(around.links, _appliances(rows, around))
        sources = {address for rule in self._tables.outbound for address in rule.sources}
        self._speech.announce({row.key.address for row in rows} | sources, around)

    def _surroundings_changed(self, around: Surroundings) -> None:
        """Follow neighbours at once; interfaces and addresses need a new image and come in their turn."""
        self._set_hops(around)
        self._news = around
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh(), name="kernel-surroundings")

    async def _refresh(self) -> None:
        while (around := self._news) is not None:
            async with self._turn:
                self._news = None
                rows = [entry.row for entry in self._tables.entries.values()]
                try:
                    await self._enter(self._tables, rows, around)
                except (OSError, HostError, LookupError, ValueError) as error:
                    self._emit(Event.DATAPATH_FAILED, datapath="kernel", error=str(error))

    def _tell_ends(self, keyed: layout.KeyedFlow) -> None:
        self._speech.reset(keyed, self._members.names(), self._around)

    def _name_of(self, index: int) -> str:
        link = self._around.links.get(index)
        return str(index) if link is None else link.name


def _pair(programs: Programs) -> Pair:
    return Pair(programs.tc, programs.xdp)


def _appliances(rows: Iterable[Row], around: Surroundings) -> set[bytes]:
    """Return the link addresses of the members that frames are routed through."""
    addresses = member_addresses(row for row in rows if row.delivery is Delivery.ROUTED)
    return {around.hops[address].destination for address in addresses if address in around.hops}
