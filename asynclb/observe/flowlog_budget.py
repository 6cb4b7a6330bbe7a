"""How many flows are written, so that writing them costs no more than 1 % of what the process can do. Pure.

    a second is over -> what was spent in it / what there was -> coarser, finer, or as it is

What was spent is what clocks show. The log costs about twice that (`make bench`, flow log): others find caches without
their lines, and the interpreter's lock taken. So half of the 1 % may be spent.

There was as much as the process took of its processor, and half of the time at least: where it takes less, it does
not lack the rest. So the share that the log takes away from what is forwarded is bounded also while others keep the
process from its processor, if it gets half of one.

Laws:
  1. A second in which more than `SHARE` was spent makes the rate coarser at its end, by as many steps of two as that
     second had wanted.
  2. What was spent too much is owed, and nothing becomes finer before it is paid back by spending less: bursts with
     rests between them take no more than their share on the whole, either.
  3. The rate is the finest one times a power of two: with sampling by a hash, the flows of a coarser rate are some of
     those of a finer one.
"""

from dataclasses import dataclass

SHARE = 0.005
_WINDOW_S = 1.0
_LEAST_BUSY = 0.5  # of the time, as if the process had worked for so long
_CALM = 3
"""Seconds in a row with less than half of the share, before the rate becomes finer: a second more or less is noise."""
_STEPS = 20
_TELL_S = 10.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What clocks say. Units: seconds; `process_s` and `spent_s` of processor time, of the process and of the log."""

    now_s: float
    process_s: float
    spent_s: float


class Budget:
    """Owner: the flow log."""

    def __init__(self, finest: int, start: Reading) -> None:
        self._finest, self._steps = finest, 0
        self._start = start
        self._owed_s = 0.0
        self._calm = 0
        self._told, self._told_s = finest, start.now_s - _TELL_S

    @property
    def sample(self) -> int:
        """Of how many flows one is to be written."""
        return self._finest << self._steps

    def look(self, at: Reading) -> bool:
        """Return whether the rate is another one from here on. Call it more often than once a second."""
        elapsed_s = at.now_s - self._start.now_s
        if elapsed_s < _WINDOW_S:
            return False
        busy_s = max(at.process_s - self._start.process_s, elapsed_s * _LEAST_BUSY)
        spent_s, allowed_s = at.spent_s - self._start.spent_s, busy_s * SHARE
        self._start = at
        self._owed_s = max(0.0, self._owed_s + spent_s - allowed_s)
        before = self._steps
        if spent_s > allowed_s:
            self._coarser(spent_s / allowed_s)
        else:
            self._finer(calm=spent_s < allowed_s / 2 and not self._owed_s)
        return self._steps != before

    def news(self, now_s: float) -> int | None:
        """Return the rate if it is another one than was told, and it is time to tell: every 10 s at most."""
        if self.sample == self._told or now_s - self._told_s < _TELL_S:
            return None
        self._told, self._told_s = self.sample, now_s
        return self._told

    def _coarser(self, excess: float) -> None:
        self._calm = 0
        while excess > 1 and self._steps < _STEPS:
            self._steps += 1
            excess /= 2

    def _finer(self, *, calm: bool) -> None:
        self._calm = self._calm + 1 if calm and self._steps else 0
        if self._calm == _CALM:
            self._steps -= 1
            self._calm = 0
