"""Gates: what lets clients reach a listening socket, or makes it silent.

With CAP_NET_ADMIN, and for UDP always, a gate is a filter in the kernel (`sockfilter`): strangers leave no trace.

Linux 6.18 was seen to refuse filters on TCP sockets to a process without that capability. There a gate is a plug: a
socket whose queue of accepted connections is full drops every SYN without an answer, and a queue of length 0 is full
with one connection in it, which the proxy makes to itself. A plug cannot tell clients apart, so whoever is not allowed
is accepted by the kernel and reset as soon as the proxy sees it.

Source: tcp_conn_request() in net/ipv4/tcp_input.c (sk_acceptq_is_full); sk_attach_filter() in net/core/filter.c.
"""

import errno
import socket
from typing import Protocol

from asynclb.datapath.proxy import sockets
from asynclb.datapath.proxy.sockets import Sockname
from asynclb.datapath.proxy.sockfilter import SILENT, Program
from asynclb.net.address import Address


class Gate(Protocol):
    """Decides who reaches a socket. Owner: a frontend."""

    sees_sources: bool
    """Whether disallowed sources are kept away by the gate itself."""

    def start(self) -> None:
        """Begin to receive on the bound socket, in silence."""

    def set(self, program: Program | None) -> None:
        """Let in what the program keeps, everybody if None. Raises: OSError -> the kernel has no room for it."""

    def made(self, client: Sockname) -> bool:
        """Return whether an accepted connection is the gate's own and no client's."""

    def close(self) -> None:
        """Give back what the gate holds; the socket stays as it is."""


class FilterGate:
    """A filter on the socket."""

    sees_sources = True

    def __init__(self, sock: socket.socket) -> None:
        """Make the socket silent. Raises: PermissionError -> this kernel wants CAP_NET_ADMIN for it."""
        self._sock = sock
        self.set(SILENT)

    def start(self) -> None:
        """Listen; a UDP socket receives by being bound."""
        if self._sock.type == socket.SOCK_STREAM:
            self._sock.listen(sockets.LISTEN_BACKLOG)

    def set(self, program: Program | None) -> None:
        """Replace the filter in one step; where there is no room for two large ones, by way of a moment's silence."""
        if program is None:
            sockets.detach_filter(self._sock)
            return
        try:
            sockets.attach_filter(self._sock, program)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            sockets.attach_filter(self._sock, SILENT)
            sockets.attach_filter(self._sock, program)

    def made(self, client: Sockname) -> bool:  # noqa: ARG002  a filter makes no connections
        """No connection is."""
        return False

    def close(self) -> None:
        """Nothing is held."""


class PlugGate:
    """A listening socket's queue, filled up to make it silent."""

    sees_sources = False

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._plug: socket.socket | None = None
        self._own: set[Sockname] = set()

    def start(self) -> None:
        """Listen with a queue that is full at once."""
        self.set(SILENT)

    def set(self, program: Program | None) -> None:
        """Fill the queue for silence, else make room; clients that were in it by then are accepted as usual.

        Without a descriptor left for the plug, one client finds room in the queue, and then it is full.
        """
        if program != SILENT:
            self.close()
            self._sock.listen(sockets.LISTEN_BACKLOG)
        elif self._plug is None:
            self._sock.listen(0)
            try:
                self._plug = sockets.dial(socket.SOCK_STREAM, self._sock.getsockname(), None)
            except OSError:
                return
            if sockets.is_connected(self._plug):  # else the queue was full of clients, which is as good
                self._own.add(self._plug.getsockname())

    def made(self, client: Sockname) -> bool:
        """The plugs' are, each once."""
        if client not in self._own:
            return False
        self._own.discard(client)
        return True

    def close(self) -> None:
        """Drop the plug: its connection in the queue turns out to be closed."""
        if self._plug is not None:
            self._plug.close()
            self._plug = None


def open_gate(address: Address, port: int, kind: socket.SocketKind, *, transparent: bool) -> tuple[socket.socket, Gate]:
    """Bind a socket on a frontend that is silent from its first moment, and return it with its gate.

    Raises: OSError -> EADDRINUSE, EADDRNOTAVAIL (not transparent and not this host's), EACCES.
    """
    sock = sockets.create(address, kind, transparent=transparent)
    try:
        gate = _gate(sock)
        sock.bind((str(address), port))
        gate.start()
    except BaseException:
        sock.close()
        raise
    return sock, gate


def _gate(sock: socket.socket) -> Gate:
    try:
        return FilterGate(sock)
    except PermissionError:
        if sock.type != socket.SOCK_STREAM:
            raise
        return PlugGate(sock)
