"""The sweep at its times, and resets to the ends of connections that idled out. In a thread but for the sending."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from asynclb.datapath.core import layout
from asynclb.datapath.kernel.lifetimes import KernelNews
from asynclb.datapath.kernel.sweep import Sweep
from asynclb.datapath.kernel.thread import in_thread
from asynclb.events import Emit, Event
from asynclb.native.libbpf import BpfError

SWEEP_S = 0.25
BATCHES = 16
"""A full table of 1,250,000 flows is seen once in 5 s."""
_HURRY_S = 0.02

Tell = Callable[[layout.KeyedFlow], None]
"""Sends resets to both ends of a flow."""


class Upkeep:
    """Owner: the datapath."""

    def __init__(self, sweep: Sweep, tell: Tell, emit: Emit, news: KernelNews) -> None:
        self._sweep = sweep
        self._tell = tell
        self._emit = emit
        self._news = news
        self._hurry = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="kernel-upkeep")

    async def emptied(self) -> None:
        """Return when a pass has found no flow that is open."""
        self._hurry.set()
        begun = self._sweep.passes
        while self._sweep.passes < begun + 2 or self._sweep.counted.open:  # noqa: ASYNC110  a thread counts
            await asyncio.sleep(_HURRY_S)

    async def close(self) -> None:
        """End after the step that runs, for a thread works with the maps."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            try:
                for flow in await in_thread(partial(self._sweep.step, now_ms(), BATCHES)):
                    self._tell(flow)
                self._news.tell()
            except BpfError as error:
                self._emit(Event.DATAPATH_FAILED, datapath="kernel", error=str(error))
            await asyncio.sleep(_HURRY_S if self._hurry.is_set() else SWEEP_S)


def now_ms() -> int:
    """Return the clock of deadlines: CLOCK_MONOTONIC in milliseconds, modulo 2^32."""
    return time.monotonic_ns() // 1_000_000 & 0xFFFF_FFFF
