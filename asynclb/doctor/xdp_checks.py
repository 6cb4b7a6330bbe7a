"""What `attach: xdp` meets on interfaces: whether their drivers run it, and whether frames get out of it whole. Pure.

On a veth three things of the other end matter. Its MTU and its queues: this end's driver refuses XDP where they are too
large and too many. Its GRO: without it (or XDP of its own) it has no ring that XDP can put frames into. Its checksums:
XDP passes frames on without the note that a device is yet to complete them, so that whoever gets them drops them.
"""

from collections.abc import Iterator, Sequence

from asynclb.doctor.cables import Cable
from asynclb.doctor.facts import Facts, Interface
from asynclb.doctor.finding import Finding, Level
from asynclb.doctor.wants import Wants

_NOT_FOR_FRAMES = 590
"""Bytes of a page that veth's driver needs besides a frame's payload: 256 of headroom, 320 behind it, 14 of header."""


def check_xdp(interface: Interface, used: Sequence[Interface], facts: Facts, wants: Wants) -> Iterator[Finding]:
    """Yield what is wrong with an interface that XDP is attached to, or sends to. `used` are all of these."""
    if not wants.xdp or interface.bare:
        return
    wished = interface.name in wants.xdp
    if wished and (refused := _refused(interface, facts, wants)) is not None:
        yield refused
        return
    if interface.kind == "veth":
        yield from _veth(interface, used, wished=wished)
    elif interface.target is False:
        what = f"XDP cannot send to it (its driver takes no frames of XDP's): {_DETOUR}"
        yield Finding(Level.WARN, interface.name, what, _by_tc(wants, wants.xdp))


_DETOUR = "the host's own routing does, and rules with floating IP or next hops are left to tc"


def _refused(interface: Interface, facts: Facts, wants: Wants) -> Finding | None:
    """Return why an interface's driver does not run XDP, if that can be told."""
    name, end, room = interface.name, interface.cable, facts.page_bytes - _NOT_FOR_FRAMES
    stack = "XDP runs in the kernel's stack instead, where it gains little over tc"
    if end is not None and end.mtu > room:
        what = f"its other end ({end.name}) has MTU {end.mtu:,}, and the driver's XDP takes {room:,} at most: {stack}"
        mend = f"{_there(end)}ip link set dev {end.name} mtu {min(room, interface.mtu)}"
        own = f" && sudo ip link set dev {name} mtu {room}" if interface.mtu > room else ""
        return Finding(Level.WARN, name, what, mend + own)
    if end is not None and end.queues > interface.queues:
        what = f"its other end ({end.name}) sends by {end.queues} queues and it receives by {interface.queues}: {stack}"
        return Finding(Level.WARN, name, what, f"{_there(end)}ethtool -L {end.name} tx {interface.queues}")
    if interface.native is False:
        kind = f" ({interface.kind})" if interface.kind else ""
        return Finding(Level.WARN, name, f"its driver{kind} has no XDP: {stack}", _by_tc(wants, {name}))
    return None


def _veth(interface: Interface, used: Sequence[Interface], *, wished: bool) -> Iterator[Finding]:
    name, end = interface.name, interface.cable
    shut = interface.target is False or (interface.target is None and end is not None and not end.gro)
    if end is None:
        if wished or shut:
            what = "its other end cannot be looked at (a namespace of others): with its usual offloads XDP loses frames"
            mend = (
                "sudo ethtool -K OTHER_END tx off gro on   # in its network namespace; as root this command looks there"
            )
            yield Finding(Level.WARN, name, what, mend)
        return
    partial = wished and end.tx_checksums
    switches = [word for word, needed in (("tx off", partial), ("gro on", shut)) if needed]
    mend = f"{_there(end)}ethtool -K {end.name} {' '.join(switches)}"
    if partial:
        level = Level.FAIL if any(_open(one) for one in used) else Level.WARN
        what = f"its other end ({end.name}) leaves checksums to the device: what XDP sends on arrives broken"
        yield Finding(level, name, what, mend)
    if shut:
        what = f"XDP cannot send to it, as its other end ({end.name}) has neither GRO nor XDP: {_DETOUR}"
        yield Finding(Level.WARN, name, what, mend)


def _open(interface: Interface) -> bool:
    """Return whether XDP sends to an interface, as far as is known."""
    return bool(interface.target) or (interface.target is None and interface.cable is not None and interface.cable.gro)


def _there(end: Cable) -> str:
    """Return what begins a command at the other end."""
    return f"sudo nsenter --net={end.namespace} " if end.namespace else "sudo "


def _by_tc(wants: Wants, names: frozenset[str] | set[str]) -> str:
    listed = ", ".join(f"{name}: {{attach: tc}}" for name in sorted(names))
    return f"interfaces: {{{listed}}}   # in {wants.source}"
