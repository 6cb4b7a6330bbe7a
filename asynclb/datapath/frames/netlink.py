"""Netlink by hand, for the few questions that are asked often: some 20 us each, where pyroute2 takes 300.

That adds up: there are thousands of members, and a reload waits for what is known of the new ones.

Source: netlink(7); linux/netlink.h.
"""

import socket
import struct
from collections.abc import Iterator

_HEAD, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
_KINDS = 0x3FFF  # of an attribute; above are flags
_ANSWER_S = 5.0


def open_netlink(protocol: int = socket.NETLINK_ROUTE) -> socket.socket:
    """Return a socket that asks in the calling thread's network namespace. Raises: OSError -> there is none."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    sock.settimeout(_ANSWER_S)
    return sock


def packed(kind: int, flags: int, body: bytes) -> bytes:
    """Return a message."""
    return _HEAD.pack(_HEAD.size + len(body), kind, _REQUEST | flags, 1, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute as it stands in a message's body."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and the body of each message of a datagram."""
    while len(data) >= _HEAD.size:
        size, kind, *_ = _HEAD.unpack_from(data)
        yield kind, data[_HEAD.size : size]
        data = data[max(_HEAD.size, -(-size // 4) * 4) :]


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes that a message has behind what its kind begins with."""
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        found[kind & _KINDS] = data[_ATTRIBUTE.size : size]
        data = data[max(_ATTRIBUTE.size, -(-size // 4) * 4) :]
    return found


def asked(sock: socket.socket, kind: int, body: bytes) -> bytes | None:
    """Return the body of the one answer to a question, or None where the kernel refuses it. Raises: OSError."""
    sock.send(packed(kind, 0, body))
    answer, found = next(messages(sock.recv(1 << 16)), (_ERROR, b""))
    return None if answer == _ERROR else found


def dumped(sock: socket.socket, kind: int, body: bytes) -> Iterator[bytes]:
    """Yield the bodies of all answers to a question; none where the kernel refuses it. Raises: OSError.

    All of them have to be taken before another question.
    """
    sock.send(packed(kind, _DUMP, body))
    while True:
        for answer, found in messages(sock.recv(1 << 16)):
            if answer in (_ERROR, _DONE):
                return
            yield found
