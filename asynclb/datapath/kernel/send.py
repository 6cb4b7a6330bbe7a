"""Sends the few frames that are made here: resets to idle connections, announcements of VIPs."""

import socket
from contextlib import suppress

from asynclb.datapath.host import Capability, missing
from asynclb.events import Emit, Event


class Sender:
    """A packet socket that receives nothing; without CAP_NET_RAW there is none, which is said. Owner: the datapath."""

    def __init__(self, emit: Emit) -> None:
        self._sock: socket.socket | None = None
        if missing(Capability.CAP_NET_RAW):
            remedy = "idle connections get no resets and VIPs are not announced without it"
            emit(Event.HOST_LIMIT, what="CAP_NET_RAW", value="missing", remedy=remedy)
            return
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._sock.setblocking(False)

    def send(self, interface: str, frame: bytes) -> None:
        """Send a frame, if the interface has room for it: all of these are best effort."""
        if self._sock is not None:
            with suppress(OSError):
                self._sock.sendto(frame, (interface, 0))

    def close(self) -> None:
        """Close the socket."""
        if self._sock is not None:
            self._sock.close()
