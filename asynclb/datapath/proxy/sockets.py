"""Sockets as the proxy needs them: the only file of the datapath that names socket options.

Transparent sockets carry addresses that are not this host's: a listener on a VIP, and towards the member a
socket that speaks with the client's address and port. Both need CAP_NET_ADMIN (or CAP_NET_RAW) and the
routes of `plumbing`. Source: ip(7), ipv6(7), tcp(7), Documentation/networking/tproxy.rst.
"""

import ctypes
import errno
import os
import socket
import struct

from asynclb.datapath.proxy.sockfilter import Program
from asynclb.net.address import Address

Sockname = tuple[str, int] | tuple[str, int, int, int]

_IP_TRANSPARENT = 19  # linux/in.h
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h
_IPV6_TRANSPARENT = 75  # linux/in6.h
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_SO_DETACH_FILTER = 27
_SO_MEMINFO = 55
_MEMINFO_DROPS = 8  # SK_MEMINFO_DROPS, linux/sock_diag.h
_MEMINFO_WORDS = 9
_TCP_REPAIR = 19  # linux/tcp.h
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds

_PORT_NOT_TO_BE_HAD = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)

LISTEN_BACKLOG = 4096
"""Connections that wait to be accepted; the kernel caps it at net.core.somaxconn (4096 since Linux 5.4)."""

UDP_BUFFER_BYTES = 4 << 20
"""Asked for on UDP listeners, which one burst of all clients shares; the kernel caps it at net.core.rmem_max."""

SMALL_FILTER_BYTES = 8 * 64
"""A filter that no setting of net.core.optmem_max (at least 20 KiB) refuses."""


def create(address: Address, kind: socket.SocketKind, *, transparent: bool) -> socket.socket:
    """Create a non-blocking socket for a frontend, not yet bound. Raises: OSError -> EAFNOSUPPORT, EPERM, EMFILE."""
    sock = socket.socket(_family(address), kind | socket.SOCK_NONBLOCK)
    try:
        if transparent:
            _set_transparent(sock)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)
    except BaseException:
        sock.close()
        raise
    return sock


def dial(
    kind: socket.SocketKind, member: Sockname, source: Sockname | None, *, keep_port: bool = True
) -> socket.socket:
    """Open a non-blocking socket and start connecting it to a member, speaking as `source` if given.

    `keep_port` False keeps only the source's address and lets the kernel find a port for this one destination.
    Raises: OSError -> EADDRINUSE or EADDRNOTAVAIL when the port is taken, or what connect(2) says at once.
    """
    sock = socket.socket(socket.AF_INET6 if len(member) == 4 else socket.AF_INET, kind | socket.SOCK_NONBLOCK)
    try:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source is not None:
            _set_transparent(sock)
            if keep_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(source)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source[0], 0, *source[2:]))
        error = sock.connect_ex(member)
        if error not in (0, errno.EINPROGRESS):
            raise OSError(error, os.strerror(error))
    except BaseException:
        sock.close()
        raise
    return sock


def dial_as(kind: socket.SocketKind, member: Sockname, source: Sockname | None) -> socket.socket:
    """Dial with the source's own port if that is free towards this member, else with its address only.

    A port is taken when the client uses it towards two frontends that lead to one member, or while an earlier
    connection of the same four addresses and ports is still closing. A port below 1024 needs CAP_NET_BIND_SERVICE.
    """
    try:
        return dial(kind, member, source)
    except OSError as error:
        if source is None or error.errno not in _PORT_NOT_TO_BE_HAD:
            raise
    return dial(kind, member, source, keep_port=False)


def sockname(address: Address, port: int) -> Sockname:
    """Return an address as the socket module wants it: 2 items for IPv4, 4 for IPv6."""
    return (str(address), port) if address.version == 4 else (str(address), port, 0, 0)


def attach_filter(sock: socket.socket, program: Program) -> None:
    """Replace the socket's filter in one step. Raises: OSError(ENOMEM) -> larger than net.core.optmem_max allows."""
    buffer = ctypes.create_string_buffer(program, len(program))
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program) // 8, ctypes.addressof(buffer))
    )


def detach_filter(sock: socket.socket) -> None:
    """Let everything through; harmless where there is no filter."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    except FileNotFoundError:
        return


def drops(sock: socket.socket) -> int:
    """Return how many packets the socket has dropped: by its filter, by a full queue, by a full buffer."""
    info = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _MEMINFO_WORDS)
    return int(struct.unpack_from("=I", info, 4 * _MEMINFO_DROPS)[0])


def is_connected(sock: socket.socket) -> bool:
    """Return whether the connection is made, as it is at once between two sockets of one host."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def reset_on_close(sock: socket.socket) -> None:
    """Make close(2) send a reset instead of a FIN. A peer that is gone already makes no difference."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def vanish_on_close(sock: socket.socket) -> None:
    """Make close(2) send nothing at all, as a packet balancer forgets a flow; without CAP_NET_ADMIN a FIN goes out."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    except PermissionError:
        return


def is_own_address(address: Address) -> bool:
    """Return whether the address is one of this host's, so that anybody may bind to it."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((str(address), 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return False
    return True


def _set_transparent(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
