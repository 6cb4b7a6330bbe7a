"""What is kept of checks that are over: counts, a histogram per probe, and the last few per target.

5,000 targets are kept track of all the time, so the records are plain arrays: with them a target
takes about 1.2 KiB in all.
"""

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asynclb.health.outcome import OutcomeKind
from asynclb.model import TargetId

DURATION_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the duration buckets: from a round trip inside a rack to twice the default timeout."""

HISTORY = 20
"""Checks remembered per target: what fits on a line of a status page."""

KINDS = tuple(OutcomeKind)


@dataclass(frozen=True, slots=True)
class Check:
    """One check that is over. Units: `started_ns` monotonic."""

    started_ns: int
    duration_s: float
    kind: OutcomeKind


@dataclass(frozen=True, slots=True)
class ProbeResults:
    """What the checks of one probe took, and how many of them started late.

    Shape: `counts[i]` is checks that took at most `DURATION_BOUNDS_S[i]` and more than the bound before it (not
    cumulative); the last one is those above every bound.
    """

    counts: tuple[int, ...]
    sum_s: float
    late: int
    in_flight: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Results:
    """The counters of all checks since each target or probe was first seen.

    Shape: `targets[id][i]` is checks that ended as `KINDS[i]`.
    """

    targets: Mapping[TargetId, Sequence[int]]
    probes: Mapping[str, ProbeResults]


class Histogram:
    """Durations of the checks of one probe. Owner: the prober."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = array("Q", bytes(8 * (len(DURATION_BOUNDS_S) + 1)))
        self.sum_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count one check."""
        self.counts[bisect_left(DURATION_BOUNDS_S, duration_s)] += 1
        self.sum_s += duration_s


class Record:
    """Counts by kind, and the last `HISTORY` checks, of one target. Owner: the prober."""

    __slots__ = ("_codes", "_durations_s", "_started_ns", "counts", "total")

    def __init__(self) -> None:
        self.counts = array("Q", bytes(8 * len(KINDS)))
        self.total = 0
        self._started_ns = array("q", bytes(8 * HISTORY))
        self._durations_s = array("f", bytes(4 * HISTORY))
        self._codes = bytearray(HISTORY)

    def add(self, started_ns: int, duration_s: float, kind: OutcomeKind) -> None:
        """Remember one check in place of the oldest."""
        code, slot = KINDS.index(kind), self.total % HISTORY
        self.counts[code] += 1
        self.total += 1
        self._started_ns[slot], self._durations_s[slot], self._codes[slot] = started_ns, duration_s, code

    def history(self) -> tuple[Check, ...]:
        """Return the checks that are remembered, the oldest first."""
        slots = (i % HISTORY for i in range(max(0, self.total - HISTORY), self.total))
        return tuple(Check(self._started_ns[i], self._durations_s[i], KINDS[self._codes[i]]) for i in slots)
