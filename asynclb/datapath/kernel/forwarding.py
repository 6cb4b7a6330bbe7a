"""What forwards: programs with their tables, next hops, links to interfaces, and the pins that keep them.

New tables come in three steps. Prepare: write the image where no program looks, attach to interfaces that are new.
Commit: one word says which image is current; or, if the tables outgrew their map or the programs are another process'
own, every link gets the new programs, one after the other. Tidy: detach from interfaces that are not needed any more.
What was prepared is undone when something fails before the commit.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping
from functools import partial

from asynclb.datapath.core.values import NextHop
from asynclb.datapath.kernel.attach import Attachments, Hooks
from asynclb.datapath.kernel.footing import Footing
from asynclb.datapath.kernel.hops import Hops
from asynclb.datapath.kernel.host import KernelHost
from asynclb.datapath.kernel.leftovers import CONTROL, PROGRAMS, TAILS, Leftover, tail_names
from asynclb.datapath.kernel.links import LinkMaps
from asynclb.datapath.kernel.pins import Pins
from asynclb.datapath.kernel.programs import Entry, FlowLimits, Programs, capacity_for, grace_period
from asynclb.datapath.kernel.ways import Mode
from asynclb.events import Emit, Event
from asynclb.native.libbpf import LOADING, BpfError

_AT_ONCE = 1 << 20
"""Bytes that the loop copies itself: some 100 us, which a thread takes longer to begin."""


class Forwarding:
    """Owner: `Running`. Changes come one after the other, but for next hops."""

    def __init__(self, host: KernelHost, pins: Pins, emit: Emit, found: Leftover, limits: FlowLimits) -> None:
        self._bpf, self._code, self._pins, self._limits = host.bpf, host.code, pins, limits
        self.state = found.state
        self._tried = host.tried
        self._before = found.programs  # another process' own, until ours are in their place
        self._emit = emit
        self._has_xdp = True
        self._attachments = Attachments(host.bpf, pins, emit)
        self._attachments.adopt()
        self.programs: Programs | None = None
        self._replaced: list[Programs] = []  # which may still run
        self._pinned: frozenset[Entry] = frozenset()  # of `programs`
        self._hops: Hops | None = None
        self._maps: LinkMaps | None = None
        self._targets: frozenset[int] = frozenset()
        self._footing: Footing | None = None
        self._is_watched = False
        self._quiet: asyncio.Task[None] | None = None  # ends when the image before may be written again

    @property
    def modes(self) -> Mapping[int, Mode]:
        """How each interface is attached, by its index."""
        return self._attachments.modes

    def instead(self, index: int) -> str:
        """Return why tc carries what comes by an interface where XDP is wished for, or ''."""
        return self._attachments.instead(index)

    @property
    def is_quiet(self) -> bool:
        """Whether no program can be reading the tables before any more."""
        return self._quiet is None or self._quiet.done()

    async def quiet(self) -> None:
        """Return when no program can be reading the tables before any more."""
        if self._quiet is not None:
            await asyncio.shield(self._quiet)  # it goes on where somebody loses patience with waiting for it

    async def put(self, image: bytes, generation: int, footing: Footing) -> None:
        """Let programs meet these tables. Raises: BpfError, OSError, ValueError -> nothing has changed."""
        programs = self.programs
        if programs is None or len(image) > programs.capacity or self._attachments.is_mixed:
            await self._replace_programs(image, generation, footing)
        else:
            await self._add(programs, self._entries(footing) - programs.entries)
            if programs.entries != self._pinned:
                self._pin(programs)
            await self._replace_image(programs, image, generation, footing)
        self._targets, self._footing = footing.targets, footing

    async def renew(self, image: bytes, generation: int) -> bool:
        """Let programs meet tables that stand on what those in force stand on; or return False, where `put` is to.

        Raises: ValueError -> nothing has changed.
        """
        programs = self.programs
        if programs is None or len(image) > programs.capacity or self._attachments.is_mixed:
            return False
        await self._write(programs, image)
        self._flip(programs, generation)
        return True

    def tidy(self, footing: Footing) -> None:
        """Let go of what these tables do not need. Raises: BpfError."""
        self._attachments.narrow(footing.interfaces)
        self._link_maps().narrow(footing.links, footing.appliances)

    def watch(self, *, begin: bool) -> None:
        """Let all frames take the ways that packet sockets see, or no longer.

        Raises: BpfError -> `begin` is refused, and all is as it was.
        """
        self._is_watched = begin
        if self._footing is None:
            return
        try:
            self._widen(self._footing)
            self._follow_watch(self._footing)
        except BpfError:
            self._is_watched = False
            self._follow_watch(self._footing)
            raise

    def set_hops(self, hops: Mapping[int, NextHop | None]) -> None:
        """Change next hops in place."""
        if self._hops is not None:
            self._hops.set(hops, self._targets)

    def end(self, *, leave: bool) -> None:
        """Detach and remove everything; or leave it to its pins. Nothing may be called afterwards."""
        if self._quiet is not None:
            self._quiet.cancel()
        self._is_watched = False
        if leave:
            if self._footing is not None:
                self._follow_watch(self._footing)
            self._attachments.release()
        else:
            self._attachments.narrow(())
            self._pins.drop_all()
        self._let_go()
        self._drop_programs()
        if self._tried is not None:
            self._tried.close()
        self.state.close()

    async def _replace_image(self, programs: Programs, image: bytes, generation: int, footing: Footing) -> None:
        await self._write(programs, image)
        self._widen(footing)
        self._attachments.widen(_hooks(programs), footing.interfaces)
        self._follow_watch(footing)
        if self._hops is not None:
            self._hops.set(footing.hops, footing.targets)
        self._flip(programs, generation)

    async def _write(self, programs: Programs, image: bytes) -> None:
        await self.quiet()
        if len(image) > _AT_ONCE:
            await asyncio.to_thread(programs.write, image)
        else:
            programs.write(image)

    def _flip(self, programs: Programs, generation: int) -> None:
        programs.flip(generation)
        self._quiet = asyncio.create_task(asyncio.to_thread(grace_period), name="kernel-grace")

    async def _replace_programs(self, image: bytes, generation: int, footing: Footing) -> None:
        """Load programs aside with these tables, and put them in the place of those that forward now.

        From the first interface that has them until this returns nothing is waited for: what looks at `programs`, and
        the next process after a kill -9, finds those that forward.
        """
        await self.quiet()
        fresh = await self._load(capacity_for(len(image)), self._entries(footing))
        hops = Hops(fresh.hops)
        old = tail_names(self._pins)
        try:
            self._pin_tails(fresh)
            await asyncio.to_thread(fresh.write, image)
            fresh.flip(generation)
            hops.set(footing.hops, footing.targets)
            self._widen(footing)
            fresh.stand_aside(self._is_watched)
            before = self._before if self.programs is None else _hooks(self.programs)
            added = self._attachments.widen(_hooks(fresh), footing.interfaces)
            try:
                self._attachments.switch(before, _hooks(fresh))
            except BaseException:
                self._attachments.drop(added)
                raise
        except BaseException:
            hops.close()
            if self._attachments.is_mixed:
                self._replaced.append(fresh)  # goes on with what it has until the next ones replace it
            else:
                fresh.close()
                self._keep_tails(old)
            raise
        if self._hops is not None:
            self._hops.close()
        if self.programs is not None:
            self._replaced.append(self.programs)
        self.programs, self._hops, self._pinned = fresh, hops, frozenset()
        self._quiet = asyncio.create_task(self._retire(), name="kernel-grace")
        self._pin(fresh)
        self._follow_watch(footing)

    async def _retire(self) -> None:
        """Let go of what was replaced, when it does not run any more: until then it needs its tail calls."""
        await asyncio.to_thread(grace_period)
        self._let_go()

    def _entries(self, footing: Footing) -> frozenset[Entry]:
        """Return the programs that interfaces, as they are attached and will be, and questions need."""
        modes = {*self.modes.values(), *(mode for wish in footing.interfaces.values() for mode in wish.ways)}
        has_bare = self._attachments.bare or any(not wish.link.address for wish in footing.interfaces.values())
        needs = {
            Entry.TC: True,
            Entry.BARE: bool(has_bare),
            Entry.XDP: self._has_xdp and any(mode.is_xdp for mode in modes),
            Entry.ASK: True,
        }
        return frozenset(entry for entry, is_needed in needs.items() if is_needed)

    async def _load(self, capacity: int, entries: frozenset[Entry]) -> Programs:
        """Load programs, or begin with what was tried. Raises: BpfError."""
        load = partial(Programs, self._bpf, self._code, self.state, self._limits, capacity, (Entry.TC,))
        programs = self._take_tried(capacity)
        if programs is None:
            programs = await asyncio.to_thread(load)
        try:
            await self._add(programs, entries - programs.entries)
        except BaseException:
            programs.close()
            raise
        return programs

    def _take_tried(self, capacity: int) -> Programs | None:
        """Return what was tried, with its maps, if tables fit and there are no maps with flows yet."""
        tried, self._tried = self._tried, None
        if tried is None:
            return None
        if self.state.maps or capacity > tried.programs.capacity:
            tried.close()
            return None
        self.state.maps.update(tried.state.maps)
        return tried.programs

    async def _add(self, programs: Programs, entries: Iterable[Entry]) -> None:
        """Load programs beside others; where the kernel refuses XDP, tc carries everything. Raises: BpfError."""
        for entry in entries:
            try:
                add = partial(programs.add, self._bpf, self._code, self.state, self._limits, (entry,))
                await asyncio.to_thread(add)
            except BpfError as error:
                if error.call != LOADING or entry is not Entry.XDP:
                    raise
                remedy = "tc carries the traffic of every interface instead; report this with the kernel's version"
                self._emit(Event.HOST_LIMIT, what="XDP", value=error.what, remedy=remedy)
                self._has_xdp = False
                self._attachments.give_up_xdp()

    def _drop_programs(self) -> None:
        if self._hops is not None:
            self._hops.close()
        if self.programs is not None:
            self.programs.close()

    def _pin_tails(self, programs: Programs) -> None:
        """Keep the maps of programs' tail calls, beside those of others. Raises: BpfError.

        Before the programs are attached: the kernel would empty the maps when this process is killed.
        """
        for number, fd in programs.tails.items():
            self._pins.keep(fd, f"{TAILS}{number}")

    def _keep_tails(self, names: Iterable[str]) -> None:
        """Let go of the other maps of tail calls: their programs have ended. One that cannot be removed is told of."""
        for name in tail_names(self._pins) - set(names):
            try:
                self._pins.drop(name)
            except OSError as error:
                remedy = "remove it: it holds the memory of programs that do not run any more, and nothing else"
                self._emit(Event.HOST_LIMIT, what="a pin of replaced programs", value=str(error), remedy=remedy)

    def _pin(self, programs: Programs) -> None:
        self._pin_tails(programs)
        for name, fd in zip(PROGRAMS, (programs.tc, programs.bare, programs.xdp), strict=True):
            if fd >= 0:
                self._pins.keep(fd, name)
            else:
                self._pins.drop(name)
        self._pins.keep(programs.control, CONTROL)
        for name, fd in self.state.maps.items():
            self._pins.keep(fd, f"map-{name}")
        self._pinned = programs.entries

    def _let_go(self) -> None:
        """Close what was replaced, this process' or the one's before: those programs end with their links and pins."""
        while self._replaced:
            self._replaced.pop().close()
        before, self._before = self._before, None
        for fd in () if before is None else (before.tc, before.bare, before.xdp):
            if fd >= 0:
                os.close(fd)
        if self.programs is not None:
            self._keep_tails(f"{TAILS}{number}" for number in self.programs.tails)

    def _widen(self, footing: Footing) -> None:
        maps = self._link_maps()
        maps.widen(footing.links, footing.targets, frozenset() if self._is_watched else footing.peers)
        maps.add_appliances(footing.appliances)

    def _follow_watch(self, footing: Footing) -> None:
        """Have tc stand in for XDP while frames are watched. Raises: BpfError."""
        if self.programs is None:
            return
        if self._is_watched:
            self._attachments.stand_in(_hooks(self.programs), footing.links)
        self.programs.stand_aside(self._is_watched)
        if not self._is_watched:
            self._attachments.stand_down()

    def _link_maps(self) -> LinkMaps:
        self._maps = self._maps or LinkMaps(self._bpf, self.state)
        return self._maps


def _hooks(programs: Programs) -> Hooks:
    return Hooks(programs.tc, programs.bare, programs.xdp)
