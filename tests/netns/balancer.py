"""A datapath inside a host of a lab: a thread of its own that lives in the host's namespace, with an event loop.

Whatever the thread opens or starts is in that namespace: sockets, netlink, and the worker threads of `asyncio`.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import uvloop

from asynclb.datapath.base import Counters, FlowRecord
from asynclb.datapath.proxy import ProxyDatapath
from asynclb.errors import AsynclbError
from asynclb.lab import PATIENCE_S, Host
from asynclb.net.drop import Drop
from asynclb.tables.row import Row
from tests.unit.proxy.world import SEED, Driver, Events

T = TypeVar("T")


class Balancer:
    """Drives a datapath, the proxy if no other is asked for, in a host's namespace. Owner: one test."""

    def __init__(self, host: Host, kind: Callable[..., Any] = ProxyDatapath) -> None:
        self._host = host
        self._kind = kind
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._driver: Driver
        self._up: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name="proxy", daemon=True)

    @property
    def events(self) -> Events:
        """Every event so far."""
        return self._driver.events

    async def open(self) -> None:
        """Start the proxy. Raises: HostError -> as the proxy's own `open`."""
        self._thread.start()
        await asyncio.wrap_future(self._up)

    async def apply(self, *rows: Row, down: Iterable[str] = (), seed: int = SEED) -> None:
        """Make these rows the ones in force, with every member healthy but those named."""
        await self._there(lambda: self._driver.apply(*rows, down=down, seed=seed))

    async def counters(self) -> Counters:
        """Return the proxy's counters."""
        return await self.ask(lambda driver: driver.proxy.counters())

    async def flows(self) -> list[FlowRecord]:
        """Return the open flows."""
        return await self.ask(lambda driver: list(driver.proxy.flows()))

    async def ask(self, question: Callable[[Driver], T]) -> T:
        """Return what the function says, called where the proxy lives."""

        async def answer() -> T:
            return question(self._driver)

        return await self._there(answer)

    async def until(self, condition: Callable[[Counters], bool], what: str) -> None:
        """Return as soon as the counters are as wanted."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition(await self.counters()):
                await asyncio.sleep(0.01)
        del what  # it is in the traceback's line

    async def until_dropped(self, reason: Drop) -> None:
        """Return as soon as something was dropped for that reason."""
        await self.until(lambda counters: counters.drops[reason] > 0, reason)

    async def until_idle(self) -> None:
        """Return when no flow is open."""
        await self.until(lambda counters: counters.flows == 0, "no flows")

    async def close(self, drain_s: float = 0) -> int:
        """Close the proxy and return how many flows it reset."""
        return await self._there(lambda: self._driver.proxy.close(drain_s))

    async def hurry(self, drain_s: float, after_s: float) -> int:
        """Close it with time for flows, and lose patience: what a second signal does. Return how many were reset."""

        async def hurried() -> int:
            closing = asyncio.create_task(self._driver.proxy.close(drain_s))
            await asyncio.wait((closing,), timeout=after_s)
            closing.cancel()
            await asyncio.wait((closing,))
            return await self._driver.proxy.close(0)

        return await self._there(hurried)

    async def end(self) -> None:
        """Close the proxy, if nobody has, and end its thread."""
        if self._up.done() and self._up.exception() is None:
            await self.close()
            self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join, PATIENCE_S)

    async def _there(self, call: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await call()

        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), self._loop))

    def _main(self) -> None:
        with self._host.entered(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        self._loop, self._stop, self._driver = asyncio.get_running_loop(), asyncio.Event(), Driver(self._kind)
        try:
            await self._driver.proxy.open()
        except AsynclbError as error:
            await self._driver.proxy.close(0)
            self._up.set_exception(error)
            return
        self._up.set_result(None)
        await self._stop.wait()


@asynccontextmanager
async def balancer(host: Host, kind: Callable[..., Any] = ProxyDatapath) -> AsyncIterator[Balancer]:
    """Run a datapath in the host for the length of a block. Raises: HostError -> it could not be opened."""
    found = Balancer(host, kind)
    try:
        await found.open()
        yield found
    finally:
        await found.end()
