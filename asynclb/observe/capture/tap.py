"""A packet socket that sees the frames of a few addresses, both ways, on every interface, and a filter for it.

The filter is classic BPF and compares the last word of the addresses: what it lets through too much is left out later.
Source: Documentation/networking/filter.rst, packet(7).
"""

import ctypes
import socket
import struct
import time
from collections.abc import Collection
from dataclasses import dataclass

from asynclb.net.address import Address

MOST_ADDRESSES = 500
"""More of them do not fit a filter, which then lets everything through."""
_ETH_P_ALL = 3
_SO_ATTACH_FILTER, _SO_TIMESTAMPNS = 26, 35
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_AUXDATA = 263, 6, 8
_OUTGOING = 4
_NOTES_BYTES = 128
_LOAD_WORD, _LOAD_BYTE, _AND, _EQUAL, _JUMP, _RETURN = 0x20, 0x30, 0x54, 0x15, 0x05, 0x06
_NETWORK = 0xFFF0_0000  # SKF_NET_OFF: from the IP header on
_LAST_WORDS = {4: (12, 16), 6: (20, 36)}  # of source and destination
_ROOM_BYTES = 4 << 20
_STAMP = struct.Struct("=qq")


@dataclass(frozen=True, slots=True)
class Caught:
    """A frame as a tap sees it. `length` is its own, of which `data` may have only the first part."""

    data: bytes
    length: int
    interface: str
    outbound: bool
    at_ns: int


class Tap:
    """Owner: one capture."""

    def __init__(self, addresses: Collection[Address] | None, snaplen: int) -> None:
        """Open it; what comes before the filter is there is other frames too. Raises: OSError -> no CAP_NET_RAW."""
        self._snaplen = snaplen
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        try:
            self.sock.setblocking(False)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM_BYTES)
            self.sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self.sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            program = program_for(addresses, snaplen)
            code = ctypes.create_string_buffer(program, len(program))
            attached = struct.pack("HP", len(program) // 8, ctypes.addressof(code))
            self.sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)
        except BaseException:
            self.sock.close()
            raise

    def next(self) -> Caught | None:
        """Return the next frame, None when there is none. Raises: OSError -> an interface went down, say."""
        try:
            data, notes, _, (interface, _, direction, _, _) = self.sock.recvmsg(self._snaplen, _NOTES_BYTES)
        except BlockingIOError:
            return None
        at_ns, length = time.time_ns(), len(data)
        for level, kind, value in notes:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
                seconds, rest = _STAMP.unpack_from(value)
                at_ns = seconds * 1_000_000_000 + rest
            elif (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
                length = struct.unpack_from("=I", value, 4)[0]
        return Caught(data, length, interface, direction == _OUTGOING, at_ns)

    def lost(self) -> int:
        """Return how many frames the socket had no room for since the last call."""
        found = self.sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        return int(struct.unpack("=II", found)[1])

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


def program_for(addresses: Collection[Address] | None, snaplen: int) -> bytes:
    """Return the filter for frames from or to these addresses; every frame where they are too many, or None."""
    if addresses is None or len(addresses) > MOST_ADDRESSES:
        return _step(_RETURN, snaplen)
    parts = {version: _either(addresses, version, snaplen) for version in (4, 6)}
    behind = len(parts[4]) // 8
    return b"".join(
        (
            _step(_LOAD_BYTE, _NETWORK),
            _step(_AND, 0xF0),
            _step(_EQUAL, 0x40, right=1),
            _step(_JUMP, behind),
            parts[4],
            parts[6],
        )
    )


def _either(addresses: Collection[Address], version: int, snaplen: int) -> bytes:
    """Keep a packet one of whose ends has the last word of an address, and drop it otherwise."""
    words = sorted({int(address) & 0xFFFF_FFFF for address in addresses if address.version == version})
    keep = [_step(_EQUAL, word, wrong=1) + _step(_RETURN, snaplen) for word in words]
    looks = (_step(_LOAD_WORD, _NETWORK + offset) + b"".join(keep) for offset in _LAST_WORDS[version])
    return b"".join(looks) + _step(_RETURN, 0)


def _step(code: int, value: int, *, right: int = 0, wrong: int = 0) -> bytes:
    return struct.pack("=HBBI", code, right, wrong, value)
