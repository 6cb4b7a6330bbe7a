"""Tables, what they stand on, and counters while there is something to execute.

    tables, neighbours, who leaves --> numbers, image --> remembered --> forwarding
    sweep, counters, flows --> whoever asks

Changes of tables and of surroundings take turns. Before anything in the kernel has a new number, it is written down
for the next process (`remembered`), with who was balanced and who leaves: members that a configuration has lost while
nobody ran keep their connections for the drain period, as they do while somebody runs.
"""

import asyncio
import os
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Self

from asynclb.datapath.ask import LiveVerdict, frame_of, live_verdict
from asynclb.datapath.base import Attachment, Counters, FlowRecord, HostSettings, Wire
from asynclb.datapath.core import layout
from asynclb.datapath.core.image import build_image
from asynclb.datapath.core.layout import CONSTANTS, Told
from asynclb.datapath.core.leaving import Leaving
from asynclb.datapath.core.memory import MARKS, flow_view
from asynclb.datapath.core.parting import Ending
from asynclb.datapath.core.plan import ImageCache, Plan
from asynclb.datapath.core.values import CoreCounters, NextHop
from asynclb.datapath.frames.departures import Departures
from asynclb.datapath.frames.drained import drained
from asynclb.datapath.frames.lifetimes import Namer, Names
from asynclb.datapath.frames.limits import clashes
from asynclb.datapath.frames.neighbours import Neighbours
from asynclb.datapath.frames.numbers import Over, member_addresses
from asynclb.datapath.frames.report import outbound_record_of, record_of, with_snat
from asynclb.datapath.frames.surroundings import Surroundings
from asynclb.datapath.frames.wire import Wiring
from asynclb.datapath.host import take_namespace
from asynclb.datapath.kernel.ask import ask
from asynclb.datapath.kernel.bpffs import REMEDY
from asynclb.datapath.kernel.counting import Counting
from asynclb.datapath.kernel.ending import end_flows
from asynclb.datapath.kernel.evictions import Evictions, flows_made
from asynclb.datapath.kernel.features import XdpFeatures, xdp_features
from asynclb.datapath.kernel.flows import flows_in
from asynclb.datapath.kernel.footing import footing_of
from asynclb.datapath.kernel.forwarding import Forwarding
from asynclb.datapath.kernel.host import KernelHost, limits_of_host
from asynclb.datapath.kernel.leftovers import Leftover, find_leftover
from asynclb.datapath.kernel.lifetimes import KernelNews
from asynclb.datapath.kernel.peers import obstructed
from asynclb.datapath.kernel.pins import Pins
from asynclb.datapath.kernel.programs import FlowLimits, layout_digest
from asynclb.datapath.kernel.remembered import Remembered, remember
from asynclb.datapath.kernel.send import Sender
from asynclb.datapath.kernel.speech import Speech
from asynclb.datapath.kernel.sweep import Counted, Sweep
from asynclb.datapath.kernel.tally import is_late
from asynclb.datapath.kernel.upkeep import Upkeep, now_ms
from asynclb.errors import ApplyError, HostError
from asynclb.events import Emit, Event
from asynclb.net.flow import Flow
from asynclb.tables.diff import only_health_differs
from asynclb.tables.row import Row
from asynclb.tables.tables import EMPTY_TABLES, Tables

_AT_ONCE = 2_048
"""Rules and members up to which the loop makes an image itself, where only health has changed: some 3 ms at most."""


