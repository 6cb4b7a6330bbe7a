"""Flows that begin and end, as datapaths tell of them where somebody listens.

Laws:
  1. Telling costs the loop no more than keeping a few values: the words are made by the listener, elsewhere and later.
  2. A flow's end is told once, with what it moved. Where a datapath cannot know of an end, it says so (ARCHITECTURE).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable


class End(StrEnum):
    """Why a flow is over."""

    CLOSED = "closed"
    """Both ends said so."""
    RESET = "reset"
    """One end reset it."""
    IDLE = "idle"
    """Nothing came for as long as its rule allows; for an unanswered SYN and UDP the only end there is."""
    DRAINED = "drained"
    """The drain period of its member was over."""
    REMOVED = "removed"
    """Its rule was removed, and the drain period was over."""
    MOVED = "moved"
    """Its next packet went to another member, as its own takes no more."""
    MEMBER_DOWN = "member_down"
    """Its member went down, and its rule leaves no connection with such a one."""
    STOPPED = "stopped"
    """The datapath stopped."""


@dataclass(slots=True)  # not frozen: 16 fields would cost 3 us more, and one is made for each flow that ends
class Lifetime:
    """A flow that begins (`end` is None) or that is over.

    `client` and `frontend_address` are an address and a port, as the client sees them. Sizes are those of the
    datapath's counters.
    Units: `at_s` Unix time of when that was seen; `duration_s` from the first packet to the last.
    """

    at_s: float
    end: End | None
    rule: str
    frontend: str
    frontend_address: str
    pool: str
    member: str
    member_address: str
    client: str
    protocol: str
    bytes_in: int = 0
    packets_in: int = 0
    bytes_out: int = 0
    packets_out: int = 0
    duration_s: float = 0.0
    destination: str = ""
    """Where a member's own connection goes; its client is the member, and `frontend_address` what it leaves from."""


Describe = Callable[[], Iterable[Lifetime]]
"""Makes the words, in any thread."""

Tell = Callable[[int, Describe], None]
"""Take in a number of lifetimes, or throw them away. Never blocks and never raises."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told when flows end, and when they begin; None: nobody."""

    ends: Tell | None = None
    starts: Tell | None = None
    lost: Callable[[int], None] | None = None
    """Is told how many nobody will be told of: they came too fast."""


NOBODY = Listeners()


@runtime_checkable
class Telling(Protocol):
    """A datapath that tells of its flows."""

    def tell_flows(self, listeners: Listeners) -> None:
        """Tell these from here on of flows that begin and end."""
