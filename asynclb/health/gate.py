"""The bound on checks in flight for one probe: those over it wait their turn, and lateness is told once an episode.

An episode of starvation begins when a check starts more than half its interval late, and ends when one starts
in time while none waits.
"""

from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Gate(Generic[Item]):
    """Admits at most `limit` checks at a time, in order of arrival. Owner: the prober."""

    __slots__ = ("in_flight", "late", "limit", "starved", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        self.late = 0
        self.starved = False
        self.waiting: deque[Item] = deque()

    def admit(self, item: Item) -> bool:
        """Take a place for the item, or let it wait in line; an admitted item must `leave`."""
        if self.in_flight < self.limit and not self.waiting:
            self.in_flight += 1
            return True
        self.waiting.append(item)
        return False

    def leave(self) -> None:
        """Give a place back."""
        self.in_flight -= 1

    def next(self) -> Item | None:
        """Admit the item that has waited longest, if there is a place for it."""
        if not self.waiting or self.in_flight >= self.limit:
            return None
        self.in_flight += 1
        return self.waiting.popleft()

    def started(self, late_ns: int, interval_ns: int) -> bool:
        """Note how late a check starts; return whether an episode of starvation begins with it."""
        if late_ns > interval_ns // 2:
            self.late += 1
            begins, self.starved = not self.starved, True
            return begins
        if not self.waiting:
            self.starved = False
        return False
