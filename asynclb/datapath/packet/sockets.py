"""The sockets of one interface: for each engine one that receives and one that sends.

Laws:
  1. The process that decides opens them, needs the capabilities, and holds them for as long as the interface is used.
     Engines in other processes borrow them, so a worker needs no privileges, and one that dies takes no socket along.
  2. With several engines the receivers are a group that pins flows (`fanout`), in the order of the engines.
"""

import socket
from collections.abc import Iterable
from dataclasses import dataclass

from asynclb.datapath.frames.surroundings import Link
from asynclb.datapath.packet.fanout import Pinning, silence
from asynclb.datapath.packet.ports import RING_FRAMES
from asynclb.datapath.packet.ring import lost_frames, open_receiver, open_sender


@dataclass(frozen=True, slots=True)
class LinkSockets:
    """Shape: one receiver and one sender for each engine, in the same order."""

    link: Link
    receivers: tuple[socket.socket, ...]
    senders: tuple[socket.socket, ...]

    def lost(self) -> int:
        """Return how many frames the rings have lost since the last call."""
        return sum(map(lost_frames, self.receivers))

    def close(self) -> None:
        """Close them; engines that map a ring have their own share of it."""
        _close((*self.receivers, *self.senders))


def open_sockets(link: Link, pinning: Pinning | None, engines: int) -> LinkSockets:
    """Open an interface's sockets; frames arrive from now on.

    Raises: OSError -> the interface is gone, or a capability is missing.
    """
    receivers: list[socket.socket] = []
    senders: list[socket.socket] = []
    before = None if pinning is None else silence
    try:
        for _ in range(engines):
            receivers.append(open_receiver(link.name, RING_FRAMES, before=before))
            senders.append(open_sender(link.name))
        if pinning is not None:
            pinning.join(receivers)
    except BaseException:
        _close((*receivers, *senders))
        raise
    return LinkSockets(link, tuple(receivers), tuple(senders))


def _close(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
