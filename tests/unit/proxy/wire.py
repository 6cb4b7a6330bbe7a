"""The two sides of a balancer in tests: a client's socket and a member's, with generous deadlines."""

import asyncio
import hashlib
import os
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Self

from asynclb.lab import PATIENCE_S, Host

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


async def until(condition: Callable[[], bool], what: str, *, wait_s: float = PATIENCE_S) -> None:
    """Return as soon as the condition holds; fail with `what` if it does not in time."""
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {wait_s:g} s"
        await asyncio.sleep(0.005)


def descriptors() -> int:
    """Count the open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  Path.iterdir() would be counted or not, by version


def family_of(address: str) -> socket.AddressFamily:
    """Return the family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def free_port(*addresses: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port that is free on all of the addresses now."""
    while True:
        with socket.socket(family_of(addresses[0]), kind) as first:
            first.bind((addresses[0], 0))
            port = int(first.getsockname()[1])
            try:
                for address in addresses[1:]:
                    with socket.socket(family_of(address), kind) as other:
                        other.bind((address, port))
            except OSError:
                continue
        return port


def open_socket(host: Host | None, address: str, kind: socket.SocketKind) -> socket.socket:
    """Return a new non-blocking socket for an address, in a host of a lab if one is given."""
    sock = (host.open_socket if host is not None else socket.socket)(family_of(address), kind)
    sock.setblocking(False)
    return sock


class Closing(ABC):
    """What is closed at the end of a `with` block."""

    @abstractmethod
    def close(self) -> None:
        """Close it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Wire(Closing):
    """One end of a TCP connection. Owner: a test."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock

    @property
    def name(self) -> tuple[str, int]:
        """This end's address and port."""
        host, port, *_ = self.sock.getsockname()
        return str(host), int(port)

    @property
    def peer(self) -> tuple[str, int]:
        """The other end's address and port."""
        host, port, *_ = self.sock.getpeername()
        return str(host), int(port)

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def read(self, size: int = 1 << 16) -> bytes:
        """Return what comes next, empty at the end."""
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.get_running_loop().sock_recv(self.sock, size)

    async def exactly(self, size: int) -> bytes:
        """Return that many bytes."""
        parts = []
        while size:
            part = await self.read(min(size, 1 << 18))
            assert part, f"the connection ended {size} bytes too early"
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    async def rest(self) -> bytes:
        """Return everything up to the end."""
        parts = []
        while part := await self.read(1 << 18):
            parts.append(part)
        return b"".join(parts)

    async def digest(self) -> tuple[int, str]:
        """Return the length and the hash of everything up to the end."""
        size, state = 0, hashlib.blake2b()
        while part := await self.read(1 << 18):
            size += len(part)
            state.update(part)
        return size, state.hexdigest()

    def fin(self) -> None:
        """Say that nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.sock.close()

    def close(self) -> None:
        """Close in order."""
        self.sock.close()

    async def expect_fin(self) -> None:
        """Check that the other end ends in order, with nothing more said."""
        assert await self.read() == b""

    async def expect_reset(self) -> None:
        """Check that a reset comes, whatever comes before it."""
        try:
            while await self.read(1 << 18):
                pass
        except ConnectionResetError:
            return
        raise AssertionError("the connection ended in order, and not with a reset")

    def error(self) -> int:
        """Return the number of the error that came, 0 for none, and forget it."""
        return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def fill(self) -> int:
        """Send until the kernel takes no more; return how many bytes it took."""
        total, chunk = 0, bytes(1 << 16)
        while True:
            try:
                total += self.sock.send(chunk)
            except BlockingIOError:
                return total

    async def is_quiet(self, for_s: float = 0.3) -> bool:
        """Return whether nothing comes, no byte and no end, for a while."""
        try:
            async with asyncio.timeout(for_s):
                await asyncio.get_running_loop().sock_recv(self.sock, 1)
        except TimeoutError:
            return True
        except ConnectionError:
            return False
        return False

    async def echoes(self, text: bytes = b"ping") -> bool:
        """Return whether the text comes back."""
        await self.send(text)
        return await self.exactly(len(text)) == text


async def connect(
    address: str,
    port: int,
    *,
    host: Host | None = None,
    source: tuple[str, int] | None = None,
    wait_s: float = PATIENCE_S,
) -> Wire:
    """Open a connection, from a host of a lab if one is given.

    Raises: OSError -> refused; TimeoutError -> no answer within `wait_s`.
    """
    sock = open_socket(host, address, socket.SOCK_STREAM)
    try:
        if source is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(source)
        async with asyncio.timeout(wait_s):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return Wire(sock)


async def expect_refusal(address: str, port: int, *, host: Host | None = None) -> None:
    """Check that a connection is reset, while it is made or as soon as it is."""
    try:
        wire = await connect(address, port, host=host)
    except ConnectionResetError:
        return
    with wire:
        await wire.expect_reset()


class Listener(Closing):
    """A member that accepts when the test says so. Owner: a test."""

    def __init__(self, address: str, port: int = 0, *, host: Host | None = None, backlog: int = 1024) -> None:
        self.sock = open_socket(host, address, socket.SOCK_STREAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((address, port))
        self.sock.listen(backlog)
        self._turn = asyncio.Lock()  # uvloop lets one task at a time wait for a socket

    @property
    def port(self) -> int:
        """The port."""
        return int(self.sock.getsockname()[1])

    async def accept(self) -> Wire:
        """Return the next connection."""
        async with asyncio.timeout(PATIENCE_S), self._turn:
            sock, _ = await asyncio.get_running_loop().sock_accept(self.sock)
        return Wire(sock)

    def take(self) -> Wire | None:
        """Return the connection that waits to be accepted, if one does."""
        try:
            return Wire(self.sock.accept()[0])
        except BlockingIOError:
            return None

    def waiting(self) -> bool:
        """Return whether somebody waits to be accepted; whoever does is closed."""
        if (found := self.take()) is None:
            return False
        found.close()
        return True

    def close(self) -> None:
        """Stop listening."""
        self.sock.close()


class Deaf(Closing):
    """A member that answers nobody: its queue is full, so the kernel drops every SYN. Owner: a test."""

    def __init__(self, address: str, port: int = 0) -> None:
        self._listener = Listener(address, port, backlog=0)
        self.port = self._listener.port
        self._plug = socket.create_connection((address, self.port), timeout=PATIENCE_S)

    def close(self) -> None:
        """Close what is open."""
        self._listener.close()
        self._plug.close()


def resident_kib() -> int:
    """Return the resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS in /proc/self/status")
