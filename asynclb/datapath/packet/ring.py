"""AF_PACKET sockets: a mapped ring to receive from, and batched sends. The only file that names their options.

The core writes frames that leave into a buffer, one behind the other, and sendmmsg(2) sends them from there. A transmit
ring would save the kernel's copy, but the pages of its frames are given back as soon as a virtual device orphans the
packet, which may be before the receiver has read it: data would change on its way.

The guard's egress chain costs half as much as sending. A sender's mark lets frames pass it at once; those that it has
to see (core/note.h says which) carry another mark in a control message, on the same socket, so the order stays. An
engine that may not set marks leaves the socket as it was opened, where every frame is seen: slower, not wrong.
PACKET_QDISC_BYPASS would not help: that hook comes before it.

Every frame arrives with a `virtio_net_hdr` in front: large unsegmented TCP frames and partial checksums arrive as they
are on the device and leave as they came, and the device that they leave by segments and completes them. A sender is
switched between frames with and without that header: the kernel reads it with a copy of its own.

Source: packet(7), Documentation/networking/packet_mmap.rst, linux/if_packet.h, linux/virtio_net.h; tpacket_destruct_skb
in net/packet/af_packet.c and skb_orphan in net/ipv4/ip_input.c for what is said of transmit rings.
"""

import ctypes
import mmap
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from asynclb.datapath.core import layout
from asynclb.datapath.core.core import Core, RxRing
from asynclb.datapath.packet.ruleset import MARK, QUIET, SHOWN_MS

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

_NO_OFFLOAD = bytes(10)  # struct virtio_net_hdr of a whole frame with complete checksums
_MMSGHDR = struct.Struct("=QIIQQQQiiII")  # struct mmsghdr on 64-bit Linux: 64 bytes, the last 4 its padding
_NOTE = struct.Struct("=60xI")  # what the core writes into that padding
_NOTE_BYTES = 16
_IOVEC_BYTES = 16
_SHOWN = struct.pack("=QiiI4x", 20, socket.SOL_SOCKET, socket.SO_MARK, MARK)
"""A control message that gives one frame another mark than its socket's. Source: cmsg(3), socket(7)."""

_BUFFER_BYTES = 10 << 20
"""Room for what one batch sends (BATCH_BYTES) though each frame has a header, and for every fragment that is held."""

_NOTE_SETS, _NOTE_WAYS = 1 << 16, 4
"""Room for 262,144 flows that the guard was shown lately, as many as it notes; pages are taken when first used."""

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
    """Open a socket whose frames, each behind a `virtio_net_hdr`, leave by an interface, marked as ours.

    Raises: OSError -> as `open_receiver`.
    """
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        sock.setsockopt(SOL_PACKET, _PACKET_VNET_HDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        sock.bind((interface, 0))  # protocol 0: this socket receives nothing
    except BaseException:
        sock.close()
        raise
    return sock


def _set_quiet(sock: socket.socket) -> bool:
    """Let a sender's frames pass the guard, if this process may set marks, also those of single frames."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK | QUIET)
    except PermissionError:
        return False
    return True


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
        self.ifindex, self._sock, self._plain = ifindex, sock, True
        self._set_plain(plain=False)  # whoever had this socket before may have left it otherwise
        self.buffer = mmap.mmap(-1, _BUFFER_BYTES)
        self._notes = mmap.mmap(-1, _NOTE_SETS * _NOTE_WAYS * _NOTE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):
            self._notes.madvise(mmap.MADV_HUGEPAGE)
        self._vectors = ctypes.create_string_buffer(_IOVEC_BYTES * frames)
        self._messages = ctypes.create_string_buffer(_MMSGHDR.size * frames)
        self._shown = ctypes.create_string_buffer(_SHOWN, len(_SHOWN))
        self._outlet = layout.Outlet(
            vectors=ctypes.addressof(self._vectors),
            messages=ctypes.addressof(self._messages),
            notes=ctypes.addressof(ctypes.c_char.from_buffer(self._notes)),
            note_sets=_NOTE_SETS if _set_quiet(sock) else 0,
            interval_ms=SHOWN_MS,
            limit=frames,
        )
        self._descriptor, self._first, self._frames = sock.fileno(), self._outlet.messages, frames
        control = ctypes.addressof(self._shown)
        for index in range(frames):
            vector = self._outlet.vectors + index * _IOVEC_BYTES
            _MMSGHDR.pack_into(self._messages, index * _MMSGHDR.size, 0, 0, 0, vector, 1, control, 0, 0, 0, 0, 0)

    def attach(self, core: Core) -> None:
        """Let the core write frames for this interface into the buffer."""
        core.attach_buffer(self.ifindex, self.buffer)

    def flush(self, core: Core, now_ns: int) -> None:
        """Send everything that waits: quietly, but for what the guard has to see.

        A frame that the device does not take (its queue is full, it is down, the frame is too long) is lost, as it
        would be on a wire; those behind it are still sent.
        """
        count = self._frames
        while count == self._frames:
            count, plain = core.collect(self.ifindex, self._outlet, now_ns)
            if count and plain != self._plain:
                self._set_plain(plain=plain)
            at = 0
            while at < count:
                sent = _LIBC.sendmmsg(self._descriptor, self._first + at * _MMSGHDR.size, count - at, 0)
                if sent < 0:
                    self._take_back(at)
                at += max(sent, 1)

    def send(self, frame: bytes) -> None:
        """Send one frame of our own."""
        with suppress(OSError):
            self._sock.send(frame if self._plain else _NO_OFFLOAD + frame)

    def _set_plain(self, *, plain: bool) -> None:
        """Let frames be sent without a `virtio_net_hdr`, or with one."""
        self._sock.setsockopt(SOL_PACKET, _PACKET_VNET_HDR, not plain)
        self._plain = plain

    def _take_back(self, index: int) -> None:
        """Forget that the guard was shown the flow of a message: it was not sent."""
        (note,) = _NOTE.unpack_from(self._messages, index * _MMSGHDR.size)
        if note:
            self._notes[(note - 1) * _NOTE_BYTES : note * _NOTE_BYTES] = bytes(_NOTE_BYTES)

    def close(self, core: Core | None = None) -> None:
        """Take the buffer from the core and give it back."""
        if core is not None:
            core.detach_egress(self.ifindex)
        with suppress(BufferError):  # the core's view goes with its next collection
            self.buffer.close()
