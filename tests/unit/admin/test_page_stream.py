"""The stream of the status page over real sockets, before a real controller; and the page's files."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from asynclb.admin.api import Sources
from asynclb.admin.page.routes import page_routes
from asynclb.admin.page.stream import LiveSources, Stream
from asynclb.admin.server import AdminServer, open_socket
from asynclb.control.controller import Controller
from asynclb.events import Event
from asynclb.health.outcome import OutcomeKind
from asynclb.health.record import Check
from asynclb.lab import PATIENCE_S
from asynclb.model import Admin, HealthState, TargetId
from asynclb.observe.recent import Recent
from tests.unit.control.fakes import Bench, FakeDatapath, FakeLoader, web_model


class Site:
    """A stream that is served, what is behind it, and what can go wrong with it."""

    def __init__(self, most: int, slow_s: float) -> None:
        self.bench = Bench(FakeLoader(web_model("a", "b", "c")), [FakeDatapath("proxy")])
        self.controller: Controller = self.bench.controller()
        self.recent = Recent(self.bench.log)
        self.burden = ""
        self.looks = 0
        sources = LiveSources(self.controller, self.checks, self.events)
        self.stream = Stream(sources, self.recent, most=most, period_s=0.02, slow_s=slow_s)
        self.address = ""

    def checks(self, target: TargetId) -> Sequence[Check]:
        """Say that the last check took 2 ms."""
        return (Check(1, 0.002, OutcomeKind.SUCCESS),) if target[1] == "a" else ()

    def events(self, number: int) -> Sequence[Any]:
        """Say what has happened, and with a burden something big every time."""
        self.looks += 1
        if self.burden == "fail":
            raise ValueError("a bug")
        if self.burden:
            self.recent(Event.STARTING, what="x")
            return [{**self.recent.since(0)[-1], "fields": {"text": self.burden}}]
        return self.recent.since(number)

    def say(self, **states: HealthState) -> None:
        """Have probes answer."""
        for name, state in states.items():
            self.bench.prober.say(name, state)
        self.controller.health_changed()

    async def listen(self, stack: AsyncExitStack, **headers: str) -> aiohttp.ClientResponse:
        """Ask for the stream."""
        session = await stack.enter_async_context(aiohttp.ClientSession(read_bufsize=2**20))
        url = f"http://{self.address}/api/v1/stream"
        return await stack.enter_async_context(session.get(url, headers=headers))


async def frames(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """Yield the events of a stream."""
    async with asyncio.timeout(PATIENCE_S):
        event = ""
        async for line in answer.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                event = value
            elif name == "data":
                yield event, json.loads(value)


async def listeners(running: Site, number: int) -> None:
    """Return when so many listen."""
    async with asyncio.timeout(PATIENCE_S):
        while len(running.stream._listeners) != number:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def site(most: int = 64, slow_s: float = 1.0, admin: Admin = Admin(port=0)) -> AsyncIterator[Site]:  # noqa: B008
    """Serve a pool of three members, all of them up."""
    running = Site(most, slow_s)
    tasks = [asyncio.create_task(running.controller.run()), asyncio.create_task(running.stream.run())]
    sources = Sources(running.controller, running.controller, lambda: lambda _accept: (b"", "text/plain"))
    pages = (*page_routes(), *running.stream.routes())
    server = AdminServer(open_socket(admin), admin, sources, running.recent, pages)
    await server.start()
    running.address = server.address
    await running.controller.reload("start")
    running.say(a=HealthState.UP, b=HealthState.UP, c=HealthState.UP)
    await running.controller.reload("signal")
    try:
        yield running
    finally:
        for task in reversed(tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await server.close()


async def test_everything_comes_first_and_then_what_changes() -> None:
    """The first frame has all objects; after a member's death a frame has what that has changed."""
    async with site() as running, AsyncExitStack() as stack:
        stream = frames(await running.listen(stack))
        event, whole = await anext(stream)
        assert event == "state"
        assert whole["verdict"]["line"] == "All is well: 1 rule serves, every member is up."
        assert [member["name"] for member in whole["members"]] == ["a", "b", "c"]
        first = whole["checks"][0]
        assert (first["member"], first["kinds"], first["ms"]) == ("a", "s", [2.0])
        event, quiet = await anext(stream)
        assert (event, quiet["members"], quiet["rules"], quiet["events"]) == ("tick", [], [], [])
        running.say(b=HealthState.DOWN)
        event, frame = await anext(
            (event, frame) async for event, frame in stream if frame["members"] and frame["rules"]
        )
        assert event == "tick"
        changed = {member["name"]: member["state"] for member in frame["members"]}
        assert changed["b"] == "down"
        assert re.match(r"b of pool web is down since .*: Down_Probe_TcpProbeTimeout\.$", frame["verdict"]["line"])


async def test_objects_that_come_and_go_are_told_with_everything() -> None:
    """A reload that adds a member sends everything anew."""
    async with site() as running, AsyncExitStack() as stack:
        stream = frames(await running.listen(stack))
        await anext(stream)
        running.bench.loader.put(web_model("a", "b", "c", "d"))
        await running.controller.reload("watch")
        frame = await anext(frame async for event, frame in stream if event == "state")
        assert len(frame["members"]) == 4
        assert len(frame["past"]) > 1


