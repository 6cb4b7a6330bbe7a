"""Who moves the frames: one engine in this process, or one in each of several workers."""

import time
from collections.abc import Callable, Collection, Mapping
from ctypes import Array
from dataclasses import replace
from typing import Protocol

from asynclb.datapath.core import layout
from asynclb.datapath.core.parting import Ending
from asynclb.datapath.core.values import Asked, CoreCounters, FlowView, NextHop
from asynclb.datapath.packet.engine import Engine, Present, change, changed_hops

Pages = Callable[[int], tuple[list[FlowView], int | None]]
"""A flow table in pages: from a cursor, 0 at first, to flows and the next cursor, None at the end."""


class Crew(Protocol):
    """Engines that are told the same. Owner: the datapath, which prepares one change at a time."""

    engines: int

    async def start(self) -> None:
        """Be ready for changes. Raises: HostError, OSError."""

    async def prepare(self, wanted: Present) -> None:
        """Let every engine make ready for what it shall have.

        Raises: OSError, ValueError -> one of them cannot; `abandon` lets the others give up.
        """

    async def commit(self) -> None:
        """Let every engine do what was prepared. Cannot fail; when it returns, every engine has done it."""

    async def abandon(self) -> None:
        """Let every engine give up what was prepared."""

    def set_hops(self, hops: Mapping[int, NextHop]) -> None:
        """Let every engine have these next hops, soon."""

    async def part(self, ending: Ending) -> None:
        """Let every engine end these flows; when it returns, they are gone everywhere. Takes some seconds."""

    def release_ids(self, rules: Collection[int], members: Collection[int]) -> CoreCounters:
        """Return what was counted under these ids, and let others begin with them at zero."""

    def counters(self) -> CoreCounters:
        """Return a snapshot of the counters of all."""

    def tables(self) -> tuple[Pages, ...]:
        """Return every engine's flow table."""

    def listen(self, *, ends: bool, starts: bool, sample: int) -> None:
        """Let flows that end, and that begin, be told of, one of so many; or no more."""

    def untold(self) -> int:
        """Return how many were not told of since the beginning, because nobody took them in time."""

    def told(self) -> tuple[Array[layout.ToldFlow], ...]:
        """Take what every engine has told since the last call."""

    def snat_marks(self, sources: int) -> bytearray:
        """Return which SNAT ports are in use, as `FlowMemory.snat_marks` does."""

    def ask(self, frame: bytes, ifindex: int) -> Asked | None:
        """Return who would get a frame; None where the engines cannot be asked."""

    def flow_count(self) -> int:
        """Return how many flows are open."""

    async def close(self) -> None:
        """Stop every engine."""


class Alone:
    """The engine in this process. Owner: the datapath."""

    engines = 1

    def __init__(self) -> None:
        self._engine = Engine()
        self._has = Present()
        self._wanted: Present | None = None

    async def start(self) -> None:
        """Be ready at once."""

    async def prepare(self, wanted: Present) -> None:
        """Prepare. Raises: OSError, ValueError."""
        self._engine.prepare(change(self._has, wanted, 0))
        self._wanted = wanted

    async def commit(self) -> None:
        """Commit."""
        if self._wanted is not None:
            self._engine.commit(changed_hops(self._has.hops, self._wanted.hops))
            self._has, self._wanted = self._wanted, None

    async def abandon(self) -> None:
        """Abandon."""
        self._engine.abandon()
        self._wanted = None

    def set_hops(self, hops: Mapping[int, NextHop]) -> None:
        """Set those that changed."""
        self._engine.set_hops(changed_hops(self._has.hops, hops))
        self._has = replace(self._has, hops=hops)

    async def part(self, ending: Ending) -> None:
        """End these flows."""
        await self._engine.part(ending)

    def release_ids(self, rules: Collection[int], members: Collection[int]) -> CoreCounters:
        """Return the core's counters of these ids."""
        return self._engine.core.release_ids(rules, members)

    def counters(self) -> CoreCounters:
        """Return the core's counters."""
        return self._engine.core.counters()

    def ask(self, frame: bytes, ifindex: int) -> Asked | None:
        """Ask the core."""
        return self._engine.core.ask(frame, ifindex=ifindex, now_ns=time.monotonic_ns())

    def tables(self) -> tuple[Pages, ...]:
        """Return the one flow table."""
        return (self._engine.core.flows,)

    def listen(self, *, ends: bool, starts: bool, sample: int) -> None:
        """Let the core tell."""
        self._engine.core.listen(ends=ends, starts=starts, sample=sample)

    def told(self) -> tuple[Array[layout.ToldFlow], ...]:
        """Take what the core told."""
        return (self._engine.core.told(),)

    def untold(self) -> int:
        """Return what the core did not tell."""
        return self._engine.core.untold()

    def snat_marks(self, sources: int) -> bytearray:
        """Return the core's marks."""
        return self._engine.core.snat_marks(sources, time.monotonic_ns())

    def flow_count(self) -> int:
        """Return how many flows are open."""
        return self._engine.core.flow_count()

    async def close(self) -> None:
        """Close the engine."""
        self._engine.close()
