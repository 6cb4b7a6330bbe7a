"""What leaves by the host's own routing: the first packets of members' own connections.

Where the other end is, nobody knows before it has answered: the host's routes say it, and its neighbours are resolved
by it. The packets go through a raw socket, with the address that the core has written as their source, and carry the
datapath's mark; from the answer on, frames leave by the rings.

The core writes frames for interface 0 into a buffer, as for any other. Source: raw(7), IP_HDRINCL; ipv6(7).
"""

import errno
import mmap
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address

from asynclb.datapath.core.core import Core
from asynclb.datapath.core.reset import checksum
from asynclb.datapath.packet.ring import FRAME_BYTES
from asynclb.datapath.packet.ruleset import MARK
from asynclb.net.drop import Drop

HOST = 0
"""The interface number that stands for the host's routing."""

_FRAMES = 128
_STATUS = struct.Struct("=II")  # status and length of struct ring_frame
_DATA = 32  # where a frame's bytes begin
_VIRTIO = struct.Struct("=BBHHHH")
_NEEDS_CHECKSUM = 1
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_TAGS = (b"\x81\x00", b"\x88\xa8")


class HostRoute:
    """Owner: an engine. Sockets are opened when they are first needed."""

    def __init__(self, core: Core) -> None:
        """Let the core write. Raises: OSError -> no memory."""
        self._buffer = mmap.mmap(-1, _FRAMES * FRAME_BYTES)
        self._next = 0
        self._sockets: dict[int, socket.socket] = {}
        core.attach_egress(HOST, self._buffer, FRAME_BYTES, _FRAMES)

    def flush(self, core: Core, _now_ns: int) -> None:
        """Send everything that waits; what cannot be sent is counted as a drop."""
        for head, frame in self._waiting():
            reason = self._send(head, frame)
            if reason is not None:
                core.count_drop(reason)

    def close(self, core: Core) -> None:
        """Take the buffer from the core, and close the sockets."""
        core.detach_egress(HOST)
        for sock in self._sockets.values():
            sock.close()
        with suppress(BufferError):  # the core's view goes with its next collection
            self._buffer.close()

    def _waiting(self) -> Iterator[tuple[bytes, bytes]]:
        while True:
            place = self._next * FRAME_BYTES
            status, length = _STATUS.unpack_from(self._buffer, place)
            if not status:
                return
            data = self._buffer[place + _DATA : place + _DATA + length]
            _STATUS.pack_into(self._buffer, place, 0, 0)
            self._next = (self._next + 1) % _FRAMES
            yield data[: _VIRTIO.size], data[_VIRTIO.size :]

    def _send(self, head: bytes, frame: bytes) -> Drop | None:
        flags, segmented, _, _, start, offset = _VIRTIO.unpack(head)
        at = 12
        while frame[at : at + 2] in _TAGS:
            at += 4
        if segmented or frame[at : at + 2] not in (_IPV4, _IPV6):
            return Drop.NO_EGRESS  # the kernel would have to cut it, which raw sockets do not ask for
        four, packet = frame[at : at + 2] == _IPV4, frame[at + 2 :]
        destination = ip_address(packet[16:20] if four else packet[24:40])
        packet = packet[: int.from_bytes(packet[2:4], "big") if four else 40 + int.from_bytes(packet[4:6], "big")]
        if flags & _NEEDS_CHECKSUM:
            packet = _completed(packet, start - at - 2, offset)
        try:
            self._socket(4 if four else 6).sendto(packet, (str(destination), 0))
        except OSError as error:
            return Drop.TOO_BIG if error.errno == errno.EMSGSIZE else Drop.NO_EGRESS
        return None

    def _socket(self, version: int) -> socket.socket:
        sock = self._sockets.get(version)
        if sock is None:
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
            except BaseException:
                sock.close()
                raise
            self._sockets[version] = sock
        return sock


def _completed(packet: bytes, start: int, offset: int) -> bytes:
    """Return a packet whose partial checksum, which covers what is from `start` on, is complete."""
    at = start + offset
    body = packet[start:]
    return packet[:at] + (checksum(body) or 0xFFFF).to_bytes(2, "big") + packet[at + 2 :]
