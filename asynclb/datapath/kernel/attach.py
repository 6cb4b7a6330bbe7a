"""Where programs are attached: a link for each interface, pinned, so that it outlives the process.

Both tc ways live beside other programs of the host: ours comes last and hands on what is not its own. XDP has one place
on each interface; where somebody else has it, ours is attached to tc, and that is told.

Where XDP is attached, tc can stand in for it while packet sockets are to see frames: it is attached besides, and XDP is
told to leave frames to it. XDP stays where it is, because devices lose frames when it comes or goes.

Laws:
  1. While programs are replaced an interface has the old one or the new one, and the old one when that fails.
  2. What somebody else attached is never replaced or removed.
  3. Who stands in is pinned as well: after kill -9 in the midst of a capture both go on.
"""

import errno
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from asynclb.datapath.frames.surroundings import Link
from asynclb.datapath.kernel.pins import Pins
from asynclb.datapath.kernel.ways import BY_TC, Instead, Mode, Wanted
from asynclb.events import Emit, Event
from asynclb.native.libbpf import Attach, BpfError, Libbpf, XdpMode

_HANDLE = 0xA51B
_PRIORITY = 0xA51B
_NOT_THIS_WAY = frozenset(
    {errno.EOPNOTSUPP, errno.EINVAL, errno.EBUSY, errno.EEXIST, errno.ERANGE, errno.E2BIG, errno.ENOSPC}
)
"""ERANGE and ENOSPC are a veth's: its other end has too large an MTU, or more queues than it has itself."""
_REASONS = {
    errno.EOPNOTSUPP: "it has none, or not with these settings",
    errno.ERANGE: "the MTU, of the other end of a veth, is too large",
    errno.ENOSPC: "it has fewer queues than the other end",
}
_GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ENOLINK, errno.ENXIO})


@dataclass(frozen=True, slots=True)
class Hooks:
    """Descriptors of one generation's programs, by where they are attached; -1 for those that nothing needs."""

    tc: int
    bare: int
    """tc, where frames have no link header."""
    xdp: int


@dataclass(frozen=True, slots=True)
class _Attached:
    index: int
    name: str
    mode: Mode
    fd: int
    """The link, or -1 where a filter has none."""

    @property
    def pin(self) -> str:
        return f"link-{self.index}-{self.mode}"


def _taken(name: str, refused: BpfError) -> Instead:
    mend = f"`bpftool net show dev {name}` shows whose program is there; detach that and start again"
    return Instead(refused.what, f"tc carries its traffic instead; {mend}, or set `attach: tc`")


def _in_the_stack(refused: BpfError) -> Instead:
    mend = "`asynclb doctor CONFIG` says what is in the way there; or set `attach: tc`"
    number = refused.errno or 0
    why = _REASONS.get(number, os.strerror(number).lower())
    return Instead(f"its driver refuses it: {why}", f"it runs in the kernel's stack instead; {mend}")


