"""Work that makes very many objects at once: parsing, compiling, rendering.

It runs in a thread, where the interpreter lock changes hands every 5 ms. The cyclic garbage collector does not know
that: with a big configuration in the making it was seen to hold the lock for 50 to 200 ms, over and over, and to
double the time of the whole. So it is held off meanwhile; what bulk work makes has no cycles, and goes by reference
counts. Seen with 1,500 rules and 5,000 members: the longest gap of the loop fell from 110 to 15 ms.

A command of the controller is bulk work from its first step to its last: what one step has made, the collector would
look through before the next, with everything else, for some 100 ms of a busy host.
"""

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_bulk(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run work in a thread with the collector held off.

    Cancel: the thread goes on to its end; nobody gets the result.
    """
    with collector_held_off():
        return await asyncio.to_thread(work, *args, **kwargs)


@contextmanager
def collector_held_off() -> Iterator[None]:
    """Hold the collector off within the context. Overlapping ones are fine: the collector is on in the end."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
