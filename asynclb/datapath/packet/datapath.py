"""The packet datapath: frames from receive rings through the native core and out again, on the event loop.

    ring --> core (native, a bounded batch, in place) --> sendmmsg for each egress --> slots back to the kernel
    netlink --> neighbours --> next hops in the core, interfaces attached, guard
    tables --> plan, image --> one pointer swap

A delta is applied in three steps. Prepare: look at routes and neighbours, build the image in a thread, open rings on
interfaces that are new, put up the guard for the old keys and the new ones together. Commit: swap the image. Tidy:
narrow the guard, close what is not needed any more. What was prepared is undone when something fails before the commit.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from asynclb import native
from asynclb.datapath.base import Counters, FlowRecord, Refusal
from asynclb.datapath.core.core import Core
from asynclb.datapath.core.image import Plan, build_image
from asynclb.datapath.host import Capability, missing, take_namespace
from asynclb.datapath.nft import Nftables
from asynclb.datapath.packet.announce import announcement
from asynclb.datapath.packet.guard import Guarded, guarded
from asynclb.datapath.packet.ids import Ids
from asynclb.datapath.packet.limits import clashes, static_refusal
from asynclb.datapath.packet.neighbours import Link, Neighbours, Surroundings
from asynclb.datapath.packet.ports import Port
from asynclb.datapath.packet.report import counters_of, record_of
from asynclb.datapath.packet.ruleset import NO_TABLE, TABLE, ruleset, watches_egress
from asynclb.errors import ApplyError, HostError, Problem
from asynclb.events import Emit, Event
from asynclb.net.address import Address
from asynclb.tables.diff import Delta
from asynclb.tables.row import FrontendKey, Row
from asynclb.tables.tables import EMPTY_TABLES, Tables

MAX_FLOWS = 1_000_000
MAX_RULES = 8_192
MAX_MEMBERS = 65_536
MAX_NEXT_HOPS = 65_536

_SWEEP_S = 0.02
_SWEEP_BUCKETS = 512  # a full table of 111,112 buckets is seen once in 4.5 s; one call takes well under 1 ms

MemberName = tuple[str, str, Address]
"""(pool, member, address): a member that changes its address is another one to its flows."""


class PacketDatapath:
    """Executes rules of every protocol with packet sockets. Owner: the controller."""

    name = "packet"

    def __init__(self, *, emit: Emit) -> None:
        self._emit = emit
        self._why_not = "it has not been opened"
        self._running: _Running | None = None
        self._leftover = False
        self._generation = 0

    @property
    def generation(self) -> int:
        """The generation that new flows meet."""
        return self._generation

    async def open(self) -> None:
        """Find out what this host allows, and whether a killed instance left its guard behind. Changes nothing.

        What is left keeps the host from resetting connections that go on with the first tables, which replace it.
        """
        lacking = missing(Capability.CAP_NET_ADMIN, Capability.CAP_NET_RAW)
        self._why_not = ""
        if lacking:
            self._why_not = f"packet sockets and their guard need {' and '.join(lack.name for lack in lacking)}"
        elif not native.available:
            self._why_not = f"the native library is not there: {native.reason}"
        else:
            self._leftover = await asyncio.to_thread(_has_leftover)

    def mode(self, _row: Row) -> str:
        """Return `rings`: every rule is carried in the same way."""
        return "rings"

    def refusal(self, row: Row) -> Refusal | None:
        """Return why this datapath cannot carry the row, or None."""
        refused = static_refusal(row)
        if refused is None and self._why_not:
            return Refusal(
                self._why_not, "run as root or with these capabilities, or use `datapath: proxy` where it can"
            )
        return refused

    async def apply(self, delta: Delta) -> None:
        """Execute the delta's new tables from here on; see the module for the steps. Raises: ApplyError."""
        if self._running is None and not delta.new.entries:
            await self._remove_leftover()
            self._generation = delta.new.generation
            return
        try:
            if self._running is None:
                self._running = _Running(self._emit)
            await self._running.execute(delta.new)
        except (HostError, OSError, LookupError, ValueError) as error:
            raise ApplyError([Problem((), "", f"packet datapath: {error}", "nothing was changed")]) from error
        self._generation = delta.new.generation
        if self._leftover:
            self._removed_leftover()

    def counters(self) -> Counters:
        """Return a snapshot of the counters."""
        return Counters() if self._running is None else self._running.counters()

    def flows(self) -> Iterator[FlowRecord]:
        """Iterate over the flow table."""
        if self._running is not None:
            yield from self._running.flows()

    async def close(self, drain_s: float) -> int:
        """Go on for `drain_s` while there are flows, then take the rings, the guard and the lock down."""
        running, self._running = self._running, None
        await self._remove_leftover()
        return 0 if running is None else await running.close(drain_s)

    async def _remove_leftover(self) -> None:
        if self._leftover and await asyncio.to_thread(_remove_table):
            self._removed_leftover()

    def _removed_leftover(self) -> None:
        self._leftover = False
        self._emit(Event.LEFTOVERS_REMOVED, what=[f"nftables table netdev {TABLE}"])


