"""Several who scrape at once: what is rendered is bounded by what is asked for, not by who asks."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import ClientSession, web

from asynclb.admin.api import SCRAPES, Sources, make_app
from asynclb.admin.guard import Guard
from asynclb.lab import PATIENCE_S
from tests.unit.control.fakes import Bench, FakeDatapath, FakeLoader, web_model
from tests.unit.proxy.world import Events

OPEN = {"Accept": "application/openmetrics-text"}
PLAIN = {"Accept": "text/plain"}


class Slow:
    """A scrape that takes until it is let go. Owner: a test."""

    def __init__(self) -> None:
        self.snapshots = 0
        self.rendering = self.most = 0
        self.go = threading.Event()
        self._lock = threading.Lock()

    def take(self) -> "Rendering":
        """Take a snapshot."""
        self.snapshots += 1
        return Rendering(self, self.snapshots)

    def rendered(self, number: int, accept: str) -> tuple[bytes, str]:
        """Render it, in a thread."""
        with self._lock:
            self.rendering += 1
            self.most = max(self.most, self.rendering)
        self.go.wait(PATIENCE_S)
        with self._lock:
            self.rendering -= 1
        return f"{number} {accept}".encode(), "text/plain"


class Rendering:
    """A snapshot of it."""

    def __init__(self, slow: Slow, number: int) -> None:
        self._slow, self._number = slow, number

    def __call__(self, accept: str) -> tuple[bytes, str]:
        """Render it."""
        return self._slow.rendered(self._number, accept)


@asynccontextmanager
async def served() -> AsyncIterator[tuple[str, Slow, ClientSession]]:
    """Serve the metrics."""
    slow, controller = Slow(), Bench(FakeLoader(web_model("a")), [FakeDatapath("proxy")]).controller()
    runner = web.AppRunner(make_app(Sources(controller, controller, slow.take), Guard(None), Events()))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with ClientSession() as session:
            yield "http://{}:{}/metrics".format(*runner.addresses[0][:2]), slow, session
    finally:
        slow.go.set()
        await runner.cleanup()


async def scraped(session: ClientSession, url: str, headers: dict[str, str]) -> tuple[int, str]:
    """Scrape once."""
    async with session.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


async def begun(slow: Slow) -> None:
    """Wait until something is rendered."""
    async with asyncio.timeout(PATIENCE_S):
        while not slow.rendering:
            await asyncio.sleep(0.005)


async def test_those_who_ask_at_once_share_what_is_rendered() -> None:
    """As many as are let in cost one snapshot; who comes when it is over gets a fresh one."""
    async with served() as (url, slow, session):
        asked = [asyncio.create_task(scraped(session, url, PLAIN)) for _ in range(SCRAPES + 1)]
        async with asyncio.timeout(PATIENCE_S):
            while not any(task.done() for task in asked):  # the one too many
                await asyncio.sleep(0.005)
        slow.go.set()
        found = await asyncio.gather(*asked)
        later = await scraped(session, url, PLAIN)
    assert sorted(status for status, _ in found) == [200] * SCRAPES + [503]
    assert {text for status, text in found if status == 200} == {"1 text/plain"}
    assert later == (200, "2 text/plain")


async def test_both_formats_are_rendered_one_after_the_other() -> None:
    """Who wants another format waits, and its snapshot is taken when its turn comes."""
    async with served() as (url, slow, session):
        first = asyncio.create_task(scraped(session, url, PLAIN))
        await begun(slow)
        second = asyncio.create_task(scraped(session, url, OPEN))
        await asyncio.sleep(0.05)
        assert slow.snapshots == 1
        slow.go.set()
        assert await first == (200, "1 text/plain")
        assert await second == (200, "2 application/openmetrics-text")
    assert slow.most == 1


async def test_whoever_goes_away_takes_nothing_along() -> None:
    """The one who asked first and leaves does not end what another one waits for."""
    async with served() as (url, slow, session):
        first = asyncio.create_task(scraped(session, url, PLAIN))
        await begun(slow)
        second = asyncio.create_task(scraped(session, url, PLAIN))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.wait((first,))
        slow.go.set()
        assert await second == (200, "1 text/plain")
    assert slow.snapshots == 1
