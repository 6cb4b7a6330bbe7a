"""Targets and transitions: what is checked, and what is told when its state changes."""

from dataclasses import dataclass, fields
from operator import attrgetter

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


_TIMING = {"interval_s", "timeout_s", "rise", "fall", "max_in_flight"}
_question = attrgetter(*(field.name for field in fields(Probe) if field.name not in _TIMING))


def same_question(old: Target, new: Target) -> bool:
    """Return whether what is known under `old` holds for `new`.

    How often is asked, how long is waited and how many answers it takes may differ: changing an interval must not
    take every member out until it has been asked again.
    """
    return old.address == new.address and _question(old.probe) == _question(new.probe)