class _Running:
    """Rings, core and guard while there is something to execute. Owner: the datapath."""

    def __init__(self, emit: Emit) -> None:
        """Take the namespace. Raises: HostError -> another instance runs here, or a library is missing."""
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._nft = Nftables()
        self._lock = take_namespace("packet")
        self._core = Core(MAX_FLOWS, max_rules=MAX_RULES, max_members=MAX_MEMBERS, max_next_hops=MAX_NEXT_HOPS)
        self._ports: dict[int, Port] = {}
        self._rules: Ids[str] = Ids(MAX_RULES)
        self._members: Ids[MemberName] = Ids(MAX_MEMBERS)
        self._hops: Ids[Address] = Ids(MAX_NEXT_HOPS)
        self._tables: Tables = EMPTY_TABLES
        self._lost = 0  # frames that came while a ring was full
        self._guarded: Guarded | None = None
        self._egress = watches_egress(self._nft)
        if not self._egress:
            remedy = "members of `nat` rules are reached through them only; Linux 5.16 or later lifts that"
            emit(Event.HOST_LIMIT, what="nftables egress hook", value="missing", remedy=remedy)
        self._announced: set[tuple[Address, int]] = set()
        self._turn = asyncio.Lock()  # tables and surroundings change one after the other
        self._news: Surroundings | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._neighbours = Neighbours(emit, self._surroundings_changed)
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    async def execute(self, tables: Tables) -> None:
        """Prepare, commit, tidy. Raises: OSError, HostError, LookupError, ValueError -> nothing has changed."""
        rows = [entry.row for entry in tables.entries.values()]
        problems = clashes(rows)
        if problems:
            raise ApplyError(problems)
        async with self._turn:
            around = await self._neighbours.want(_member_addresses(rows))
            await self._enter(tables, rows, around)

    async def _enter(self, tables: Tables, rows: list[Row], around: Surroundings) -> None:
        plan = self._plan(rows, around)
        image = await asyncio.to_thread(build_image, tables, plan)
        fresh = self._open_ports(around.links)
        wanted = guarded(rows, ((link.name, link.index) for link in around.links.values()), plan.local)
        both = wanted if self._guarded is None else self._guarded | wanted
        try:
            await self._guard(both)
        except BaseException:
            for port in fresh:
                port.close()
            raise
        self._core.publish(image)
        self._set_hops(around)
        self._tables = tables
        for port in fresh:
            self._attach(port)
        for index in self._ports.keys() - around.links.keys():
            self._detach(index)
        await self._guard(wanted)
        self._announce(rows, around)

    async def _guard(self, wanted: Guarded) -> None:
        """Put the guard up in one transaction, if it is another one. Raises: OSError -> the old one stays."""
        if wanted != self._guarded:
            afresh = f"{NO_TABLE}\n" if self._guarded is None else ""
            await asyncio.to_thread(self._nft.run, afresh + ruleset(wanted, egress=self._egress))
            self._guarded = wanted

    def counters(self) -> Counters:
        """Return the core's counters by name."""
        self._lost += sum(port.lost() for port in self._ports.values())
        return counters_of(self._core.counters(), self._rules.names(), self._members.names(), self._lost)

    def flows(self) -> Iterator[FlowRecord]:
        """Walk through the flow table."""
        cursor: int | None = 0
        rules, members = self._rules.names(), self._members.names()
        rows = {entry.row.rule.name: entry.row for entry in self._tables.entries.values()}
        while cursor is not None:
            found, cursor = self._core.flows(cursor)
            for flow in found:
                yield record_of(flow, rules, members, rows, time.monotonic())

    async def close(self, drain_s: float) -> int:
        """Wait for flows to end, at most `drain_s`; then undo everything. Returns how many flows were left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                while self._core.counters().flows:  # noqa: ASYNC110  nothing hot shall signal it
                    await asyncio.sleep(0.1)
        left = self._core.counters().flows
        self._sweeper.cancel()
        self._neighbours.close()
        if self._refreshing is not None:
            self._refreshing.cancel()
        for index in tuple(self._ports):
            self._detach(index)
        with suppress(OSError):
            await asyncio.to_thread(self._nft.run, NO_TABLE)
        self._core.close()
        self._lock.close()
        return left

    def _plan(self, rows: Iterable[Row], around: Surroundings) -> Plan:
        by_name = {link.name: link.index for link in around.links.values()}
        names = [(row.pool.name, member.name, member.address) for row in rows for member in row.pool.members]
        members = self._members.of(names)
        routed: dict[tuple[int, int], FrontendKey] = {
            (by_name[row.frontend.interface], row.key.address.version): row.key
            for row in rows
            if row.frontend.routed and row.frontend.interface in by_name
        }
        return Plan(
            rules=self._rules.of(row.rule.name for row in rows),
            members={(pool, name): members[pool, name, address] for pool, name, address in members},
            next_hops=self._hops.of(_member_addresses(rows)),
            routed=routed,
            local=frozenset(around.addresses),
        )

    def _set_hops(self, around: Surroundings) -> None:
        for index, address in self._hops.names().items():
            self._core.set_next_hop(index, around.hops.get(address))

    def _surroundings_changed(self, around: Surroundings) -> None:
        """Follow neighbours at once; interfaces and addresses need a new image and come in their turn."""
        self._set_hops(around)
        self._news = around
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self._loop.create_task(self._refresh(), name="packet-surroundings")

    async def _refresh(self) -> None:
        while (around := self._news) is not None:
            async with self._turn:
                self._news = None
                rows = [entry.row for entry in self._tables.entries.values()]
                try:
                    await self._enter(self._tables, rows, around)
                except (OSError, HostError, LookupError, ValueError) as error:
                    self._emit(Event.DATAPATH_FAILED, datapath="packet", error=str(error))

    def _open_ports(self, links: Mapping[int, Link]) -> list[Port]:
        fresh: list[Port] = []
        try:
            for index, link in links.items():
                known = self._ports.get(index)
                if known is None or known.link != link:
                    fresh.append(Port(link))
        except BaseException:
            for port in fresh:
                port.close()
            raise
        return fresh

    def _attach(self, port: Port) -> None:
        if port.link.index in self._ports:
            self._detach(port.link.index)
        port.attach(self._core)
        self._ports[port.link.index] = port
        self._loop.add_reader(port.fileno(), self._serve, port)

    def _detach(self, index: int) -> None:
        port = self._ports.pop(index)
        self._loop.remove_reader(port.fileno())
        port.close()

    def _serve(self, port: Port) -> None:
        """Take a batch off a ring. The loop calls again while the ring is readable."""
        port.serve(self._core, self._ports, time.monotonic_ns())

    def _announce(self, rows: Iterable[Row], around: Surroundings) -> None:
        """Tell the networks that VIPs are part of where these are now, once."""
        vips = {row.key.address for row in rows} - around.addresses.keys()
        due = {(vip, index) for vip in vips for network, index in around.prefixes if vip in network}
        for vip, index in due - self._announced:
            port = self._ports.get(index)
            if port is not None:
                port.egress.send_one(announcement(vip, port.link.address))
        self._announced = due

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
        swept = self._core.sweep(time.monotonic_ns(), _SWEEP_BUCKETS)
        for reset in swept.resets:
            for index, frame in reset.frames:
                port = self._ports.get(index)
                if port is not None:
                    port.egress.send_one(frame)


def _member_addresses(rows: Iterable[Row]) -> frozenset[Address]:
    return frozenset(member.address for row in rows for member in row.pool.members)


def _has_leftover() -> bool:
    """Return whether a dead instance's guard is there; a living one's does not count."""
    try:
        with take_namespace("packet"):
            return TABLE in Nftables().run("list tables netdev")
    except (HostError, OSError):
        return False


def _remove_table() -> bool:
    """Remove a dead instance's guard; return whether that was possible. A living one's is left alone."""
    try:
        with take_namespace("packet"):
            Nftables().run(NO_TABLE)
            return True
    except (HostError, OSError):
        return False
