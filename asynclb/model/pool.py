"""Backend pools and their members."""

from dataclasses import dataclass
from enum import StrEnum

from asynclb.model.discovery import MembersFrom
from asynclb.net.address import Address


class AdminState(StrEnum):
    """What the operator says of a member; it overrides the probe in every rule of the pool that has one."""

    NONE = "none"
    """The probe decides."""
    UP = "up"
    """Always eligible."""
    DOWN = "down"
    """No new flows; TCP connections go on, UDP sessions move to another member."""
    DRAIN = "drain"
    """No new flows; everything that is open goes on for the pool's drain period and is then reset."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a pool. `weight` 0 takes no new flows.

    `priority`: 0 is active; members of a higher number stand by until no member of a lower one is eligible.
    """

    name: str
    address: Address
    weight: int = 1
    admin_state: AdminState = AdminState.NONE
    zone: str | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class BackendPool:
    """A set of members. `drain_period_s` is how long flows of a removed or draining member may go on.

    `members` are the configuration's, and behind them those that the source `members_from` has told of.
    """

    name: str
    members: tuple[Member, ...]
    drain_period_s: float = 300.0
    members_from: MembersFrom | None = None
