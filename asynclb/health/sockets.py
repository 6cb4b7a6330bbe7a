"""The sockets that checks use: opened without blocking, waited for on the event loop, closed without a reset.

Members' logs and counters see every check, so an established connection is ended as a well-behaved client ends it:
FIN, then whatever the member still sends is read and thrown away, then its FIN. Closing at once would answer a
banner with RST. The wait is bounded in time and bytes; beyond that the kernel's RST is what the member gets.

Source: RFC 9293, 3.6 (closing a connection); ip(7); the kernel's ip.h for IP_BIND_ADDRESS_NO_PORT.
"""

import asyncio
import errno
import os
import socket
from itertools import takewhile
from typing import Any

from asynclb.health.outcome import Outcome, failure, from_os_error, timeout
from asynclb.health.ready import writable
from asynclb.model import Probe, Reason
from asynclb.net.address import Address, endpoint

_BIND_ADDRESS_NO_PORT = 24
"""IP_BIND_ADDRESS_NO_PORT: choose the port at connect, so that one source address serves more than 28,000 checks a
minute (each leaves a TIME_WAIT behind). Absent from the socket module of Python 3.11. Source: linux/in.h."""

LINGER_S = 1.0
"""How long a member may take to answer our FIN: far above any round trip, far below any useful interval."""

LINGER_BYTES = 65_536
"""How much a member may still send after our FIN."""

_READ_BYTES = 16_384
_SWEEP_S = 0.25


class Sockets:
    """Opens sockets for checks and closes them in order. Owner: the prober, which closes it when it stops."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._retired: dict[socket.socket, tuple[float, int]] = {}  # socket -> (deadline, bytes it may still send)
        self._sweep: asyncio.TimerHandle | None = None

    def open(self, kind: int, address: Address, probe: Probe) -> socket.socket:
        """Open a socket towards a member, bound to the probe's source address if it has one.

        Raises: SourceMissingError -> the source address is not on this host; OSError -> no socket.
        """
        six = address.version == 6
        sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind | socket.SOCK_NONBLOCK)
        source = probe.source_address_v6 if six else probe.source_address_v4
        if source is None:
            return sock
        try:
            sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
            sock.bind(sockaddr(source, 0))
        except OSError as error:
            sock.close()
            if error.errno == errno.EADDRNOTAVAIL:
                raise SourceMissingError(source) from error
            raise
        return sock

    async def connect(self, address: Address, probe: Probe, deadline: float) -> "socket.socket | Outcome":
        """Open a TCP connection to a member, or say why there is none.

        Units: `deadline` in the loop's time. Cancel: nothing stays open.
        """
        where = endpoint(address, probe.port)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._connect(address, probe)
        except SourceMissingError as error:
            return failure(Reason.DOWN_PROBE_SOURCE_ADDRESS, str(error))
        except TimeoutError:
            return timeout(Reason.DOWN_PROBE_TCP_TIMEOUT, f"{where}: no connection within {probe.timeout_s:g} s")
        except OSError as error:
            return from_os_error(error, where, Reason.DOWN_PROBE_TCP_REFUSED, Reason.DOWN_PROBE_TCP_TIMEOUT)

    async def _connect(self, address: Address, probe: Probe) -> socket.socket:
        sock = self.open(socket.SOCK_STREAM, address, probe)
        try:
            code = sock.connect_ex(sockaddr(address, probe.port))
            if code == errno.EINPROGRESS:
                await writable(self._loop, sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
        except BaseException:
            sock.close()
            raise
        return sock

    def retire(self, sock: socket.socket) -> None:
        """Take over an established connection and end it in order, in the background."""
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:  # the member has reset it
            sock.close()
            return
        self._retired[sock] = (self._loop.time() + LINGER_S, LINGER_BYTES)
        self._loop.add_reader(sock.fileno(), self._discard, sock)
        if self._sweep is None:
            self._sweep = self._loop.call_later(LINGER_S, self._expire)

    @property
    def retired(self) -> int:
        """How many connections wait for the member's FIN."""
        return len(self._retired)

    def close(self) -> None:
        """Close what is left, without waiting."""
        for sock in tuple(self._retired):
            self._forget(sock)
        if self._sweep is not None:
            self._sweep.cancel()

    def _discard(self, sock: socket.socket) -> None:
        """Throw away what the member sends after our FIN, up to its own FIN or the bound."""
        deadline, allowed = self._retired[sock]
        try:
            count = len(sock.recv(_READ_BYTES))  # of a TLS socket the records as they are: shutdown has ended TLS
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if count == 0 or count >= allowed:
            self._forget(sock)
        else:
            self._retired[sock] = (deadline, allowed - count)

    def _expire(self) -> None:
        """Close the connections whose member did not answer our FIN; they were retired in the order of deadlines."""
        now = self._loop.time()
        for sock, _ in list(takewhile(lambda entry: entry[1][0] <= now, self._retired.items())):
            self._forget(sock)
        self._sweep = self._loop.call_later(_SWEEP_S, self._expire) if self._retired else None

    def _forget(self, sock: socket.socket) -> None:
        del self._retired[sock]
        self._loop.remove_reader(sock.fileno())
        sock.close()


class SourceMissingError(OSError):
    """A probe's source address is not on this host."""

    def __init__(self, source: Address) -> None:
        key = f"source_address_v{source.version}"
        super().__init__(f"source address {source} is not on this host; add it to an interface or remove {key}")


def sockaddr(address: Address, port: int) -> tuple[Any, ...]:
    """Return what the socket module calls the address.

    Raises: OSError -> a link-local address names an interface that does not exist.
    """
    scope = getattr(address, "scope_id", None)
    if scope is None:
        return (str(address), port)
    index = int(scope) if scope.isdigit() else socket.if_nametoindex(scope)
    return (str(address).partition("%")[0], port, 0, index)
