"""One capture: from the tap to a stream of blocks, at the pace of who reads it."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import asynclb
from asynclb.datapath.ask import LiveVerdict
from asynclb.datapath.base import Watchable
from asynclb.net.flow import Flow
from asynclb.observe.capture import pcapng
from asynclb.observe.capture.frames import ends_of
from asynclb.observe.capture.scope import Match, View, Wanted
from asynclb.observe.capture.tap import Caught, Tap

Ask = Callable[[Flow, str | None], Awaitable[LiveVerdict | None]]
"""Asks the rule's datapath where a packet that begins a flow, or is of one, goes now."""

_BATCH = 32  # frames in one turn of the loop: about a millisecond with their questions
_WAITING = 2_000  # frames; 128 MB at the very most, 3 MB as a rule


@dataclass(frozen=True, slots=True)
class Limits:
    """When a capture ends by itself, and how much of a frame it keeps. Units: seconds, bytes."""

    count: int = 10_000
    duration_s: float = 60.0
    snaplen: int = 65_535
    wanted: Wanted = field(default_factory=Wanted)


class Capture:
    """Owner: one request. `blocks` is read once; `close` may be called at any time."""

    def __init__(
        self, scope: View, limits: Limits, ask: Ask, *, watched: Watchable | None = None, waiting: int = _WAITING
    ) -> None:
        """Begin; at most so many frames wait for the reader.

        Raises: OSError -> the host allows no packet socket; HostError -> the datapath `watched` cannot show its frames.
        """
        self._scope, self._limits, self._ask, self._watched = scope, limits, ask, watched
        self._tap = Tap(scope.addresses, limits.snaplen)
        if watched is not None:
            try:
                watched.watch(begin=True)
            except BaseException:
                self._tap.close()
                raise
        self._waiting: deque[tuple[Caught, Match]] = deque()
        self.dropped = 0
        self._most = waiting
        self._news = asyncio.Event()
        self._links: dict[str, int] = {}
        asyncio.get_running_loop().add_reader(self._tap.sock, self._readable)

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield the file, block by block, until the count or the time is over."""
        yield pcapng.section(f"asynclb {asynclb.__version__}")
        count, deadline_s = 0, time.monotonic() + self._limits.duration_s
        while count < self._limits.count and (found := await self._next(deadline_s)) is not None:
            block = await self._described(*found)
            if block:
                count += 1
                yield block
        yield self._ending()

    def close(self) -> None:
        """End it."""
        asyncio.get_running_loop().remove_reader(self._tap.sock)
        self._tap.close()
        watched, self._watched = self._watched, None
        if watched is not None:
            watched.watch(begin=False)

    def _readable(self) -> None:
        """Take a batch; what nobody reads in time is dropped and counted."""
        for _ in range(_BATCH):
            try:
                caught = self._tap.next()
            except OSError:  # an interface went down; others go on
                return
            if caught is None:
                return
            found = None if caught.interface == "lo" else ends_of(caught.data)
            match = None if found is None else self._scope.match(found, caught)
            if match is None:
                continue
            if len(self._waiting) >= self._most:
                self.dropped += 1
                continue
            self._waiting.append((caught, match))
            self._news.set()

    async def _next(self, deadline_s: float) -> tuple[Caught, Match] | None:
        while not self._waiting:
            self._news.clear()
            try:
                async with asyncio.timeout(deadline_s - time.monotonic()):
                    await self._news.wait()
            except TimeoutError:
                return None
        return self._waiting.popleft() if time.monotonic() < deadline_s else None

    async def _described(self, caught: Caught, match: Match) -> bytes:
        """Return a frame's block, with that of its interface before it when it is the first one there."""
        comment = self._scope.comment(match, await self._ask(match.flow, match.interface or caught.interface))
        if comment is None:
            return b""
        before = b""
        if caught.interface not in self._links:
            self._links[caught.interface] = len(self._links)
            before = pcapng.interface(caught.interface, self._limits.snaplen)
        place = self._links[caught.interface]
        return before + pcapng.packet(
            place, caught.at_ns, caught.data, caught.length, outbound=caught.outbound, comment=comment
        )

    def _ending(self) -> bytes:
        dropped = self.dropped + self._tap.lost()
        return pcapng.statistics(0, time.time_ns(), dropped) if self._links else b""
