"""When checks start: each target has a phase of its own on a fixed grid, and small jitter around it.

Laws:
  1. The phase depends only on the target's name and the interval: targets are spread over the interval, and a
     restart or a reload does not move them against each other.
  2. Jitter moves a check, never the grid: there is no drift, and no two nodes stay in step.
  3. A tick that was missed by more than half an interval is gone. After a stall nothing is made up in a burst.
  4. A new target is checked within `FIRST_WITHIN_NS`, ahead of its grid, so that start-up does not take an interval.

Units: everything here is monotonic nanoseconds.
"""

import heapq
from hashlib import blake2b
from typing import Generic, TypeVar

from asynclb.model import TargetId

Item = TypeVar("Item")

FIRST_WITHIN_NS = 1_000_000_000
JITTER = 0.05
"""Share of the interval by which a check may start early or late: enough to break up resonance between probers
and members, little enough that `interval x threshold` stays true as an operator's estimate."""


def place_of(target: TargetId) -> int:
    """Return a target's place among all targets, as a fraction of 2^64: the same on every run, and even over them."""
    return int.from_bytes(blake2b("\0".join(target).encode(), digest_size=8).digest(), "big")


def spread(place: int, span_ns: int) -> int:
    """Return where in a span a place lies."""
    return place * span_ns >> 64


def first_start(place: int, now_ns: int, interval_ns: int) -> int:
    """Return when a new target is checked for the first time."""
    return now_ns + spread(place, min(interval_ns, FIRST_WITHIN_NS))


def grid_after(now_ns: int, phase_ns: int, interval_ns: int) -> int:
    """Return the first instant after `now_ns` that lies on the grid of `phase_ns`."""
    return now_ns + 1 + (phase_ns - now_ns - 1) % interval_ns


def following(grid_ns: int, now_ns: int, interval_ns: int) -> int:
    """Return the grid instant after the one that was just served, skipping what was missed for good."""
    planned = grid_ns + interval_ns
    if now_ns - planned <= interval_ns // 2:
        return planned
    return grid_after(now_ns, grid_ns % interval_ns, interval_ns)


def start_at(grid_ns: int, now_ns: int, interval_ns: int, chance: float) -> int:
    """Return when to start the check of a grid instant; `chance` in [0, 1) chooses the jitter."""
    return max(now_ns, grid_ns + int((2 * chance - 1) * JITTER * interval_ns))


class Schedule(Generic[Item]):
    """A queue of what is due when. Cost: O(log n) for each item. Owner: the prober."""

    __slots__ = ("_heap", "_pushed")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Item]] = []
        self._pushed = 0

    def push(self, due_ns: int, item: Item) -> None:
        """Plan an item; among those due at the same instant the first pushed comes first."""
        self._pushed += 1
        heapq.heappush(self._heap, (due_ns, self._pushed, item))

    def pop_due(self, now_ns: int, limit: int) -> list[Item]:
        """Take at most `limit` items that are due, the most overdue first."""
        due: list[Item] = []
        while self._heap and self._heap[0][0] <= now_ns and len(due) < limit:
            due.append(heapq.heappop(self._heap)[2])
        return due

    @property
    def next_ns(self) -> int | None:
        """When the next item is due; None when there is none."""
        return self._heap[0][0] if self._heap else None
