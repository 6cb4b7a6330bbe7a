"""A real process that runs out of descriptors, or is flooded with connections: it goes on, and it comes back."""

import asyncio
import itertools
import resource
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp
import pytest

from asynclb.lab import PATIENCE_S
from tests.faults.instance import Config, Instance, echo, instance
from tests.unit.proxy.wire import Wire, connect, expect_refusal, until

VIP = "127.0.0.1"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Instance]:
    """Run a process with one echoing member."""
    async with echo() as member:
        config = Config(tmp_path / "asynclb.yaml", [member])
        config.write()
        async with instance(config) as found:
            await found.until("started")
            yield found


def descriptors_of(running: Instance) -> set[int]:
    """Return the numbers of the open descriptors of the process."""
    return {int(path.name) for path in Path(f"/proc/{running.process.pid}/fd").iterdir()}


@contextmanager
def only(running: Instance, spare: int) -> Iterator[None]:
    """Leave the process so many free descriptors until the block ends; limits are about their numbers."""
    pid, taken = running.process.pid, descriptors_of(running)
    free = (number for number in itertools.count() if number not in taken)
    limit = next(itertools.islice(free, spare, None))
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def drops(running: Instance, reason: str) -> float:
    """Return a drop counter of the process from its metrics."""
    url = f"http://127.0.0.1:{running.config.admin}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        text = await answer.text()
    lines = [line for line in text.splitlines() if line.startswith("asynclb_drops_total{")]
    return sum(float(line.split()[-1]) for line in lines if f'reason="{reason}"' in line)


async def test_out_of_descriptors(running: Instance) -> None:
    """Open flows go on, new clients wait, it is said now and then and counted; with descriptors all are served."""
    with ExitStack() as stack:

        async def visit() -> Wire:
            return stack.enter_context(await connect(VIP, running.config.port))

        held = [await visit() for _ in range(20)]
        for wire in held:
            assert await wire.echoes()
        with only(running, 0):
            waiting = [await visit() for _ in range(40)]
            await running.until("accept_paused")
            for wire in held:
                assert await wire.echoes(b"still")
            await asyncio.sleep(1)
            assert len(running.of("accept_paused")) == 1
        for wire in waiting:
            assert await wire.echoes(b"late")
        assert await drops(running, "out_of_descriptors") >= 1


async def test_a_member_socket_that_cannot_be_opened(running: Instance) -> None:
    """With a single descriptor left a client is accepted and cannot be joined: it is reset, counted, and no leak."""
    with await connect(VIP, running.config.port) as client:
        assert await client.echoes()
        await asyncio.sleep(0.1)
        before = descriptors_of(running)
        with only(running, 1):
            await expect_refusal(VIP, running.config.port)
        assert await client.echoes()
        await until(lambda: descriptors_of(running) == before, "nothing is left open")
    assert await drops(running, "out_of_descriptors") >= 1


def storm(port: int, count: int) -> int:
    """Connect, ask and reset, one after the other; return how many were answered. Blocks."""
    answered = 0
    for _ in range(count):
        with socket.create_connection((VIP, port), timeout=PATIENCE_S) as client:
            client.send(b"?")
            answered += client.recv(1) == b"?"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return answered


async def test_ten_thousand_connections_come_and_go(running: Instance) -> None:
    """A storm of clients is served to the last one, and afterwards nothing is left open."""
    await running.get("/api/v1/state")
    await asyncio.to_thread(storm, running.config.port, 1)
    await asyncio.sleep(0.1)
    count = len(descriptors_of(running))
    found = await asyncio.gather(*(asyncio.to_thread(storm, running.config.port, 2500) for _ in range(4)))
    assert sum(found) == 10_000
    await until(lambda: len(descriptors_of(running)) <= count, "nothing is left open")
    assert await drops(running, "listen_overflow") == 0
