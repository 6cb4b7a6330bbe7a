"""Who asked for a change, and what became of it: one event for each write that was let in.

Those that were not let in are told at most once in ten seconds, with how many there were: whoever guesses tokens must
not be able to fill the log.
"""

import os
import pwd
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from asynclb.admin.guard import Guard
from asynclb.events import Emit, Event

QUIET_S = 10.0
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid; unix(7)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end: an address, or the process at the other end of a UNIX socket."""

    address: str | None
    name: str


def peer_of(request: web.Request) -> Peer:
    """Return who asks, as the kernel says."""
    transport = request.transport
    if transport is None:
        return Peer("0.0.0.0", "somebody who has gone")  # noqa: S104  # an address that nobody has is not local
    peername = transport.get_extra_info("peername")
    if isinstance(peername, tuple):
        return Peer(str(peername[0]), str(peername[0]))
    sock = transport.get_extra_info("socket")
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(found)
    return Peer(None, f"uid {uid} ({_user(uid)}), pid {pid}")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "root" if uid == os.geteuid() == 0 else "no name"


class Audit:
    """Tells who wrote, and who was turned away. Owner: the API."""

    def __init__(self, guard: Guard, emit: Emit, clock: Callable[[], float] = time.monotonic) -> None:
        self._guard = guard
        self._emit = emit
        self._clock = clock
        self._told_s = float("-inf")
        self._denied = 0

    def who(self, request: web.Request) -> str:
        """Return the name of a token's holder, else who is at the other end."""
        return self._guard.holder(request.headers) or peer_of(request).name

    def wrote(self, request: web.Request, who: str, what: str, status: int) -> None:
        """Tell of a write and what was answered."""
        self._emit(
            Event.ADMIN_WRITE,
            who=who,
            peer=peer_of(request).name,
            method=request.method,
            path=request.path[:200],
            what=what,
            status=status,
        )

    def denied(self, request: web.Request, status: int) -> None:
        """Tell of somebody who was turned away, unless that was told a moment ago."""
        self._denied += 1
        if self._clock() - self._told_s < QUIET_S:
            return
        self._told_s = self._clock()
        peer, path = peer_of(request).name, request.path[:200]
        self._emit(
            Event.ADMIN_DENIED, peer=peer, method=request.method[:20], path=path, status=status, times=self._denied
        )
        self._denied = 0
