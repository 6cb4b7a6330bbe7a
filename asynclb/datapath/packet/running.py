"""The packet datapath: frames from receive rings through the native core and out again.

    ring --> core (native, a bounded batch, in place) --> sendmmsg for each egress --> slots back to the kernel
    netlink --> neighbours --> next hops in the core, interfaces attached, guard
    tables --> plan, image --> one pointer swap

Frames are moved by an engine on this event loop, or by one in each of several workers (`crew`). What decides is here:
neighbours, numbers, plan, image, guard, announcements, sockets.

A delta is applied in three steps. Prepare: look at routes and neighbours, build the image in a thread, open sockets on
interfaces that are new, let every engine take both in, put up the guard for the old keys and the new ones together.
Commit: every engine swaps the image. Tidy: narrow the guard, close what is not needed any more. What was prepared is
undone when something fails before the commit.
"""

import asyncio
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress

from asynclb.datapath.ask import LiveVerdict, frame_of, live_verdict
from asynclb.datapath.base import Counters, FlowRecord, Wire
from asynclb.datapath.core.image import build_image
from asynclb.datapath.core.layout import Conn
from asynclb.datapath.core.leaving import Leaving
from asynclb.datapath.core.parting import Ending
from asynclb.datapath.core.plan import ImageCache
from asynclb.datapath.frames.announce import announcement
from asynclb.datapath.frames.departures import Departures
from asynclb.datapath.frames.drained import drained
from asynclb.datapath.frames.lifetimes import Namer, Names
from asynclb.datapath.frames.limits import clashes, own_sources, too_many_interfaces
from asynclb.datapath.frames.neighbours import Neighbours, vanished
from asynclb.datapath.frames.numbers import Numbers, Over, member_addresses
from asynclb.datapath.frames.report import outbound_record_of, record_of, with_snat
from asynclb.datapath.frames.surroundings import Link, Surroundings
from asynclb.datapath.frames.wire import Wiring
from asynclb.datapath.host import take_namespace
from asynclb.datapath.nft import Nftables
from asynclb.datapath.packet.crew import Alone, Crew
from asynclb.datapath.packet.engine import Present
from asynclb.datapath.packet.fanout import Pinning
from asynclb.datapath.packet.gateways import client_gateways
from asynclb.datapath.packet.guard import Guarded, guarded
from asynclb.datapath.packet.lifetimes import FlowNews
from asynclb.datapath.packet.ring import open_sender, send_one
from asynclb.datapath.packet.ruleset import NO_TABLE, keeps_notes, ruleset, watches_egress
from asynclb.datapath.packet.sockets import LinkSockets, open_sockets
from asynclb.datapath.packet.workers import Workers
from asynclb.errors import ApplyError, HostError
from asynclb.events import Emit, Event
from asynclb.net.address import Address
from asynclb.net.flow import Flow
from asynclb.tables.row import Row
from asynclb.tables.tables import EMPTY_TABLES, Tables

_ENDED = Conn.CLOSED.name.lower()


