"""How long work in a thread takes, and how late the event loop is meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from asynclb.control.bulk import in_bulk

T = TypeVar("T")


async def beside_loop(
    work: Callable[[], T], run: Callable[[Callable[[], T]], Awaitable[T]] = in_bulk
) -> tuple[T, float, float]:
    """Run `work` in a thread, as the controller does unless said otherwise.

    Returns its result, its time, and how late the loop was at most, in ms.
    """
    late_s = [0.0]

    async def beat() -> None:
        while True:
            due_s = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            late_s.append(time.perf_counter() - due_s)

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0.05)
    late_s.clear()
    start_s = time.perf_counter()
    found = await run(work)
    took_s = time.perf_counter() - start_s
    await asyncio.sleep(0.01)
    beating.cancel()
    return found, 1e3 * took_s, 1e3 * max(late_s)
