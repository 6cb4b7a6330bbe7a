"""Waiting for non-blocking sockets, plain and TLS, on any event loop.

uvloop lacks part of the `sock_*` family, and none of it works on TLS sockets; a reader or writer callback and a
future are all that is needed.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")
Wait = Callable[[asyncio.AbstractEventLoop, socket.socket], Awaitable[None]]

_READ_BYTES = 16_384


async def readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """Wait until the socket has something to read, or failed. Cancel: the loop has forgotten the socket."""
    ready = loop.create_future()
    descriptor = sock.fileno()
    loop.add_reader(descriptor, _fulfil, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


async def writable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    """Wait until the socket takes bytes, is connected, or failed. Cancel: the loop has forgotten the socket."""
    ready = loop.create_future()
    descriptor = sock.fileno()
    loop.add_writer(descriptor, _fulfil, ready)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


def _fulfil(ready: "asyncio.Future[None]") -> None:
    if not ready.done():  # a timeout may have cancelled it in the same turn of the loop
        ready.set_result(None)


async def receive(sock: socket.socket) -> bytes:
    """Read what there is, plain or through TLS; empty at the end of the stream."""
    return await complete(sock, partial(sock.recv, _READ_BYTES), readable)


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Write everything, plain or through TLS."""
    while data:
        sent = await complete(sock, partial(sock.send, data), writable)
        data = data[sent:]


async def complete(sock: socket.socket, attempt: Callable[[], T], wait: Wait) -> T:
    """Repeat a non-blocking operation until it is done; `wait` is what a plain socket waits for when it is not."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return attempt()
        except BlockingIOError:
            await wait(loop, sock)
        except ssl.SSLWantReadError:
            await readable(loop, sock)
        except ssl.SSLWantWriteError:
            await writable(loop, sock)