class Running:
    """Engines, sockets and guard while there is something to execute. Owner: the datapath."""

    def __init__(self, emit: Emit, workers: int) -> None:
        """Take the namespace. Raises: HostError -> another instance runs here, or a library is missing."""
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._nft = Nftables()
        self._lock = take_namespace("packet")
        self._pinning = Pinning() if workers > 1 else None
        self._crew: Crew = Workers(workers, emit) if workers > 1 else Alone()
        self._started = False
        self.news = FlowNews(self._crew, self._names)
        self._wiring = Wiring()
        self._present = Present()
        self._numbers = Numbers()
        self._namer = Namer(self._numbers)
        self._gateways: Mapping[int, Address] = {}
        self._images = ImageCache()
        self._tables: Tables = EMPTY_TABLES
        self._lost = 0  # frames that came while a ring was full
        self._guarded: Guarded | None = None
        self._egress = watches_egress(self._nft)
        self._afresh = "" if keeps_notes(self._nft) else f"{NO_TABLE}\n"
        if not self._egress:
            remedy = "members of `nat` rules are reached through them only; Linux 5.16 or later lifts that"
            emit(Event.HOST_LIMIT, what="nftables egress hook", value="missing", remedy=remedy)
        self._announced: set[tuple[Address, int]] = set()
        self._turn = asyncio.Lock()  # tables and surroundings change one after the other
        self._departures = Departures("packet", self._numbers, self, self._turn, emit)
        self._news: Surroundings | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._neighbours = Neighbours(emit, self._surroundings_changed, "packet")

    async def execute(self, tables: Tables) -> None:
        """Prepare, commit, tidy. Raises: OSError, HostError, LookupError, ValueError -> nothing has changed."""
        rows = [entry.row for entry in tables.entries.values()]
        problems = clashes(rows)
        if problems:
            raise ApplyError(problems)
        async with self._departures.turn_for(rows) as leaving:
            if not self._started:
                await self._crew.start()
                self._started = True
            around = await self._look(rows, leaving)
            problems = own_sources(tables.outbound, around.addresses)
            if problems:
                raise ApplyError(problems)
            await self._enter(tables, rows, leaving, around)

    async def _look(self, rows: Iterable[Row], leaving: Leaving) -> Surroundings:
        """Find the members, and the gateways to clients."""
        self._gateways = await asyncio.to_thread(client_gateways)
        return await self._neighbours.want(
            member_addresses((*rows, *leaving.rows)) | frozenset(self._gateways.values())
        )

    def rows(self) -> Collection[Row]:
        """Return the rules in force."""
        return [entry.row for entry in self._tables.entries.values()]

    async def _enter(self, tables: Tables, live: Collection[Row], leaving: Leaving, around: Surroundings) -> None:
        """Prepare, commit, tidy. An interface that vanishes meanwhile is left out: netlink will tell of it, too."""
        while True:
            try:
                return await self._entered(tables, live, leaving, around)
            except OSError:
                gone = vanished(around.links)
                if not gone:
                    raise
                around = around.without(gone)

    async def _entered(self, tables: Tables, live: Collection[Row], leaving: Leaving, around: Surroundings) -> None:
        problems = too_many_interfaces(len(around.links))
        if problems:
            raise ApplyError(problems)
        rows = (*live, *leaving.rows)
        plan = self._numbers.plan(live, leaving, around, self._gateways, tables.outbound)
        image = await asyncio.to_thread(build_image, tables, plan, self._images)
        links = self._open_links(around.links)
        names = ((link.name, link.index) for link in around.links.values())
        wanted = guarded(rows, names, plan.local, tables.outbound)
        both = wanted if self._guarded is None else self._guarded | wanted
        ours = {row.key.address for row in rows} | wanted.members | plan.sources.keys()
        ours.update(member.address for rule in tables.outbound for member in rule.pool.members)
        present = Present(image, self._numbers.reached(around), links)
        try:
            if self._pinning is not None:
                self._pinning.add(ours)
            await self._crew.prepare(present)
            await self._guard(both)
        except BaseException:
            await self._crew.abandon()
            _close_links(links, but=self._present.links)
            raise
        before, self._present, self._tables = self._present, present, tables
        self._numbers.entered(live, leaving, tables.outbound)
        self._departures.entered(leaving)
        try:
            await self._crew.commit()
        finally:
            self._lost += sum(sockets.lost() for sockets in before.links.values())
            _close_links(before.links, but=links)
        if self._pinning is not None:
            self._pinning.keep(ours)
        self._numbers.release_hops(plan.next_hops)
        if self._numbers.has_old_rules(live, leaving):
            self._numbers.release_rules(live, leaving, self._crew.counters(), self._crew.release_ids)
        await self._guard(wanted)
        self._announce(rows, around)

    async def end(self, ending: Ending) -> Mapping[int, int]:
        """Let every engine end these flows."""
        before = self._crew.counters().members
        await self._crew.part(ending)
        self.news.take()  # while what ended has its names
        after = self._crew.counters().members
        return {number: was.flows - (after[number].flows if number in after else 0) for number, was in before.items()}

    async def without(self, leaving: Leaving) -> None:
        """Enter the same tables with these who leave."""
        rows = self.rows()
        await self._enter(self._tables, rows, leaving, await self._look(rows, leaving))

    async def give_back(self, over: Over) -> None:
        """Give back the numbers of members, and of rules that have no flow any more."""
        rows, leaving = self.rows(), self._departures.leaving
        self._numbers.release_members(over, rows, leaving, self._crew.release_ids)
        self.news.take()
        self._numbers.release_rules(rows, leaving, self._crew.counters(), self._crew.release_ids)

    async def _guard(self, wanted: Guarded) -> None:
        """Put the guard up in one transaction, if it is another one. Raises: OSError -> the old one stays."""
        if wanted != self._guarded:
            await asyncio.to_thread(self._nft.run, self._afresh + ruleset(wanted, egress=self._egress))
            self._guarded, self._afresh = wanted, ""

    def counters(self) -> Counters:
        """Return the engines' counters by name."""
        self._lost += sum(sockets.lost() for sockets in self._present.links.values())
        counted, outbound = self._numbers.counters(self._crew.counters(), self._lost), self._tables.outbound
        sources = self._numbers.sources
        marks = self._crew.snat_marks(sources.used) if outbound else bytearray()
        return with_snat(counted, outbound, marks, sources.names())

    def flows(self) -> Iterator[FlowRecord]:
        """Walk through the flow tables."""
        rules = {number: name for number, (name, _) in self._numbers.rules.names().items()}
        members = self._numbers.members.names()
        rows = {row.rule.name: row for row in (*self._departures.leaving.rows, *self.rows())}
        sources = self._numbers.sources.names()
        for pages in self._crew.tables():
            cursor: int | None = 0
            while cursor is not None:
                found, cursor = pages(cursor)
                for flow in found:
                    if flow.source is None:
                        yield record_of(flow, rules, members, rows, time.monotonic())
                    else:
                        yield outbound_record_of(flow, rules, members, sources, time.monotonic())

    def _names(self) -> Names:
        return self._namer.names(self._tables, self._departures.leaving)

    def wire(self) -> Wire:
        """Return who is where now."""
        return self._wiring.wire(self._neighbours.around, self._tables)

    def ask(self, flow: Flow, interface: str | None) -> LiveVerdict | None:
        """Ask who would get a packet that begins a flow."""
        links = {sockets.link.name: index for index, sockets in self._present.links.items()}
        asked = self._crew.ask(frame_of(flow), links.get(interface or "", 0))
        return (
            None
            if asked is None
            else live_verdict(asked.member, asked.reason, asked.known, self._numbers.members.names())
        )

    async def close(self, drain_s: float) -> int:
        """Take no new flows, wait for the open ones, at most `drain_s`; undo everything. Returns how many were left."""
        await self._departures.close()
        left = await self._drain(drain_s) if drain_s and self._started else self._crew.flow_count()
        self._neighbours.close()
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait((self._refreshing,))
        self.news.close()
        await self._crew.close()
        _close_links(self._present.links, but={})
        with suppress(OSError):
            await asyncio.to_thread(self._nft.run, NO_TABLE)
        if self._pinning is not None:
            self._pinning.close()
        self._lock.close()
        return left

    async def _drain(self, drain_s: float) -> int:
        """Take no new flows and wait for those that have not ended; return how many are left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await self._take_no_more()
                while any(flow.state != _ENDED for flow in self.flows()):  # noqa: ASYNC110  nothing hot shall signal it
                    await asyncio.sleep(0.1)
                return 0
        return self._crew.flow_count()

    async def _take_no_more(self) -> None:
        """Let open flows go on, and no others begin; where that fails, they go on beginning until the end."""
        tables, leaving = drained(self._tables), self._departures.leaving
        rows = [entry.row for entry in tables.entries.values()]
        try:
            async with self._turn:
                await self._enter(tables, rows, leaving, await self._look(rows, leaving))
        except (OSError, ApplyError, HostError, LookupError, ValueError) as error:
            self._emit(Event.DATAPATH_FAILED, datapath="packet", error=str(error))

    def _surroundings_changed(self, around: Surroundings) -> None:
        """Follow neighbours at once; interfaces and addresses need a new image and come in their turn."""
        self._crew.set_hops(self._numbers.reached(around))
        self._news = around
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self._loop.create_task(self._refresh(), name="packet-surroundings")

    async def _refresh(self) -> None:
        while (around := self._news) is not None:
            async with self._turn:
                self._news = None
                try:
                    await self._enter(self._tables, self.rows(), self._departures.leaving, around)
                except (OSError, ApplyError, HostError, LookupError, ValueError) as error:
                    self._emit(Event.DATAPATH_FAILED, datapath="packet", error=str(error))

    def _open_links(self, links: Mapping[int, Link]) -> Mapping[int, LinkSockets]:
        """Return the sockets of every interface, opening those that are new. Raises: OSError -> none was opened."""
        found: dict[int, LinkSockets] = {}
        try:
            for index, link in links.items():
                known = self._present.links.get(index)
                if known is not None and known.link == link:
                    found[index] = known
                else:
                    found[index] = open_sockets(link, self._pinning, self._crew.engines)
        except BaseException:
            _close_links(found, but=self._present.links)
            raise
        return found

    def _announce(self, rows: Iterable[Row], around: Surroundings) -> None:
        """Tell the networks that VIPs are part of where these are now, once."""
        sources = {address for rule in self._tables.outbound for address in rule.sources}
        due = around.homes({row.key.address for row in rows} | sources)
        for vip, index in due - self._announced:
            sockets = self._present.links.get(index)
            if sockets is not None:
                with suppress(OSError), open_sender(sockets.link.name) as sender:  # the engines' are theirs
                    send_one(sender, announcement(vip, sockets.link.address))
        self._announced = due


def _close_links(links: Mapping[int, LinkSockets], *, but: Mapping[int, LinkSockets]) -> None:
    for index, sockets in links.items():
        if but.get(index) is not sockets:
            sockets.close()
