"""A port: one interface of the host as one engine has it, with a receive ring and a sender of its own.

The receiver is watched through an epoll of its own. An interface that goes down leaves an error on its sockets, and
uvloop stops watching a descriptor that has one, for good; asyncio would call again and again. To either of them the
epoll is readable, as for a frame, and the error is taken when there is none.
"""

import select
import socket
from collections.abc import Mapping
from typing import Protocol

from asynclb.datapath.core.core import Core
from asynclb.datapath.frames.surroundings import Link
from asynclb.datapath.packet.ring import Egress, ReceiveRing

RING_FRAMES = 480
"""Frames that may wait for the loop: large ones hold 30 MiB of streams, small ones 2 ms at 250,000 a second."""

_EGRESS_FRAMES = 512
_BUDGET = 384
"""Frames a call: small ones take about a millisecond, then the loop has other work. Large ones: BATCH_BYTES."""

_SLOW_NS = 20_000_000
"""A frame that is announced but not there after so long is not being written: it stands elsewhere in the ring."""


class Outlet(Protocol):
    """Where frames leave: an interface, or the host's routing."""

    def flush(self, core: Core, now_ns: int) -> None:
        """Send everything that waits."""


class Port:
    """Owner: an engine."""

    def __init__(self, link: Link, receiver: socket.socket, sender: socket.socket, *, own: bool = False) -> None:
        """Map the ring and make a buffer; `own`: the sockets are the port's. Raises: OSError -> no memory."""
        self.link, self._own = link, own
        self._sender, self._ring = sender, ReceiveRing(receiver, link.index, RING_FRAMES)
        try:
            self.egress = Egress(sender, link.index, _EGRESS_FRAMES)
            self._poll = select.epoll()
            self._poll.register(receiver, select.EPOLLIN)
        except BaseException:
            self._ring.close()
            raise
        self._attached: Core | None = None
        self._idle_since_ns: int | None = None

    def attach(self, core: Core) -> None:
        """Let the core send by this port."""
        self.egress.attach(core)
        core.set_interface(self.link.index, self.link.address, self.link.mtu)
        self._attached = core

    def serve(self, core: Core, outlets: Mapping[int, Outlet], now_ns: int) -> None:
        """Take one batch off the ring and send what leaves."""
        frames, dirty = core.take(self._ring.rx, _BUDGET, now_ns)
        for ifindex in dirty:
            outlets[ifindex].flush(core, now_ns)
        if frames:
            self._idle_since_ns = None
        else:
            self._ring.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # the interface was down: it may be up again
            self._look_for_frame(now_ns)

    def _look_for_frame(self, now_ns: int) -> None:
        """Find the frame that is announced: in an idle ring nobody could know where the reader before has stopped."""
        if self._idle_since_ns is None:
            self._idle_since_ns = now_ns
        elif now_ns - self._idle_since_ns > _SLOW_NS:
            self._ring.rx.seek()
            self._idle_since_ns = None

    def send(self, frame: bytes) -> None:
        """Send one frame of our own."""
        self.egress.send(frame)

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to serve."""
        return self._poll.fileno()

    def close(self) -> None:
        """Let go of the ring; the core sends nothing more by this port."""
        self._poll.close()
        self._ring.close()
        self.egress.close(self._attached)
        if self._attached is not None:
            self._attached.forget_interface(self.link.index)
        if self._own:
            self._ring.sock.close()
            self._sender.close()
