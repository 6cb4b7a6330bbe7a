"""Targets and transitions: what is checked, and what is told when its state changes."""

from dataclasses import dataclass, replace

from asynclb.model import MemberHealth, Probe, TargetId
from asynclb.net.address import Address


@dataclass(frozen=True, slots=True)
class Target:
    """One member to check through one probe. `address` is the member's own, never a VIP."""

    id: TargetId
    address: Address
    probe: Probe


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of one target's state; `old.state` and `new.state` differ."""

    target: TargetId
    old: MemberHealth
    new: MemberHealth


def same_question(old: Target, new: Target) -> bool:
    """Return whether what is known under `old` holds for `new`.

    How often is asked, how long is waited and how many answers it takes may differ: changing an interval must not
    take every member out until it has been asked again.
    """
    if old.address != new.address:
        return False
    probe = new.probe
    old_probe = replace(
        old.probe,
        interval_s=probe.interval_s,
        timeout_s=probe.timeout_s,
        rise=probe.rise,
        fall=probe.fall,
        max_in_flight=probe.max_in_flight,
    )
    return old_probe == probe
