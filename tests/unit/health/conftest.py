"""Members to probe: real sockets on loopback with every way to behave and to misbehave."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from asynclb.health.sockets import Sockets

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Street:
    """Opens members that behave as a coroutine says, and closes them all after the test. Owner: one test."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []
        self._talks: set[asyncio.Task[None]] = set()

    async def member(
        self, talk: Talk, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> int:
        """Start a TCP member; return its port."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._talks.add(task)
            try:
                await talk(reader, writer)
            except (OSError, asyncio.CancelledError):
                pass
            finally:
                self._talks.discard(task)
                writer.transport.abort()

        server = await asyncio.start_server(serve, host, port, ssl=tls)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """End every member and every conversation."""
        for server in self._servers:
            server.close()
        for task in tuple(self._talks):
            task.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        await asyncio.sleep(0)


@pytest.fixture
async def street() -> AsyncIterator[Street]:
    """Members that live as long as the test."""
    street = Street()
    yield street
    await street.close()


@pytest.fixture
async def sockets() -> AsyncIterator[Sockets]:
    """The sockets of checks, all closed after the test."""
    sockets = Sockets(asyncio.get_running_loop())
    yield sockets
    sockets.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for `member.test` and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=member.test -addext subjectAltName=DNS:member.test"
    )
    subprocess.run([*command.split(), "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


@pytest.fixture
def member_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """What a member with that certificate serves."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    return context
