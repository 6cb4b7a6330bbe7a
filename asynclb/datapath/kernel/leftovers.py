"""What a process leaves behind when it is killed or told to leave its programs: taken over, or removed."""

import os
import random
from dataclasses import dataclass, field
from functools import partial

from asynclb.datapath.host import take_namespace
from asynclb.datapath.kernel.attach import Attachments, Hooks
from asynclb.datapath.kernel.bpffs import find_bpffs
from asynclb.datapath.kernel.pins import FRESH, HOME, Pins, namespace_cookie
from asynclb.datapath.kernel.programs import STATE_MAPS, State, last_generation, layout_digest, same_shape
from asynclb.datapath.kernel.remembered import NAME, Remembered, recall
from asynclb.datapath.kernel.ways import Mode
from asynclb.errors import HostError
from asynclb.events import Event
from asynclb.native.libbpf import BpfError, Libbpf

CONTROL = "map-control"
PROGRAMS = ("program-tc", "program-bare", "program-xdp")
"""In the order of `Hooks`."""
TAILS = "tails-"
"""Begins the names of the maps of tail calls; behind it is a number, for two generations have theirs for a moment."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """What can be gone on with: nothing of it, if it is of another version; `programs` are those that forward now."""

    state: State
    programs: Hooks | None = None
    remembered: Remembered = field(default_factory=partial(Remembered, 0))
    generation: int = 0

    @property
    def is_foreign(self) -> bool:
        """Whether what forwards now cannot be gone on with."""
        return self.programs is not None and not self.state.maps


def is_forwarding(pins: Pins) -> bool:
    """Return whether there is something to take over or to remove; programs may be there that were never attached."""
    return any(name.startswith(("link-", TAILS)) for name in pins.names())


def tail_names(pins: Pins) -> frozenset[str]:
    """Return the names of the maps of tail calls, and those that somebody died with who was about to give them."""
    return frozenset(name for name in pins.names() if name.removeprefix(FRESH).startswith(TAILS))


def find_leftover(bpf: Libbpf, pins: Pins, code: bytes) -> Leftover:
    """Return what is pinned. Maps of another layout are left out: programs over fresh ones replace the old programs."""
    programs = _programs(pins)
    remembered = _recall(bpf, pins)
    if remembered is None or remembered.layout != layout_digest():
        return Leftover(State({}), programs)
    state = State({})
    try:
        for name in STATE_MAPS:
            state.maps[name] = pins.open(f"map-{name}")
        fits = same_shape(bpf, code, state.maps)
    except BpfError:
        fits = False
    if not fits:
        state.close()
        return Leftover(State({}), programs)
    return Leftover(state, programs, remembered, _generation(bpf, pins))


def detach(bpf: Libbpf, pins: Pins) -> tuple[str, ...]:
    """Take programs off every interface and remove every pin; return the names of what there was."""
    names = pins.names()
    attachments = Attachments(bpf, pins, _nobody)
    attachments.adopt()
    attachments.narrow(())
    pins.drop_all()
    return names


def remove_dead(bpf: Libbpf, pins: Pins) -> None:
    """Remove what namespaces that are gone left: their links lead nowhere, and their maps hold memory all the same."""
    for others in pins.others():
        if not others.hold():
            continue  # its process lives
        try:
            links = [name for name in others.names() if name.startswith("link-")]
            if is_forwarding(others) and not any(_is_attached(bpf, others, name) for name in links):
                others.drop_all()
        finally:
            others.release()


def _is_attached(bpf: Libbpf, pins: Pins, name: str) -> bool:
    try:
        fd = pins.open(name)
    except BpfError:
        return True  # somebody is at it just now
    try:
        return name.endswith(Mode.CLSACT) or bpf.link_info(fd).ifindex != 0
    except BpfError:
        return True
    finally:
        os.close(fd)


def detach_here() -> tuple[str, ...]:
    """Do so in the calling thread's network namespace. Raises: HostError -> an instance runs here, or may not be."""
    try:
        bpf, cookie = Libbpf(), namespace_cookie()
        pins = Pins(bpf, find_bpffs(f"{HOME}/{cookie}"), cookie)
        with take_namespace("kernel"):
            return detach(bpf, pins)
    except BpfError as error:
        raise HostError(str(error)) from error


def _nobody(_event: Event, /, **_fields: object) -> None:
    """Nothing that is told while things are removed is news."""


def _recall(bpf: Libbpf, pins: Pins) -> Remembered | None:
    try:
        fd = pins.open(NAME)
    except BpfError:
        return None
    try:
        return recall(bpf, fd)
    except (BpfError, ValueError):
        return None
    finally:
        os.close(fd)


def _generation(bpf: Libbpf, pins: Pins) -> int:
    try:
        control = pins.open(CONTROL)
    except BpfError:
        return random.getrandbits(16)  # any but the flows' own
    try:
        return last_generation(bpf, control)
    finally:
        os.close(control)


def _programs(pins: Pins) -> Hooks | None:
    """Return what is pinned of the programs, -1 for those that were not needed; None without the one for tc."""
    found = []
    for name in PROGRAMS:
        try:
            found.append(pins.open(name))
        except BpfError:
            found.append(-1)
    hooks = Hooks(*found)
    return None if hooks.tc < 0 else hooks