async def test_nothing_is_worked_out_while_nobody_listens() -> None:
    """Frames are made once for all, and none when the last listener has gone."""
    async with site() as running:
        async with AsyncExitStack() as stack:
            streams = [frames(await running.listen(stack)) for _ in range(3)]
            for stream in streams:
                await anext(stream)
        await listeners(running, 0)
        looks = running.looks
        await asyncio.sleep(0.1)  # five frames' time
        assert running.looks == looks


async def test_a_crowd_is_kept_out() -> None:
    """Of 100 listeners as many get in as there are places, the others 503 and when to come back; a place gets free."""
    async with site(most=8) as running:
        async with AsyncExitStack() as stack:
            answers = await asyncio.gather(*(running.listen(stack) for _ in range(100)))
            assert sorted(answer.status for answer in answers) == [200] * 8 + [503] * 92
            refused = next(answer for answer in answers if answer.status == 503)
            assert refused.headers["Retry-After"] == "5"
            assert "8 listeners are there already" in (await refused.json())["error"]
        await listeners(running, 0)
        async with AsyncExitStack() as stack:
            assert (await running.listen(stack)).status == 200


async def test_a_listener_that_takes_nothing_is_dropped() -> None:
    """Who does not read loses the connection; who does goes on."""
    async with site(slow_s=0.3) as running, AsyncExitStack() as stack:
        stream = frames(await running.listen(stack))
        await anext(stream)
        host, port = running.address.rsplit(":", 1)
        with socket.socket() as sleeper:
            sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sleeper.connect((host, int(port)))
            sleeper.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await listeners(running, 2)
            running.burden = "x" * 400_000
            async with asyncio.timeout(PATIENCE_S):
                while len(running.stream._listeners) > 1:
                    await anext(stream)
            running.burden = ""
            await anext(stream)


async def test_the_end_is_told() -> None:
    """When the process stops listeners hear it, and nobody new is let in."""
    async with site() as running, AsyncExitStack() as stack:
        stream = frames(await running.listen(stack))
        await anext(stream)
        running.controller.stop()
        async for _, frame in stream:
            if frame["verdict"]["state"] == "critical":
                break
        assert frame["verdict"]["line"] == "The instance is stopping and takes no new flows."
        running.stream._open = False
        assert (await running.listen(stack)).status == 503


async def test_a_bug_of_the_page_ends_the_page_only() -> None:
    """What fails while a frame is made is told as an event, and listeners are let go; the API goes on."""
    async with site() as running, AsyncExitStack() as stack:
        stream = frames(await running.listen(stack))
        await anext(stream)
        running.burden = "fail"
        assert [event async for event, _ in stream][-1:] in ([], ["tick"])
        assert running.bench.log.of(Event.TASK_FAILED)[0]["task"] == "status page"
        async with aiohttp.ClientSession() as session, session.get(f"http://{running.address}/readyz") as answer:
            assert answer.status == 200


async def test_the_stream_wants_the_token_and_the_page_does_not(tmp_path: Path) -> None:
    """The files hold no secret and are open, as a browser sends no token for them; what they show is not."""
    (tmp_path / "token").write_text("s3cret")
    admin = Admin(port=0, token_file=str(tmp_path / "token"))
    async with site(admin=admin) as running, AsyncExitStack() as stack:
        assert (await running.listen(stack)).status == 401
        assert (await running.listen(stack, Authorization="Bearer s3cret")).status == 200
        async with aiohttp.ClientSession() as session, session.get(f"http://{running.address}/") as answer:
            assert answer.status == 200
        async with aiohttp.ClientSession() as session:
            url = f"http://{running.address}/api/v1/checks?pool=web&member=a"
            async with session.get(url) as answer:
                assert answer.status == 401


async def test_the_last_checks_of_one_member_can_be_asked_for() -> None:
    """Also while nobody listens; of a pool that is not there it says so."""
    async with site() as running, aiohttp.ClientSession(f"http://{running.address}") as session:
        async with session.get("/api/v1/checks", params={"pool": "web", "member": "a"}) as answer:
            assert [check["kinds"] for check in (await answer.json())["checks"]] == ["s"]
        async with session.get("/api/v1/checks", params={"pool": "nowhere", "member": "a"}) as answer:
            assert answer.status == 404


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/page/page.css", "/page/vendor/uPlot.iife.min.js"])
async def test_files_are_sent_with_a_strict_policy(path: str) -> None:
    """No file may load anything from elsewhere or run what is written within; one that is known is not sent again."""
    async with site() as running, aiohttp.ClientSession(f"http://{running.address}") as session:
        async with session.get(path) as answer:
            text = await answer.text()
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            policy, tag = answer.headers["Content-Security-Policy"], answer.headers["ETag"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        if path == "/":
            assert " style=" not in text
            assert "<script>" not in text
        async with session.get(path, headers={"If-None-Match": tag}) as answer:
            assert answer.status == 304
