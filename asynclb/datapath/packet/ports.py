"""A port: one interface of the host, with its receive ring and its sender."""

from collections.abc import Mapping

from asynclb.datapath.core.core import Core
from asynclb.datapath.packet.neighbours import Link
from asynclb.datapath.packet.ring import Egress, ReceiveRing

RING_FRAMES = 480
"""Frames that may wait for the loop: large ones hold 30 MiB of streams, small ones 2 ms at 250,000 a second."""

_EGRESS_FRAMES = 512
_BUDGET = 128
"""Frames a call: 128 large ones take about 2 ms, then the loop's other work has its turn."""


class Port:
    """Owner: the datapath."""

    def __init__(self, link: Link) -> None:
        """Open both sockets. Raises: OSError -> the interface is gone, or a capability is missing."""
        self.link = link
        self._ring = ReceiveRing(link.name, link.index, RING_FRAMES)
        try:
            self.egress = Egress(link.name, link.index, _EGRESS_FRAMES)
        except BaseException:
            self._ring.close()
            raise
        self._attached: Core | None = None

    def attach(self, core: Core) -> None:
        """Let the core send by this port."""
        self.egress.attach(core)
        core.set_interface(self.link.index, self.link.address)
        self._attached = core

    def serve(self, core: Core, ports: Mapping[int, "Port"], now_ns: int) -> None:
        """Take one batch off the ring and send what leaves."""
        batch = core.receive(self._ring.rx, _BUDGET, now_ns)
        for ifindex in batch.dirty:
            ports[ifindex].egress.flush(core)

    def lost(self) -> int:
        """Return how many frames the ring has lost since the last call."""
        return self._ring.statistics().lost

    def fileno(self) -> int:
        """Return the receive ring's descriptor."""
        return self._ring.sock.fileno()

    def close(self) -> None:
        """Close both sockets; the core sends nothing more by this port."""
        self._ring.close()
        self.egress.close(self._attached)
