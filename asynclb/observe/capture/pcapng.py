"""The blocks of a pcapng file. Pure. Source: draft-ietf-opsawg-pcapng, sections 4.1 to 4.4."""

import struct

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_MAGIC = 0x1A2B3C4D
_LINK_ETHERNET = 1
_COMMENT, _APPLICATION = 1, 4
_IF_NAME, _IF_RESOLUTION = 2, 9
_PACKET_FLAGS = 2
_IF_DROPPED = 5
_NANOSECONDS = b"\x09"
INBOUND, OUTBOUND = 1, 2


def section(application: str) -> bytes:
    """Begin a file."""
    head = struct.pack("=IHHq", _MAGIC, 1, 0, -1)
    return _block(_SECTION, head + _options((_APPLICATION, application.encode())))


def interface(name: str, snaplen: int) -> bytes:
    """Describe an interface; packets refer to it by its place among all, from 0."""
    head = struct.pack("=HHI", _LINK_ETHERNET, 0, snaplen)
    return _block(_INTERFACE, head + _options((_IF_NAME, name.encode()), (_IF_RESOLUTION, _NANOSECONDS)))


def packet(interface_id: int, at_ns: int, frame: bytes, length: int, *, outbound: bool, comment: str) -> bytes:
    """Write a frame, of which perhaps only the first part is kept. Units: `at_ns` Unix time."""
    head = struct.pack("=IIIII", interface_id, at_ns >> 32, at_ns & 0xFFFF_FFFF, len(frame), length)
    flags = struct.pack("=I", OUTBOUND if outbound else INBOUND)
    return _block(_PACKET, head + _padded(frame) + _options((_COMMENT, comment.encode()), (_PACKET_FLAGS, flags)))


def statistics(interface_id: int, at_ns: int, dropped: int) -> bytes:
    """Say how many frames of an interface are missing in the file."""
    head = struct.pack("=III", interface_id, at_ns >> 32, at_ns & 0xFFFF_FFFF)
    return _block(_STATISTICS, head + _options((_IF_DROPPED, struct.pack("=Q", dropped))))


def _options(*options: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("=HH", code, len(value)) + _padded(value) for code, value in options) + bytes(4)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _block(kind: int, body: bytes) -> bytes:
    size = len(body) + 12
    return struct.pack("=II", kind, size) + body + struct.pack("=I", size)
