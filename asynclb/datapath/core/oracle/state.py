"""What the oracle keeps, and what one packet finds of it."""

from dataclasses import dataclass

from asynclb.datapath.core.layout import CONSTANTS, REMEMBERED, Conn, Event
from asynclb.model import Member
from asynclb.net.address import Address
from asynclb.net.flow import Flow, Protocol
from asynclb.tables.row import Row
from asynclb.tables.tables import Entry

Key = tuple[Flow, int]
"""A flow and whether its ends are in order (symmetric), or OUTBOUND: a member's own connection."""
OUTBOUND = 2
Target = tuple[str, Member]
"""A member and the pool that it is in."""


@dataclass(slots=True)
class State:
    """An entry of the flow table."""

    target: Target
    rule: str
    generation: int
    target_port: int
    swapped: bool
    state: Conn = Conn.NONE
    deadline_ms: int = 0
    ifindex: int = 0
    link: bytes = b""
    hairpin_port: int = 0
    over: bool = False
    reset: bool = False
    client: Flow | None = None
    """For the way back of a hairpin, or of a member's own connection: the flow that it belongs to."""
    source: Address | None = None
    """The address that a member's own connection leaves from, by the port in `hairpin_port`."""

    def is_late(self, now_ms: int) -> bool:
        """Return whether the flow is past its deadline."""
        return now_ms >= self.deadline_ms

    def is_remembered(self, now_ms: int) -> bool:
        """Return whether a flow past its deadline was a connection, whose ends may believe that it goes on."""
        remembered = self.state in REMEMBERED and self.source is None  # a port of a member's own is free at once
        return remembered and now_ms < self.deadline_ms + CONSTANTS["EXPIRED_MS"]


@dataclass(slots=True)
class Passage:
    """A flow as one packet meets it."""

    entry: Entry
    key: Key
    swapped: bool = False
    outward: bool = False
    state: State | None = None
    target: Target | None = None
    target_port: int = 0
    fresh: bool = False
    event: Event = Event.OTHER
    late: bool = False


def turned(flow: Flow) -> Flow:
    """Return the other direction of a flow."""
    return Flow(flow.destination, flow.destination_port, flow.source, flow.source_port, flow.protocol)


def backend_port(row: Row) -> int:
    """Return the port that a rule translates to; 0 keeps the client's."""
    return 0 if row.key.protocol is Protocol.ALL else row.rule.backend_port


def idle_ms(row: Row) -> int:
    """Return a rule's idle timeout."""
    return min(round(row.rule.idle_timeout_s * 1000), 0x7FFF_FFFF)


def timeout_ms(state: Conn, idle: int) -> int:
    """Return how long a flow may be silent."""
    most = {Conn.CLOSED: CONSTANTS["CLOSED_MS"], Conn.SYN: CONSTANTS["SYN_MS"]}.get(state, idle)
    return min(most, idle)
