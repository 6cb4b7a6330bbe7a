"""What goes into the core and comes out of it, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from asynclb.datapath.base import MemberCounters, RuleCounters
from asynclb.datapath.core.layout import Verdict
from asynclb.net.address import Address
from asynclb.net.drop import Drop

__all__ = [
    "MAX_MEMBERS",
    "MAX_NEXT_HOPS",
    "MAX_RULES",
    "Asked",
    "Batch",
    "CoreCounters",
    "FlowView",
    "NextHop",
    "Reset",
    "Result",
    "Swept",
    "Verdict",
]

MAX_RULES = 8_192
MAX_MEMBERS = 65_536
"""(pool, member, address) at one time, with those who leave."""
MAX_NEXT_HOPS = 65_536


@dataclass(frozen=True, slots=True)
class NextHop:
    """How frames reach a neighbour. `destination` and `source` are link addresses of 6 bytes; `mtu` without them."""

    ifindex: int
    destination: bytes
    source: bytes
    mtu: int = 1500
    resolved: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """One frame's verdict. `released` are held fragments that this frame set free.

    `ifindex` and `frame` are the egress and the rewritten frame for TX, else the ingress and the frame as it came.
    """

    verdict: Verdict
    reason: Drop | None
    ifindex: int
    frame: bytes
    released: "tuple[Result, ...]" = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """Who would get a packet: a member by its id, or nobody, for a reason; `known` by a flow that is there."""

    verdict: Verdict
    reason: Drop | None
    member: int | None
    known: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """What one call of `receive` did.

    Shape: `frames` were taken off the ring; the five counts add up to it plus `released` fragments.
    `dirty` are the egress interfaces whose transmit ring has new frames: kick each with one send().
    `more` says that the budget ended the batch, not the ring.
    """

    frames: int
    passed: int
    dropped: int
    sent: int
    held: int
    dirty: tuple[int, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class FlowView:
    """One entry of the flow table, read while it may change. Units: `created_s` in the clock of `now_ns`.

    `deadline_ms` is when it expires if nothing more comes, in the same clock modulo 2^32.
    """

    client: Address
    client_port: int
    frontend: Address
    frontend_port: int
    protocol: int
    rule: int
    member: int
    state: str
    packets_in: int
    packets_out: int
    bytes_in: int
    bytes_out: int
    created_s: int
    deadline_ms: int
    source: int | None = None
    """The number of the address that a member's own connection leaves from; its client is the member."""
    source_port: int = 0
    broken: bool = False
    """Whether one of its ends reset it."""


@dataclass(frozen=True, slots=True)
class Reset:
    """A TCP flow that idled out under a rule with `tcp_reset`: two frames tell both ends, by ifindex."""

    flow: FlowView
    frames: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Swept:
    """What one call of `sweep` did. `done` says that the whole table has been visited since the last `done`."""

    expired: int
    resets: tuple[Reset, ...]
    done: bool


@dataclass(frozen=True, slots=True)
class CoreCounters:
    """Counters by rule id, by member id, by reason; they only grow, but for `flows`.

    `stateless` packets were balanced without an entry, because the table was full; it has room for `capacity` flows.
    """

    rules: Mapping[int, RuleCounters] = field(default_factory=dict)
    members: Mapping[int, MemberCounters] = field(default_factory=dict)
    drops: Mapping[Drop, int] = field(default_factory=dict)
    flows: int = 0
    capacity: int = 0
    stateless: int = 0
    expired: int = 0
