"""A real `asynclb run` as a child process, without privileges: sockets on the loopback, `transparent: false`."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from asynclb.lab import PATIENCE_S
from tests.ports import free_port


def unprivileged() -> list[str]:
    """Return the words that run a program without the capabilities that change the host."""
    dropped = "-net_admin,-net_raw"
    return ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}", "--"] if os.geteuid() == 0 else []


@dataclass
class Config:
    """A small configuration of one rule; `write` replaces the file as an editor would."""

    path: Path
    members: list[int]
    port: int = field(default_factory=free_port)
    admin: int = field(default_factory=free_port)
    probe: bool = False
    drain: str = "5s"

    def text(self) -> str:
        """Return the YAML."""
        members = "".join(f"      - {{name: m{port}, address: 127.0.0.1}}\n" for port in self.members)
        probe = f"probes:\n  p: {{protocol: tcp, port: {self.members[0]}, interval: 200ms, timeout: 150ms}}\n"
        return (
            f"version: 1\nadmin: {{listen: 127.0.0.1:{self.admin}}}\nshutdown_drain: {self.drain}\nhash_seed: '7'\n"
            f"frontends:\n  web: {{address: 127.0.0.1}}\n"
            f"backend_pools:\n  web:\n    members:\n{members}"
            f"{probe if self.probe else ''}"
            f"rules:\n  - {{name: web, frontend: web, protocol: tcp, frontend_port: {self.port}, "
            f"backend_port: {self.members[0]}, backend_pool: web, transparent: false"
            f"{', probe: p' if self.probe else ''}}}\n"
        )

    def write(self, text: str | None = None) -> None:
        """Put the file in place in one step."""
        draft = self.path.with_name(".draft")
        draft.write_text(self.text() if text is None else text)
        draft.replace(self.path)


class Instance:
    """A running process: its events, its API, its end."""

    def __init__(self, process: asyncio.subprocess.Process, config: Config) -> None:
        self.process = process
        self.config = config
        self.events: list[dict[str, Any]] = []
        self.errors = b""
        self._readers = (asyncio.create_task(self._read_events()), asyncio.create_task(self._read_errors()))

    async def _read_events(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.events.append(json.loads(line))

    async def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = await self.process.stderr.read()

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return the events of a name so far."""
        return [found for found in self.events if found["event"] == event]

    async def until(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait for the nth event of a name and return it."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.of(event)) < count:
                assert self.process.returncode is None or not self._readers[0].done(), (self.events, self.errors)
                await asyncio.sleep(0.01)
        return self.of(event)[count - 1]

    async def get(self, path: str) -> tuple[int, Any]:
        """Ask the API."""
        url = f"http://127.0.0.1:{self.config.admin}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.json(content_type=None)

    async def post(self, path: str) -> tuple[int, Any]:
        """Command the API."""
        url = f"http://127.0.0.1:{self.config.admin}{path}"
        async with aiohttp.ClientSession() as session, session.post(url) as answer:
            return answer.status, await answer.json()

    async def ended(self) -> int:
        """Wait for the end and return the exit code."""
        async with asyncio.timeout(PATIENCE_S):
            code = await self.process.wait()
            await asyncio.gather(*self._readers)
        return code


@asynccontextmanager
async def instance(config: Config, *words: str) -> AsyncIterator[Instance]:
    """Run asynclb for the length of a test; whatever happens it is gone afterwards."""
    state = config.path.parent / "state"
    process = await asyncio.create_subprocess_exec(
        *unprivileged(),
        sys.executable,
        "-m",
        "asynclb",
        "run",
        str(config.path),
        "--log-format",
        "json",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "STATE_DIRECTORY": str(state)},
    )
    running = Instance(process, config)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await running.ended()


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """Run a member that sends back what it gets; yield its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return  # the client has gone: so does this connection
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


class Client:
    """A connection through the frontend."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, text: bytes) -> bytes:
        """Send text and return what comes back."""
        self.writer.write(text)
        await self.writer.drain()
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readexactly(len(text))


@asynccontextmanager
async def connected(config: Config) -> AsyncIterator[Client]:
    """Connect through the frontend; the connection is closed at the end, whatever has become of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", config.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def ask_once(config: Config, text: bytes) -> bytes:
    """Send text on a connection of its own and return what comes back."""
    async with connected(config) as client:
        return await client.say(text)