class Running:
    """Owner: the datapath. Made by `start`, ended by `close` or `abandon`."""

    def __init__(
        self, host: KernelHost, pins: Pins, emit: Emit, lock: socket.socket, found: Leftover, limits: FlowLimits
    ) -> None:
        self.settings = HostSettings()
        self._bpf, self._pins, self._emit, self._lock, self._found = host.bpf, pins, emit, lock, found
        self._state = found.state
        self._forwarding = Forwarding(host, pins, emit, found, limits)
        self._numbers = found.remembered.numbers()
        self._namer, self._wiring = Namer(self._numbers), Wiring()
        self._remembered = found.remembered
        self._counting = Counting(host.bpf, found.state)
        self.news = KernelNews(self._names)
        self._evictions = Evictions(flows_made(host.bpf, found.state), adopted=bool(found.state.maps))
        self._sweep = Sweep(host.bpf, found.state, self._numbers_used, self.news, self._evictions)
        self._passes = 0  # of the sweep when tables were put in force: the second one after it began later
        self._upkeep: Upkeep | None = None
        self._generation = found.generation  # goes on: flows of a process before this one must not look current
        self._tables, self._around = EMPTY_TABLES, Surroundings({}, {}, (), {})
        self._images = ImageCache()
        self._plan: Plan | None = None  # in force, as the tables
        self._settled = self.settings  # as well
        self._turn = asyncio.Lock()  # tables and surroundings change one after the other
        self._departures = Departures("kernel", self._numbers, self, self._turn, emit)
        self._departures.leaving = found.remembered.leaving
        self._news: Surroundings | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._speech = Speech(Sender(emit))
        self._neighbours = Neighbours(emit, self._surroundings_changed, "kernel")

    @classmethod
    async def start(cls, host: KernelHost, pins: Pins, emit: Emit, limits: FlowLimits, settings: HostSettings) -> Self:
        """Take the namespace, and what an instance before this one left. Raises: HostError -> another one runs here."""
        lock = take_namespace("kernel")
        try:
            found = await asyncio.to_thread(find_leftover, host.bpf, pins, host.code)
            running = cls(host, pins, emit, lock, found, limits)
        except BaseException:
            lock.close()
            raise
        running.settings = settings
        pins.hold()
        for what, value, remedy in limits_of_host():
            emit(Event.HOST_LIMIT, what=what, value=value, remedy=remedy)
        if pins.directory is None:
            remedy = f"forwarding ends with the process without it; {REMEDY}"
            emit(Event.HOST_LIMIT, what="bpffs that this user may write to", value="missing", remedy=remedy)
        return running

    async def execute(self, tables: Tables) -> None:
        """Prepare, commit, tidy. Raises: OSError, HostError, LookupError, ValueError -> nothing has changed."""
        async with self._turn:
            if await self._renewed(tables):
                return
        rows = [entry.row for entry in tables.entries.values()]
        problems = clashes(rows)
        if problems:
            raise ApplyError(problems)
        async with self._departures.turn_for(rows) as leaving:
            await self._enter(tables, leaving, await self._look(rows, leaving))

    async def _renewed(self, tables: Tables) -> bool:
        """Let other members of the same rules take new flows, if only that changes: then nothing is looked at."""
        plan = self._plan
        if plan is None or self._settled != self.settings or not only_health_differs(self._tables, tables):
            return False
        generation = self._generation + 1
        build = partial(build_image, replace(tables, generation=generation), plan, self._images)
        is_small = len(tables.entries) + len(plan.members) <= _AT_ONCE
        image = build() if is_small else await asyncio.to_thread(build)
        if not await self._forwarding.renew(image, generation):
            return False
        self.news.published(self._tables, tables, self._numbers.members.names(), now_ms())
        self._generation, self._passes, self._tables = generation, self._sweep.passes, tables
        return True

    async def _look(self, rows: Iterable[Row], leaving: Leaving) -> Surroundings:
        return await self._neighbours.want(member_addresses((*rows, *leaving.rows)))

    def rows(self) -> Collection[Row]:
        """Return the rules in force; before there are any, those of the process before this one."""
        if self._forwarding.programs is None:
            return self._found.remembered.rows
        return [entry.row for entry in self._tables.entries.values()]

    async def _enter(self, tables: Tables, leaving: Leaving, around: Surroundings) -> None:
        live = [entry.row for entry in tables.entries.values()]
        rows = [*live, *leaving.rows]
        self._give_back_old()
        settings = self.settings
        plan = self._plan_of(live, leaving, around, tables)
        self._generation += 1
        is_foreign = self._found.is_foreign and self._forwarding.programs is None

        def make() -> tuple[bytes, XdpFeatures, frozenset[int]]:
            """Do what takes long, in one thread: on a busy host each one that is begun is waited for."""
            image = build_image(replace(tables, generation=self._generation), plan, self._images)
            seen = xdp_features(), obstructed(self._bpf, around.links)
            if not is_foreign:  # whose maps have other numbers until ours are in their place
                self._write_down(live, leaving)
            return image, *seen

        image, features, barred = await asyncio.to_thread(make)
        wishes, hops = settings.interfaces, self._hops_of(around)
        footing = footing_of(rows, around, features, wishes, barred, hops=hops, outbound=bool(tables.outbound))
        await self._forwarding.put(image, self._generation, footing)
        self._passes = self._sweep.passes
        self.news.published(self._tables, tables, self._numbers.members.names(), now_ms())
        self._tables, self._around, self._plan, self._settled = tables, around, plan, settings
        self._numbers.entered(live, leaving, tables.outbound)
        if is_foreign:
            await asyncio.to_thread(self._write_down, live, leaving)
        if self._upkeep is None:
            self._begin()
        self._departures.entered(leaving)
        self._forwarding.tidy(footing)
        sources = {address for rule in tables.outbound for address in rule.sources}
        self._speech.announce({row.key.address for row in rows} | sources, around)

    def _plan_of(self, rows: Collection[Row], leaving: Leaving, around: Surroundings, tables: Tables) -> Plan:
        plan = self._numbers.plan(rows, leaving, around, outbound=tables.outbound)
        return replace(plan, local=plan.local | tables.elsewhere)

    def _begin(self) -> None:
        """Count and sweep from here on."""
        self._upkeep = Upkeep(self._sweep, self._tell_ends, self._emit, self.news)
        if self._found.programs is not None:
            before = self._found.remembered
            names = [self._name_of(index) for index in self._forwarding.modes]
            counts = {"rules": len(before.rules), "members": len(before.members)}
            self._emit(Event.DATAPATH_ADOPTED, datapath="kernel", interfaces=names, **counts)

    def _numbers_used(self) -> tuple[int, int, int]:
        numbers = self._numbers
        return numbers.rules.used, numbers.members.used, numbers.sources.used if self._tables.outbound else 0

    async def end(self, ending: Ending) -> Mapping[int, int]:
        """End flows: both ends of connections are reset."""
        ended = await end_flows(self._bpf, self._state, ending, self._tell_ends, self._parted, self._evictions)
        self.news.tell()  # while what ended has its names
        return ended

    def _parted(self, keyed: layout.KeyedFlow) -> None:
        self.news.over(keyed.key, keyed.flow, Told.PARTED)

    def _names(self) -> Names:
        return self._namer.names(self._tables, self._departures.leaving)

    async def without(self, leaving: Leaving) -> None:
        """Enter the same tables with these who leave."""
        rows = [entry.row for entry in self._tables.entries.values()]
        await self._enter(self._tables, leaving, await self._look(rows, leaving))

    async def give_back(self, over: Over) -> None:
        """Give back the numbers of members, when no program counts under them any more."""
        await self._forwarding.quiet()
        self._numbers.release_members(over, self.rows(), self._departures.leaving, self._counted_under)
        await asyncio.to_thread(self._write_down, self.rows(), self._departures.leaving)

    def _give_back_old(self) -> None:
        """Give back what the image in force does not refer to, where it is certain that nothing else does."""
        if not self._forwarding.is_quiet:
            return
        rows, leaving = self.rows(), self._departures.leaving
        hops = member_addresses((*rows, *leaving.rows))
        gone = {number: None for number, address in self._numbers.hops.names().items() if address not in hops}
        self._forwarding.set_hops(gone)
        self._numbers.release_hops(hops)
        if self._sweep.passes > self._passes + 1 and self._numbers.has_old_rules(rows, leaving):
            self._numbers.release_rules(rows, leaving, self._read(), self._counted_under)

    def _counted_under(self, rules: Collection[int], members: Collection[int]) -> CoreCounters:
        """Return what was counted under numbers; they begin at zero when they get another name."""
        core = self._counting.read(self._numbers.rules.used, self._numbers.members.used, Counted())
        return CoreCounters(
            rules={number: counts for number, counts in core.rules.items() if number in rules},
            members={number: counts for number, counts in core.members.items() if number in members},
        )

    def _read(self) -> CoreCounters:
        return self._counting.read(self._numbers.rules.used, self._numbers.members.used, self._sweep.counted)

    @property
    def capacity(self) -> int:
        """Bytes that tables may have before they need other programs."""
        programs = self._forwarding.programs
        return 0 if programs is None else programs.capacity

    def mode(self, row: Row) -> str:
        """Return how the interfaces are attached that the row's traffic comes by."""
        modes = {self._name_of(index): "xdp" if mode.is_xdp else "tc" for index, mode in self._forwarding.modes.items()}
        interface = row.frontend.interface
        return modes[interface] if interface in modes else ", ".join(sorted(set(modes.values())))

    def attachments(self) -> tuple[Attachment, ...]:
        """Return how programs are attached, by the interface's name."""
        instead = self._forwarding.instead
        modes = self._forwarding.modes.items()
        return tuple(sorted(Attachment(self._name_of(at), str(mode), instead(at)) for at, mode in modes))

    def counters(self) -> Counters:
        """Return the counters by name."""
        if self._upkeep is None:
            return Counters()
        counted, sources = self._numbers.counters(self._read(), 0), self._numbers.sources
        marks = self._sweep.counted.marks.ljust(sources.used * 2 * MARKS, b"\0")
        counted = replace(counted, evictions=self._evictions.number)
        return with_snat(counted, self._tables.outbound, marks, sources.names())

    def flows(self) -> Iterator[FlowRecord]:
        """Walk through the flows."""
        rules = {number: name for number, (name, _) in self._numbers.rules.names().items()}
        members, sources = self._numbers.members.names(), self._numbers.sources.names()
        rows = {row.rule.name: row for row in (*self._departures.leaving.rows, *self.rows())}
        for found in self._open():
            flow = flow_view(found)
            if flow.source is None:
                yield record_of(flow, rules, members, rows, time.monotonic())
            else:
                yield outbound_record_of(flow, rules, members, sources, time.monotonic())

    def _open(self) -> Iterator[layout.KeyedFlow]:
        moment_ms = now_ms()
        for found in flows_in(self._bpf, self._state):
            if not found.flow.flags & CONSTANTS["FLOW_RETURN"] and not is_late(found.flow.deadline_ms, moment_ms):
                yield found

    def watch(self, *, begin: bool) -> None:
        """Let packet sockets see every frame, or no longer. Raises: BpfError."""
        self._forwarding.watch(begin=begin)

    def wire(self) -> Wire:
        """Return who is where now."""
        return self._wiring.wire(self._neighbours.around, self._tables)

    def ask(self, flow: Flow, interface: str | None) -> LiveVerdict | None:
        """Ask who would get a packet that begins a flow."""
        programs = self._forwarding.programs
        if programs is None or not self._forwarding.modes:
            return LiveVerdict(None, None)
        index = next((link.index for link in self._around.every_link.values() if link.name == interface), 0)
        asked = ask(self._bpf, programs.ask, frame_of(flow), index)
        return live_verdict(asked.member, asked.reason, asked.known, self._numbers.members.names())

    async def close(self, drain_s: float) -> int:
        """Let flows end for `drain_s`, then detach and remove everything; or leave everything as it is.

        Returns how many flows had not ended.
        """
        await self._departures.close()
        if self.settings.leave and self._pins.directory is not None:
            names = [self._name_of(index) for index in self._forwarding.modes]
            self._emit(Event.DATAPATH_LEFT, datapath="kernel", interfaces=names)
            await self._end(leave=True)
            return 0
        if drain_s and self._upkeep is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await self._take_no_more()
                    await self._upkeep.emptied()
        left = self._sweep.counted.open
        self.news.close(self._open)
        await self._end(leave=False)
        return left

    async def _take_no_more(self) -> None:
        """Let open flows go on, and no others begin; where that fails, they go on beginning until the end."""
        try:
            async with self._turn:
                await self._enter(drained(self._tables), self._departures.leaving, self._around)
        except (OSError, HostError, LookupError, ValueError) as error:
            self._emit(Event.DATAPATH_FAILED, datapath="kernel", error=str(error))

    async def abandon(self) -> None:
        """Undo a start that failed: what an instance before this one left goes on as it was."""
        await self._departures.close()
        await self._end(leave=self._forwarding.programs is not None or bool(self._forwarding.modes))

    async def _end(self, *, leave: bool) -> None:
        self._neighbours.close()
        if self._refreshing is not None:
            self._refreshing.cancel()
        if self._upkeep is not None:
            await self._upkeep.close()
        self._forwarding.end(leave=leave)
        self._pins.release()
        self._speech.close()
        self._lock.close()

    def _write_down(self, rows: Collection[Row], leaving: Leaving) -> None:
        """Write down which numbers are in use and what for, before anything in the kernel has a new one. Blocks."""
        now = Remembered.of(layout_digest(), self._numbers, tuple(rows), leaving)
        if now == self._remembered:
            return
        if self._state.maps:
            self._counting.begin(*now.fresh(self._remembered))
        os.close(remember(self._bpf, self._pins, now))
        self._remembered = now

    def _hops_of(self, around: Surroundings) -> dict[int, NextHop | None]:
        return {index: around.next_hop(address) for index, address in self._numbers.hops.names().items()}

    def _surroundings_changed(self, around: Surroundings) -> None:
        """Follow neighbours at once; interfaces and addresses need a new image and come in their turn."""
        self._forwarding.set_hops(self._hops_of(around))
        self._news = around
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh(), name="kernel-surroundings")

    async def _refresh(self) -> None:
        while (around := self._news) is not None:
            async with self._turn:
                self._news = None
                try:
                    await self._enter(self._tables, self._departures.leaving, around)
                except (OSError, HostError, LookupError, ValueError) as error:
                    self._emit(Event.DATAPATH_FAILED, datapath="kernel", error=str(error))

    def _tell_ends(self, keyed: layout.KeyedFlow) -> None:
        self._speech.reset(keyed, self._numbers.members.names(), self._around)

    def _name_of(self, index: int) -> str:
        link = self._around.every_link.get(index)
        return str(index) if link is None else link.name
