"""Flows that begin and end, as datapaths tell of them where somebody listens.

Laws:
  1. Telling costs the loop no more than keeping a few values: the words are made by the listener, elsewhere and later.
  2. A flow's end is told once, with what it moved. Where a datapath cannot know of an end, it says so (ARCHITECTURE).
  3. Which flows are told of, where not all are, depends on their ends alone: the same ones begin and end, and what is
     told at a coarser rate is part of what is told at a finer one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable
from zlib import crc32

_SPACE = 1 << 32


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
    """Its rule was removed, and the drain period was over; or, where only TCP has one, its rule or its member was."""
    MOVED = "moved"
    """Its next packet went to another member, as its own takes no more."""
    MEMBER_DOWN = "member_down"
    """Its member went down, and its rule leaves no connection with such a one."""
    STOPPED = "stopped"
    """The datapath stopped."""


@dataclass(frozen=True, slots=True, eq=False)  # told apart by who they are: words are kept by place, and that is quick
class Place:
    """Where flows go that have this in common; `frontend_address` is an address and a port, as clients see it."""

    rule: str
    frontend: str
    frontend_address: str
    pool: str
    member: str
    member_address: str
    protocol: str


@dataclass(slots=True)  # not frozen: that would cost 2 us more, and one is made for each flow that ends
class Lifetime:
    """A flow that begins (`end` is None) or that is over.

    `client` is an address and a port. Sizes are those of the datapath's counters.
    Units: `at_s` Unix time of when that was seen; `duration_s` from the first packet to the last.
    """

    at_s: float
    end: End | None
    place: Place
    client: str
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
    sample: int = 1
    """Of how many flows one is told of; others must not be."""


def is_told(sample: int, name: bytes, number: int = 0) -> bool:
    """Return whether a flow is one of those that are told of. Cost: 0.2 us."""
    return sample == 1 or crc32(name, number) * sample < _SPACE


@dataclass(frozen=True, slots=True)
class TellingCost:
    """What telling costs a datapath at most, besides the words. Units: seconds of processor time for each flow."""

    told_s: float
    passed_over_s: float
    """Of a flow that is not one of the sample."""


NOBODY = Listeners()


@runtime_checkable
class Telling(Protocol):
    """A datapath that tells of its flows."""

    @property
    def telling_cost(self) -> TellingCost:
        """What it costs. tests/bench/flowlog_bench.py shows what the log takes in all."""

    def tell_flows(self, listeners: Listeners) -> None:
        """Tell these from here on of flows that begin and end."""
