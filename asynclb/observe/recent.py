"""The last events, kept in memory for whoever asks: the status page shows what has just happened.

Bounded by number, and each event by length: an event may carry a traceback or a thousand problems.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from asynclb.events import Emit, Event
from asynclb.observe.log import level_of

KEPT = 200  # what a person scrolls through
_LONGEST = 500  # characters of one field
_MOST_ITEMS = 5  # of a field that is a list


class Recent:
    """Implements `Emit`: passes each event on and remembers it. Any thread may call it."""

    def __init__(self, emit: Emit, clock: Callable[[], float] = time.time) -> None:
        """Pass events on to `emit`."""
        self._emit = emit
        self._clock = clock
        self._numbers = count(1)
        self._kept: deque[Mapping[str, Any]] = deque(maxlen=KEPT)

    def __call__(self, event: Event, /, **fields: object) -> None:
        """Pass an event on and remember it."""
        self._kept.append(
            {
                "number": next(self._numbers),
                "at": round(self._clock(), 3),
                "level": level_of(event),
                "event": str(event),
                "fields": {name: _short(value) for name, value in fields.items()},
            }
        )
        self._emit(event, **fields)

    def since(self, number: int) -> list[Mapping[str, Any]]:
        """Return the events after the one of that number, the oldest first."""
        return [kept for kept in self._kept.copy() if kept["number"] > number]


def _short(value: object) -> object:
    """Return a value that JSON has, cut to a length that a line takes."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        items = [str(item) for item in value]
        more = [f"and {len(items) - _MOST_ITEMS:,} more"] if len(items) > _MOST_ITEMS else []
        value = "; ".join(items[:_MOST_ITEMS] + more)
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
