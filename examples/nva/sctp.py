"""As much SCTP as a stateful firewall wants to see: the four-way handshake, verification tags, checksums, data.

It is carried by raw sockets, for not every kernel has SCTP sockets. Source: RFC 9260; RFC 3309 for the checksum.
"""

import os
import struct
from typing import NamedTuple

PROTOCOL = 132
DATA, INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK = 0, 1, 2, 10, 11
_COOKIE = 7  # parameter type
_WHOLE = 3  # DATA flags: the first and the last fragment of a message
_REVERSED_POLYNOMIAL = 0x82F63B78  # CRC32c


def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_REVERSED_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC = _table()


def crc32c(data: bytes) -> int:
    """Return the checksum. Source: RFC 9260, appendix A."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class Packet(NamedTuple):
    """A packet with one chunk; `value` is what follows the chunk's header."""

    source_port: int
    destination_port: int
    tag: int
    kind: int
    value: bytes

    def wire(self) -> bytes:
        """Return the packet's bytes, with its checksum."""
        flags = _WHOLE if self.kind == DATA else 0
        chunk = struct.pack("!BBH", self.kind, flags, 4 + len(self.value)) + self.value
        chunk += bytes(-len(chunk) % 4)
        head = struct.pack("!HHI", self.source_port, self.destination_port, self.tag)
        return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def read(data: bytes) -> Packet:
    """Read a packet of one chunk."""
    source_port, destination_port, tag = struct.unpack_from("!HHI", data)
    kind, _, size = struct.unpack_from("!BBH", data, 12)
    return Packet(source_port, destination_port, tag, kind, data[16 : 12 + size])


def init(tag: int, cookie: bytes = b"") -> bytes:
    """Return the value of an INIT, or with a cookie of an INIT ACK, that asks for `tag` in what is sent to us."""
    value = struct.pack("!IIHHI", tag, 65536, 1, 1, 1)
    return value + (struct.pack("!HH", _COOKIE, 4 + len(cookie)) + cookie if cookie else b"")


def initiate_tag(value: bytes) -> int:
    """Return the tag that an INIT or INIT ACK asks for."""
    tag: int = struct.unpack_from("!I", value)[0]
    return tag


def data(number: int, body: bytes) -> bytes:
    """Return the value of a DATA chunk: sequence number, stream 0."""
    return struct.pack("!IHHI", number, 0, number & 0xFFFF, 0) + body


def body(value: bytes) -> bytes:
    """Return what a DATA chunk carries."""
    return value[12:]


class Answerer:
    """The end that is asked: takes associations, and sends data back as it came. Owner: one service."""

    def __init__(self) -> None:
        self._peers: dict[tuple[str, int], int] = {}

    def answer(self, packet: bytes, peer: str) -> bytes | None:
        """Return the answer to a packet, or None where none is due."""
        asked = read(packet)
        reply, value = {
            INIT: (INIT_ACK, init(int.from_bytes(os.urandom(4), "big") | 1, cookie=b"cookie00")),
            COOKIE_ECHO: (COOKIE_ACK, b""),
            DATA: (DATA, asked.value),
        }.get(asked.kind, (None, b""))
        if reply is None:
            return None
        if asked.kind == INIT:
            self._peers[peer, asked.source_port] = initiate_tag(asked.value)
        tag = self._peers.get((peer, asked.source_port))
        if tag is None:
            return None
        return Packet(asked.destination_port, asked.source_port, tag, reply, value).wire()
