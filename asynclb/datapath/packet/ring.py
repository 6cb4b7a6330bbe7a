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
from collections.abc import Callable
from contextlib import suppress

from asynclb.datapath.core.core import Core, RxRing
from asynclb.datapath.packet.ruleset import MARK

SOL_PACKET = 263
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


def open_receiver(
    interface: str, frames: int, *, before: Callable[[socket.socket], None] | None = None
) -> socket.socket:
    """Open a socket with a TPACKET_V2 ring, bound: frames arrive from now on. `frames` is a multiple of 240.

    V2, because it hands every frame over at once; V3 holds a lone frame back until its block retires. `before` may
    set more options before frames arrive. Whoever has the socket needs no capability to map and read the ring.
    Raises: OSError -> no such interface, no capability.
    """
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        sock.setsockopt(SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
        sock.setsockopt(SOL_PACKET, _PACKET_VNET_HDR, 1)
        sock.setsockopt(SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        blocks = frames // _BLOCK_FRAMES
        request = struct.pack("IIII", _BLOCK_FRAMES * FRAME_BYTES, blocks, FRAME_BYTES, frames)
        sock.setsockopt(SOL_PACKET, _PACKET_RX_RING, request)
        if before is not None:
            before(sock)
        sock.bind((interface, _ETH_P_ALL))
    except BaseException:
        sock.close()
        raise
    return sock


def open_sender(interface: str) -> socket.socket:
    """Open a socket whose frames leave by an interface, marked as ours. Raises: OSError -> as `open_receiver`."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        sock.setsockopt(SOL_PACKET, _PACKET_VNET_HDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        sock.bind((interface, 0))  # protocol 0: this socket receives nothing
    except BaseException:
        sock.close()
        raise
    return sock


def send_one(sock: socket.socket, frame: bytes) -> None:
    """Send one frame of our own; the wire may lose it as any other."""
    with suppress(OSError):
        sock.send(_NO_OFFLOAD + frame)


def lost_frames(sock: socket.socket) -> int:
    """Return how many frames a receiver had no room for since the last call."""
    _taken, lost = struct.unpack("II", sock.getsockopt(SOL_PACKET, _PACKET_STATISTICS, 8))
    return int(lost)


class ReceiveRing:
    """The ring of a receiver, mapped. Owner: a port; the socket stays its opener's."""

    def __init__(self, sock: socket.socket, ifindex: int, frames: int) -> None:
        """Map it. Raises: OSError -> no memory."""
        self.sock = sock
        self._map = mmap.mmap(sock.fileno(), frames * FRAME_BYTES, mmap.MAP_SHARED)
        self.rx = RxRing(self._map, ifindex=ifindex, frame_size=FRAME_BYTES, frame_count=frames)
        self.rx.seek()

    def close(self) -> None:
        """Unmap."""
        self.rx.close()
        self._map.close()


class Egress:
    """Sends what the core has written for one interface. Owner: a port; the socket stays its opener's."""

    def __init__(self, sock: socket.socket, ifindex: int, frames: int) -> None:
        """Make the buffer. Raises: OSError -> no memory."""
        self.sock, self.ifindex = sock, ifindex
        self._frames = frames
        self._tail = 0
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

    def close(self, core: Core | None = None) -> None:
        """Take the buffer from the core and give it back."""
        if core is not None:
            core.detach_egress(self.ifindex)
        with suppress(BufferError):  # the core's view goes with its next collection
            self.buffer.close()
