"""Where the API is served: a TCP address or a UNIX socket.

The socket is opened before anything of the host is touched: that it is taken is how a second instance, started by
mistake, finds out before it disturbs the first one.
"""

import asyncio
import errno
import logging
import os
import socket
import stat
import traceback
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from asynclb.admin.api import Sources, make_app
from asynclb.admin.door import Door
from asynclb.admin.guard import Guard
from asynclb.admin.tls import server_context
from asynclb.errors import HostError
from asynclb.events import Emit, Event
from asynclb.model import Admin
from asynclb.net.address import endpoint

_SILENT = logging.getLogger("asynclb.admin")  # aiohttp would write of garbage, which is answered; our bugs are events
_SILENT.disabled = True
_BACKLOG = 128
_IDLE_S = 15.0  # without a complete request a connection is closed after this, so that silence cannot fill the table
_LINE_BYTES = 8190  # of a request line and of a header; aiohttp's own default, said aloud
_SOCKET_MODE = 0o660  # owner and group: what decides who may ask on a UNIX socket
_STALE_PROBE_S = 1.0


def open_socket(admin: Admin) -> socket.socket:
    """Return the listening socket.

    Raises: HostError -> the address is taken, not this host's, or may not be used by this process.
    """
    if admin.unix_path is not None:
        return _open_unix(Path(admin.unix_path))
    family = socket.AF_INET6 if ":" in admin.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((admin.host, admin.port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise HostError(_why_not(endpoint(admin.host, admin.port), error)) from error
    return sock


def _open_unix(path: Path) -> socket.socket:
    """Return a listening UNIX socket; a stale one (nobody answers) is replaced, anything else is left alone."""
    try:
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            mask = os.umask(0o777 & ~_SOCKET_MODE)
            try:
                sock.bind(str(path))
            finally:
                os.umask(mask)
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise HostError(_why_not(str(path), error)) from error
    return sock


def _remove_stale(path: Path) -> None:
    try:
        mode = path.stat(follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "something that is not a socket is there", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_STALE_PROBE_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path))


def _why_not(where: str, error: OSError) -> str:
    remedies = {
        errno.EADDRINUSE: "another asynclb or another program has it (ss -ltnp); stop that one or change admin.listen",
        errno.EADDRNOTAVAIL: "this host has no such address (ip addr); change admin.listen",
        errno.EACCES: "this user may not use it; choose a port above 1023 or a directory that it may write to",
    }
    remedy = remedies.get(error.errno or 0, "change admin.listen")
    return f"admin: cannot listen on {where}: {error.strerror or error}; {remedy}"


class AdminServer:
    """Serves the API on a socket that is already open. Owner: whoever made it, who also closes it."""

    def __init__(
        self,
        sock: socket.socket,
        admin: Admin,
        sources: Sources,
        emit: Emit,
        pages: Iterable[web.AbstractRouteDef] = (),
    ) -> None:
        """Raise HostError where the token file holds no token, or TLS has no certificate."""
        self._sock = sock
        self._admin = admin
        self._emit = emit
        tls = server_context(admin.tls) if admin.tls is not None else None
        self._door = Door(sock, tls, emit)
        app = make_app(sources, Guard.of(admin), emit, pages)
        app.middlewares.insert(0, self._door.middleware())
        self._accepting: asyncio.Task[None] | None = None
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            logger=_SILENT,
            keepalive_timeout=_IDLE_S,
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
            lingering_time=1.0,
            shutdown_timeout=2.0,
        )

    @property
    def address(self) -> str:
        """Where it listens, as a person would type it."""
        if self._admin.unix_path is not None:
            return self._admin.unix_path
        host, port = self._sock.getsockname()[:2]
        return endpoint(host, port)

    async def start(self) -> None:
        """Answer requests from here on."""
        await self._runner.setup()
        assert self._runner.server is not None  # noqa: S101  # made by `setup`
        self._accepting = asyncio.create_task(self._door.run(self._runner.server))
        self._accepting.add_done_callback(self._deaf)
        self._emit(Event.ADMIN_LISTENING, address=self.address)

    def _deaf(self, accepting: asyncio.Task[None]) -> None:
        if not accepting.cancelled() and (error := accepting.exception()) is not None:
            trace = "".join(traceback.format_exception(error))
            self._emit(Event.TASK_FAILED, task="accepting for the API", error=repr(error), traceback=trace)

    async def close(self) -> None:
        """Let requests in progress end for a moment, then close everything; cancelled, close it at once."""
        try:
            if self._accepting is not None:
                self._accepting.cancel()
                await asyncio.wait((self._accepting,))
            await self._runner.cleanup()
        finally:
            self._sock.close()
            if self._admin.unix_path is not None:
                with suppress(OSError):
                    await asyncio.to_thread(Path(self._admin.unix_path).unlink)
