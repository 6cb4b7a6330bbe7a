"""The door: takes connections in, so many at once, and keeps nobody out for the sake of who does nothing.

When all places are taken, the connection that has been there longest without a request in progress gives its place to
the newcomer: a thousand clients that connect and say nothing, or say it slowly, cost each other their connections, and
`/healthz` is answered. Requests in progress are fewer than places (`limits`), so there is always one to go. With TLS,
handshakes have places of their own, and little time.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from itertools import islice

from aiohttp import web
from aiohttp.typedefs import Middleware

from asynclb.events import Emit, Event

PLACES = 256  # connections: more than `limits` lets be busy at once, and few among a process's descriptors
HANDSHAKES = 64
HANDSHAKE_S = 5.0
_AGAIN_S = 0.1  # after a connection was gone before it was taken, or the process had no descriptor for it


class Door:
    """Accepts on one socket for one server. Owner: the task in `run`."""

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext | None, emit: Emit, places: int = PLACES) -> None:
        self._sock = sock
        self._tls = tls
        self._emit = emit
        self._places = places
        self._busy: set[object] = set()
        self._handshakes: dict[asyncio.Task[None], None] = {}  # in the order in which they began

    def middleware(self) -> Middleware:
        """Return what must stand around every handler, for the door to know who is busy."""

        @web.middleware
        async def note(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            self._busy.add(request.protocol)
            try:
                return await handler(request)
            finally:
                self._busy.discard(request.protocol)

        return note

    async def run(self, server: web.Server) -> None:
        """Take connections in until cancelled.

        Cancel: handshakes in progress end; connections are the server's to close.
        """
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self._sock)
                except OSError:  # accept(2): this connection has failed, or descriptors have run out; others will come
                    self._make_room(server, len(server.connections))
                    await asyncio.sleep(_AGAIN_S)
                    continue
                self._make_room(server, self._places)
                await self._let_in(server, connection)
        finally:
            for handshake in self._handshakes:
                handshake.cancel()
            await asyncio.gather(*self._handshakes, return_exceptions=True)

    async def _let_in(self, server: web.Server, connection: socket.socket) -> None:
        if self._tls is None:
            await self._connect(server, connection)
            return
        if len(self._handshakes) >= HANDSHAKES:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()
        handshake = asyncio.create_task(self._connect(server, connection))
        self._handshakes[handshake] = None
        handshake.add_done_callback(self._shaken)
        await asyncio.sleep(0)  # a flood of connections is taken in beside what else the loop does

    async def _connect(self, server: web.Server, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        patience_s = HANDSHAKE_S if self._tls is not None else None
        try:
            await loop.connect_accepted_socket(server, connection, ssl=self._tls, ssl_handshake_timeout=patience_s)
        except OSError:  # the client has gone, or does not speak TLS, which is its loss
            connection.close()

    def _shaken(self, handshake: asyncio.Task[None]) -> None:
        self._handshakes.pop(handshake, None)
        if not handshake.cancelled() and (error := handshake.exception()) is not None:
            self._emit(Event.TASK_FAILED, task="TLS handshake of the API", error=repr(error), traceback="")

    def _make_room(self, server: web.Server, places: int) -> None:
        """Close connections that nobody is busy with, the oldest first, until one of so many places is free."""
        taken = [handler for handler in server.connections if handler.transport is not None]
        idle = (handler for handler in taken if handler not in self._busy)
        for handler in islice(idle, max(0, len(taken) + 1 - places)):
            handler.force_close()
