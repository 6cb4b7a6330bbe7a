"""A timer wheel: when to look at each flow again. Pure: it is told the time and answers who is due.

Idle timeouts move at every packet, so nothing is rescheduled when a flow is active. The wheel holds one mark
per flow; a flow that is found active when its mark comes up is marked again for later.

Cost: add, move and remove are a set operation each; advancing is linear in the ticks passed and items due.
"""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Wheel(Generic[Item]):
    """Marks on a circle of ticks without end. Owner: the reactor.

    Units: ticks of `tick_s` seconds on the monotonic clock; an item is due at the first tick not before its time.
    """

    def __init__(self, tick_s: float, now_s: float) -> None:
        self.tick_s = tick_s
        self._slots: dict[int, set[Item]] = {}
        self._next = int(now_s / tick_s) + 1

    def add(self, item: Item, due_s: float) -> int:
        """Mark an item and return its tick, which `remove` wants back."""
        tick = max(self._next, int(due_s / self.tick_s) + 1)
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = set()
        slot.add(item)
        return tick

    def remove(self, item: Item, tick: int) -> None:
        """Take a mark off; nothing happens when it has come up already."""
        slot = self._slots.get(tick)
        if slot is None:
            return
        slot.discard(item)
        if not slot:
            del self._slots[tick]

    def due(self, now_s: float) -> Iterator[Item]:
        """Take off and yield everything that is due; items may be added and removed while iterating."""
        last = int(now_s / self.tick_s)
        while self._next <= last:
            while slot := self._slots.get(self._next):  # looked up each time: who is due may have replaced it
                yield slot.pop()
            self._slots.pop(self._next, None)
            self._next += 1

    def __len__(self) -> int:
        return sum(len(slot) for slot in self._slots.values())
