"""The packet view over HTTP, and its command: what is asked for, what comes, and what is refused."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from click.testing import CliRunner, Result

from asynclb.admin.api import Sources, make_app
from asynclb.admin.capture import AT_ONCE, CaptureOrder
from asynclb.admin.guard import Guard
from asynclb.cli import cli
from asynclb.errors import HostError
from asynclb.events import Event
from asynclb.lab import PATIENCE_S
from asynclb.observe.capture import pcapng
from tests.unit.control.fakes import Bench, FakeDatapath, FakeLoader, web_model
from tests.unit.proxy.world import Events

FRAME = bytes.fromhex("020000000001020000000002080045000014000000004011000001020304050607080900") + bytes(20)


class Fake:
    """A capture of three frames; `ends` says whether it ends by itself."""

    def __init__(self, order: CaptureOrder, *, ends: bool = True) -> None:
        self.order, self.ends, self.closed = order, ends, False

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield the file."""
        yield pcapng.section("test") + pcapng.interface("eth0", self.order.snaplen)
        for number in range(3):
            yield pcapng.packet(0, number, FRAME, len(FRAME), outbound=number == 1, comment=f"rule web: {number}")
        if not self.ends:
            await asyncio.sleep(60)

    def close(self) -> None:
        """End it."""
        self.closed = True


@asynccontextmanager
async def served(*, ends: bool = True) -> AsyncIterator[tuple[str, list[Fake], Events]]:
    """Serve the API with captures of its own; yield where, the captures so far, and the events."""
    bench, begun, events = Bench(FakeLoader(web_model("a")), [FakeDatapath("proxy")]), list[Fake](), Events()

    async def begin(order: CaptureOrder) -> Fake:
        if order.rule == "xdp":
            raise HostError("rule 'xdp' is carried by XDP")
        if order.rule != "web":
            raise LookupError(order.rule)
        begun.append(Fake(order, ends=ends))
        return begun[-1]

    controller = bench.controller()
    sources = Sources(controller, controller, lambda: lambda _accept: (b"", "text/plain"), None, begin)
    runner = web.AppRunner(make_app(sources, Guard(None), events))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0][:2]), begun, events
    finally:
        await runner.cleanup()


def typed(url: str, *words: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(cli, ["capture", *words, "--url", url])


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not installed")
async def test_the_command_writes_what_tcpdump_reads(tmp_path: Path) -> None:
    """The file has every packet; the order has what was typed; who captured is told as a write."""
    file = tmp_path / "web.pcapng"
    async with served() as (url, begun, events):
        words = ("web", "-w", str(file), "--member", "a", "--client", "10.0.0.0/8", "--count", "5", "--snaplen", "96")
        done = await asyncio.to_thread(typed, url, *words)
    assert done.exit_code == 0, done.output
    order = begun[0].order
    assert (order.rule, order.member, str(order.client), order.count, order.snaplen) == (
        "web",
        "a",
        "10.0.0.0/8",
        5,
        96,
    )
    assert begun[0].closed
    printed = await asyncio.to_thread(subprocess.run, ["tcpdump", "-nr", file], capture_output=True, check=True)
    assert len(printed.stdout.splitlines()) == 3
    assert [(fields["path"], fields["status"]) for fields in events.of(Event.ADMIN_WRITE)] == [("/api/v1/capture", 200)]


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("rule=nobody", 404, "there is no rule 'nobody'"),
        ("rule=xdp", 409, "XDP"),
        ("rule=web&client=here", 400, "client is no address"),
        ("rule=web&count=0", 400, "count is not a number here"),
        ("", 400, "rule is missing"),
    ],
)
async def test_what_is_refused(query: str, status: int, said: str) -> None:
    """Each refusal names what is wrong."""
    async with (
        served() as (url, _, _),
        ClientSession() as session,
        session.post(f"{url}/api/v1/capture?{query}") as answer,
    ):
        assert answer.status == status
        assert said in json.loads(await answer.text())["error"]


async def test_few_at_once_and_an_end_with_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two captures run at a time, a third is refused, and one ends when its reader goes away."""
    monkeypatch.setattr("asynclb.admin.capture._LOOK_S", 0.02)
    async with served(ends=False) as (url, begun, _), ClientSession() as session:
        readers = [await session.post(f"{url}/api/v1/capture?rule=web") for _ in range(AT_ONCE)]
        async with session.post(f"{url}/api/v1/capture?rule=web") as refused:
            assert refused.status == 503
        for reader in readers:
            reader.close()
        async with asyncio.timeout(PATIENCE_S):
            while not all(fake.closed for fake in begun):
                await asyncio.sleep(0.01)