class Attachments:
    """Every interface that programs are attached to. Owner: the datapath."""

    def __init__(self, bpf: Libbpf, pins: Pins, emit: Emit) -> None:
        self._bpf = bpf
        self._pins = pins
        self._emit = emit
        self._attached: dict[int, _Attached] = {}
        self._bare: set[int] = set()
        """Interfaces whose frames have no link header."""
        self._standing_in: dict[int, _Attached] = {}
        self._without_xdp: dict[int, Instead] = {}
        """Interfaces that refused XDP to this process: they are not asked again."""
        self._in_stack: dict[int, Instead] = {}
        """Interfaces whose driver refused XDP, and that have it in the kernel's stack."""
        self._wishes: dict[int, Wanted] = {}
        self._has_xdp = True
        self.is_mixed = False
        """Whether some interfaces kept programs that were to replace others, when that failed elsewhere."""

    @property
    def modes(self) -> Mapping[int, Mode]:
        """How each interface is attached, by its index."""
        return {index: attached.mode for index, attached in self._attached.items()}

    @property
    def bare(self) -> Collection[int]:
        """The interfaces that are attached to and whose frames have no link header."""
        return self._bare & self._attached.keys()

    def instead(self, index: int) -> str:
        """Return why what comes by an interface is not seen by its driver, where XDP is wished for, or ''."""
        wish, attached = self._wishes.get(index), self._attached.get(index)
        if wish is None or attached is None:
            return ""
        if attached.mode.is_xdp:
            found = self._in_stack.get(index)
            return found.why if found is not None else ""
        found = wish.instead or self._without_xdp.get(index)
        if found is not None:
            return found.why
        return "is refused by this kernel's verifier" if wish.ways[0].is_xdp else ""

    def give_up_xdp(self) -> None:
        """Attach to tc only from here on: this kernel does not take the XDP program."""
        self._has_xdp = False

    def adopt(self) -> None:
        """Take over the links that a process before this one left; those of interfaces that are gone are forgotten."""
        for name in self._pins.names():
            kind, _, rest = name.partition("-")
            index, _, mode = rest.partition("-")
            if kind != "link":
                continue
            fd = self._pins.open(name)
            if mode == Mode.CLSACT:
                os.close(fd)  # the pin is of the program: a filter has nothing of its own that could be
                fd = -1
            elif not self._bpf.link_info(fd).ifindex:
                os.close(fd)
                self._pins.drop(name)
                continue
            self._adopt(_Attached(int(index), "", Mode(mode), fd))

    def widen(self, programs: Hooks, interfaces: Mapping[int, Wanted]) -> list[int]:
        """Attach to the interfaces that have none yet, and return those.

        Raises: BpfError -> one refused in every way; those before it are detached again.
        """
        fresh: list[int] = []
        try:
            self._bare.difference_update(interfaces)
            self._bare.update(index for index, wish in interfaces.items() if not wish.link.address)
            for index, wish in interfaces.items():
                self._take_note(wish)
                known = self._attached.get(index)
                if known is not None and known.mode in self._ways(wish):
                    continue
                if known is not None:
                    self.drop((index,))
                if (made := self._attach(programs, wish)) is not None:
                    self._emit(Event.DATAPATH_ATTACHED, datapath="kernel", interface=made.name, mode=str(made.mode))
                    self._attached[index] = made
                    fresh.append(index)
        except BaseException:
            self.drop(fresh)
            raise
        return fresh

    def switch(self, old: Hooks | None, new: Hooks) -> None:
        """Put new programs in the place of the old ones, interface by interface.

        Raises: BpfError -> one refused; those before it have the old programs again, if there are any, and if they do
        not refuse them: see `is_mixed`.
        """
        done: list[_Attached] = []
        try:
            for attached in (*self._attached.values(), *self._standing_in.values()):
                self._replace(attached, new)
                done.append(attached)
        except BaseException:
            kept = [attached for attached in done if old is not None and not self._gives_back(attached, old)]
            self.is_mixed = bool(kept)
            raise
        self.is_mixed = False

    def narrow(self, keep: Collection[int]) -> None:
        """Detach from every interface that is not to be kept."""
        self.drop(self._attached.keys() - set(keep))

    def stand_in(self, programs: Hooks, links: Mapping[int, Link]) -> None:
        """Attach tc besides, wherever XDP is attached. Raises: BpfError -> not everywhere; see `stand_down`."""
        for index, attached in self._attached.items():
            if attached.mode.is_xdp and index not in self._standing_in and index in links:
                made = self._attach(programs, Wanted(links[index], BY_TC))
                if made is not None:
                    self._standing_in[index] = made

    def stand_down(self) -> None:
        """Take off what stands in for XDP."""
        for attached in tuple(self._standing_in.values()):
            self._detach(attached)

    def drop(self, indexes: Iterable[int]) -> None:
        """Detach from these interfaces."""
        for index in tuple(indexes):
            for attached in (self._standing_in.get(index), self._attached.get(index)):
                if attached is not None:
                    self._detach(attached)

    def release(self) -> None:
        """Let go of the links and leave them to their pins."""
        for attached in (*self._attached.values(), *self._standing_in.values()):
            if attached.fd >= 0:
                os.close(attached.fd)
        self._attached.clear()
        self._standing_in.clear()

    def _adopt(self, found: _Attached) -> None:
        """Take over a link; of two at one interface, tc's stands in."""
        other = self._attached.get(found.index)
        if other is None or found.mode.is_xdp:
            self._attached[found.index] = found
        stands_in = other if found.mode.is_xdp else found
        if other is not None and stands_in is not None:
            self._standing_in[found.index] = stands_in

    def _attach(self, programs: Hooks, wish: Wanted) -> _Attached | None:
        """Attach in the first way that works; None when the interface is gone. Raises: BpfError -> none does."""
        refused: BpfError | None = None
        for mode in dict.fromkeys((*self._ways(wish), *BY_TC)):
            try:
                made = self._attach_by(programs, wish.link, mode)
            except BpfError as error:
                if error.errno in _GONE:
                    return None
                if error.errno not in _NOT_THIS_WAY:
                    raise
                refused = refused or error
                continue
            if refused is not None:
                self._settle(wish, mode, refused)
            return made
        raise refused or BpfError("attach", errno.EINVAL)

    def _settle(self, wish: Wanted, mode: Mode, refused: BpfError) -> None:
        """Remember and tell that an interface got less than XDP in its driver."""
        if mode not in self._ways(wish):
            found, kept = _taken(wish.link.name, refused), self._without_xdp
        elif mode is Mode.XDP_GENERIC:
            found, kept = _in_the_stack(refused), self._in_stack
        else:
            return
        kept[wish.link.index] = found
        self._tell(wish.link.name, found)

    def _ways(self, wish: Wanted) -> tuple[Mode, ...]:
        """Return how an interface may stay attached."""
        if not self._has_xdp:
            return BY_TC
        return (*wish.ways, *BY_TC) if wish.link.index in self._without_xdp else wish.ways

    def _take_note(self, wish: Wanted) -> None:
        """Remember what is wished for an interface; what stands against it is told once."""
        before = self._wishes.get(wish.link.index)
        self._wishes[wish.link.index] = wish
        if wish.instead is not None and (before is None or before.instead != wish.instead):
            self._tell(wish.link.name, wish.instead)

    def _tell(self, name: str, instead: Instead) -> None:
        self._emit(Event.HOST_LIMIT, what=f"XDP on {name}", value=instead.why, remedy=instead.remedy)

    def _attach_by(self, programs: Hooks, link: Link, mode: Mode) -> _Attached:
        program = self._program(programs, link.index, mode)
        if mode is Mode.CLSACT:
            self._bpf.tc_attach(link.index, program, _HANDLE, _PRIORITY)
            made = _Attached(link.index, link.name, mode, -1)
            self._pins.keep(program, made.pin)
            return made
        if mode is Mode.TCX:
            fd = self._bpf.create_link(program, link.index, Attach.TCX_INGRESS)
        else:
            flags = XdpMode.NATIVE if mode is Mode.XDP else XdpMode.GENERIC
            fd = self._bpf.create_link(program, link.index, Attach.XDP, flags)
        made = _Attached(link.index, link.name, mode, fd)
        try:
            self._pins.keep(fd, made.pin)
        except BaseException:
            os.close(fd)
            raise
        return made

    def _program(self, programs: Hooks, index: int, mode: Mode) -> int:
        if mode.is_xdp:
            return programs.xdp
        return programs.bare if index in self._bare else programs.tc

    def _replace(self, attached: _Attached, programs: Hooks) -> None:
        program = self._program(programs, attached.index, attached.mode)
        try:
            if attached.mode is Mode.CLSACT:
                self._bpf.tc_attach(attached.index, program, _HANDLE, _PRIORITY)
                self._pins.keep(program, attached.pin)
            else:
                self._bpf.update_link(attached.fd, program)
        except BpfError as error:
            if error.errno not in _GONE:
                raise
            self._detach(attached)

    def _gives_back(self, attached: _Attached, old: Hooks) -> bool:
        """Put the old programs in their place again; return whether that was possible."""
        try:
            self._replace(attached, old)
        except BpfError:
            return False
        return True

    def _detach(self, attached: _Attached) -> None:
        for place in (self._attached, self._standing_in):
            if place.get(attached.index) is attached:
                del place[attached.index]
        self._without_xdp.pop(attached.index, None)
        self._in_stack.pop(attached.index, None)
        if attached.mode is Mode.CLSACT:
            self._bpf.tc_detach(attached.index, _HANDLE, _PRIORITY)
        else:
            with suppress(BpfError):  # the interface is gone, and the link's end with it
                self._bpf.detach_link(attached.fd)
            os.close(attached.fd)
        self._pins.drop(attached.pin)
