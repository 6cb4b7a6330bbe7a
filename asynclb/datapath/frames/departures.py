"""Members and rules that leave, in time: when a drain period is over, flows end, tables follow, numbers are free.

    turn_for --> entered --> over: `end` --> `without` --> `give_back`

What leaves is decided by `core.leaving`, what ends by `numbers`; a datapath says how it ends flows (`Parts`).

Laws:
  1. Tables change one set after the other; while flows end, which takes a second or more, tables may change.
  2. Tables that bring back what is ending wait until it has ended.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from asynclb.datapath.core.leaving import Leaving, MemberName, Parting, member_names
from asynclb.datapath.core.parting import Ending
from asynclb.datapath.frames.numbers import Numbers, Over
from asynclb.errors import ApplyError, HostError
from asynclb.events import Emit, Event
from asynclb.tables.row import Row

_SOON_S = 0.1  # what failed is not tried again in the same moment
_ENDED_TTL_S = 1.0  # between two looks for numbers that nothing refers to any more


class Parts(Protocol):
    """What a datapath does for departures."""

    def rows(self) -> Collection[Row]:
        """Return the rules in force, or those that were before anything was."""

    async def end(self, ending: Ending) -> Mapping[int, int]:
        """End flows; return how many connections that were, by member. Raises: OSError."""

    async def without(self, leaving: Leaving) -> None:
        """Enter the tables in force, with these who leave. Raises: as the datapath's `execute`."""

    async def give_back(self, over: Over) -> None:
        """Let the numbers of what ended be used again. Raises: OSError."""


class Departures:
    """Owner: a datapath. `turn` is held by whoever changes tables."""

    def __init__(self, datapath: str, numbers: Numbers, parts: Parts, turn: asyncio.Lock, emit: Emit) -> None:
        self.leaving = Leaving()
        """In force. Owner: whoever has the turn."""
        self._datapath, self._numbers, self._parts, self._turn, self._emit = datapath, numbers, parts, turn, emit
        self._over: Over | None = None  # what is ending
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @asynccontextmanager
    async def turn_for(self, rows: Collection[Row]) -> AsyncIterator[Leaving]:
        """Take the turn once nothing is ending that these rows bring back; yield who leaves when they are in force."""
        while True:
            async with self._turn:
                leaving = self._followed(rows)
                if leaving is not None:
                    yield leaving
                    return
            await self.settled()

    def _followed(self, rows: Collection[Row]) -> Leaving | None:
        leaving = self.leaving.followed(self._parts.rows(), rows, time.monotonic())
        if self._over is not None and _comes_back(self._over, rows, leaving):
            return None
        return leaving

    async def settled(self) -> None:
        """Return when nothing is ending any more."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    def entered(self, leaving: Leaving) -> None:
        """Take note that tables with these who leave are in force."""
        self.leaving = leaving
        self._await_end()

    async def close(self) -> None:
        """End nothing more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def _await_end(self) -> None:
        """Be called when the next drain period is over, or soon when a number has lost its name."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        now_s, next_s = time.monotonic(), self.leaving.next_s
        if self._numbers.unused(self._parts.rows(), self.leaving):
            next_s = now_s + _ENDED_TTL_S if next_s is None else min(next_s, now_s + _ENDED_TTL_S)
        if next_s is not None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(max(next_s - now_s, _SOON_S), self._end)

    def _end(self) -> None:
        self._timer = None
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._part(), name=f"{self._datapath}-parting")

    async def _part(self) -> None:
        """End what is over: flows first, then the tables without it, then its numbers."""
        async with self._turn:
            over = self._over = self._numbers.over(self._parts.rows(), self.leaving, time.monotonic())
        if over is None:  # the loop's clock may be a millisecond ahead of ours
            self._await_end()
            return
        try:
            self._report(over.partings, await self._parts.end(over.ending))
            async with self._turn:
                if over.partings:
                    await self._parts.without(self.leaving.without(over.partings))
                await self._parts.give_back(over)
        except (OSError, ApplyError, HostError, LookupError, ValueError) as error:
            self._emit(Event.DATAPATH_FAILED, datapath=self._datapath, error=str(error))
        finally:
            self._over = None
            self._await_end()

    def _report(self, partings: Iterable[Parting], ended: Mapping[int, int]) -> None:
        """Say whose connections have ended: they had no new ones meanwhile."""
        rules: dict[MemberName, list[str]] = {}
        for parting in partings:
            for name in member_names([parting.row]):
                rules.setdefault(name, []).append(parting.row.rule.name)
        why = "the drain period of their member is over"
        for name, number in self._numbers.members.of(rules).items():
            if (count := ended.get(number, 0)) > 0:
                which = ", ".join(rules[name])
                self._emit(Event.CONNECTIONS_RESET, rule=which, member=name[1], connections=count, why=why)


def _comes_back(over: Over, rows: Iterable[Row], leaving: Leaving) -> bool:
    """Return whether new rows refer to a member, or go on with connections, that are ending."""
    still = {id(parting) for parting in leaving.partings}
    return not over.members.isdisjoint(member_names(rows)) or any(id(found) not in still for found in over.partings)
