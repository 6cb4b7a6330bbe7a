"""AF_PACKET sockets: a mapped ring to receive from, and batched sends. The only file that names their options.

The core writes frames that leave into a buffer laid out as a transmit ring, and sendmmsg(2) sends them from there. A
real one would save the kernel's copy, but the pages of its frames are given back as soon as a virtual device
orphans the packet, which may be before the receiver has read it: data would change on its way.

Every frame carries a `virtio_net_hdr` in front: large unsegmented TCP frames and partial checksums arrive as they are
on the device and leave as they came, and the device that they leave by segments and completes them.

Source: packet(7), Documentation/networking/packet_mmap.rst, linux/if_packet.h, linux/virtio_net.h; tpacket_destruct_skb
in net/packet/af_packet.c and skb_orphan in net/ipv4/ip_input.c for what is said of transmit rings.
"""

import ctypes
import mmap
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

from asynclb.datapath.core.core import Core, RxRing
from asynclb.datapath.packet.ruleset import MARK

_SOL_PACKET = 263
_PACKET_RX_RING = 5
_PACKET_STATISTICS = 6
_PACKET_VERSION = 10
_PACKET_VNET_HDR = 15
_PACKET_IGNORE_OUTGOING = 23
_TPACKET_V2 = 1
_ETH_P_ALL = 3

FRAME_BYTES = 17 << 12
"""Room for one frame: an unsegmented TCP frame of 65,226 bytes with its headers does not fit into 64 KiB."""

_BLOCK_FRAMES = 15 if mmap.PAGESIZE == 1 << 12 else 16
"""Frames fill a block, which is whole pages: of 15, for which the kernel takes 1 MiB; 16 where pages are larger."""

_STRIDE = FRAME_BYTES + 192
"""From one frame to the next of what is sent: no multiple of a page, or they push one another out of the cache."""

_NO_OFFLOAD = bytes(10)  # struct virtio_net_hdr of a whole frame with complete checksums
_MMSGHDR = struct.Struct("=QIIQQQQiiII")  # struct mmsghdr on 64-bit Linux: 64 bytes
_IOVEC_BYTES = 16
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.sendmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]
_LIBC.sendmmsg.restype = ctypes.c_int


@dataclass(frozen=True, slots=True)
class RingStatistics:
    """Frames since the last call: taken by the ring, and lost because it was full."""

    frames: int
    lost: int


class ReceiveRing:
    """A TPACKET_V2 ring on one interface. Owner: a port.

    V2, because it hands every frame over at once; V3 holds a lone frame back until its block retires.
    """

    def __init__(self, interface: str, ifindex: int, frames: int) -> None:
        """Open, map and bind: frames arrive from now on. `frames` is a multiple of 240, for whole blocks.

        Raises: OSError -> no such interface, no capability.
        """
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            self.sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
            self.sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            self.sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            blocks = frames // _BLOCK_FRAMES
            request = struct.pack("IIII", _BLOCK_FRAMES * FRAME_BYTES, blocks, FRAME_BYTES, frames)
            self.sock.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
            self._map = mmap.mmap(self.sock.fileno(), frames * FRAME_BYTES, mmap.MAP_SHARED)
            self.rx = RxRing(self._map, ifindex=ifindex, frame_size=FRAME_BYTES, frame_count=frames)
            self.sock.bind((interface, _ETH_P_ALL))
        except BaseException:
            self.sock.close()
            raise

    def statistics(self) -> RingStatistics:
        """Read and reset the kernel's counters."""
        taken, lost = struct.unpack("II", self.sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return RingStatistics(taken, lost)

    def close(self) -> None:
        """Unmap and close."""
        self.rx.close()
        self._map.close()
        self.sock.close()


class Egress:
    """Sends what the core has written for one interface. Owner: a port."""

    def __init__(self, interface: str, ifindex: int, frames: int) -> None:
        """Open the socket and make the buffer. Raises: OSError -> no such interface, no capability."""
        self.ifindex = ifindex
        self._frames = frames
        self._tail = 0
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            self.sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
            self.sock.bind((interface, 0))  # protocol 0: this socket receives nothing
        except BaseException:
            self.sock.close()
            raise
        self.buffer = mmap.mmap(-1, frames * _STRIDE)
        self._vectors = ctypes.create_string_buffer(_IOVEC_BYTES * frames)
        self._messages = ctypes.create_string_buffer(_MMSGHDR.size * frames)
        vectors = ctypes.addressof(self._vectors)
        for index in range(frames):
            _MMSGHDR.pack_into(self._messages, index * 64, 0, 0, 0, vectors + index * _IOVEC_BYTES, 1, 0, 0, 0, 0, 0, 0)

    def attach(self, core: Core) -> None:
        """Let the core write frames for this interface into the buffer."""
        core.attach_egress(self.ifindex, self.buffer, _STRIDE, self._frames)

    def flush(self, core: Core) -> None:
        """Send everything that waits.

        A frame that the device does not take (its queue is full, it is down, the frame is too long) is lost, as it
        would be on a wire; those behind it are still sent.
        """
        count = core.collect(self.ifindex, self._tail, self._vectors)
        self._tail = (self._tail + count) % self._frames
        base, at = ctypes.addressof(self._messages), 0
        while at < count:
            sent = _LIBC.sendmmsg(self.sock.fileno(), base + at * _MMSGHDR.size, count - at, 0)
            at += max(sent, 1)

    def send_one(self, frame: bytes) -> None:
        """Send one frame of our own; the wire may lose it as any other."""
        with suppress(OSError):
            self.sock.send(_NO_OFFLOAD + frame)

    def close(self, core: Core | None = None) -> None:
        """Take the buffer from the core and close."""
        if core is not None:
            core.detach_egress(self.ifindex)
        self.sock.close()
        with suppress(BufferError):  # the core's view goes with its next collection
            self.buffer.close()
