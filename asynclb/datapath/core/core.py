"""The typed wrapper of the native core. (Skeleton: signatures are stable.)"""

import mmap
from collections.abc import Collection

from asynclb.datapath.core.values import Batch, CoreCounters, FlowView, NextHop, Result, Swept


class RxRing:
    """A mapped TPACKET_V2 receive ring and how far it has been read. Owner: the datapath that mapped it."""

    def __init__(
        self, ring: mmap.mmap, *, ifindex: int, frame_size: int, frame_count: int, vnet_header: bool = True
    ) -> None:
        """Read `frame_count` frames of `frame_size` from the start of `ring`.

        `vnet_header`: the socket has PACKET_VNET_HDR, so that 10 bytes of virtio_net_hdr stand before each frame.
        """
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """Whether the next frame belongs to user space."""
        raise NotImplementedError


class Core:
    """The native core with its memory. Owner: one datapath, one thread.

    Raises: RuntimeError -> the native library is not available.
    """

    def __init__(
        self,
        max_flows: int = 1_000_000,
        *,
        max_rules: int = 8_192,
        max_members: int = 65_536,
        max_next_hops: int = 65_536,
    ) -> None:
        raise NotImplementedError

    def publish(self, image: bytes) -> None:
        """Let every frame from here on meet this image. Raises: ValueError -> it is damaged; the old one stays."""
        raise NotImplementedError

    def set_next_hop(self, index: int, hop: NextHop | None) -> None:
        """Replace a next hop in place; None is unresolved."""
        raise NotImplementedError

    def wanted_next_hops(self) -> tuple[int, ...]:
        """Return the unresolved next hops that frames were dropped for since the last call: resolve them."""
        raise NotImplementedError

    def process(
        self, frame: bytes, *, ifindex: int, now_ns: int, csum_start: int | None = None, csum_offset: int = 0
    ) -> Result:
        """Decide one frame; `csum_start` (from the frame's start) says that its checksum is partial there."""
        raise NotImplementedError

    def attach_egress(
        self, ifindex: int, ring: mmap.mmap, frame_size: int, frame_count: int, *, offset: int = 0, vnet: bool = True
    ) -> None:
        """Send frames for `ifindex` through the TPACKET_V2 transmit ring at `offset` of `ring`; at most 64 of them.

        `vnet`: the socket has PACKET_VNET_HDR.
        """
        raise NotImplementedError

    def detach_egress(self, ifindex: int) -> None:
        """Forget a transmit ring; frames for it are dropped with a reason."""
        raise NotImplementedError

    def receive(self, rx: RxRing, budget: int, now_ns: int) -> Batch:
        """Take at most `budget` frames off the ring, decide each, give it back, fill the egress rings."""
        raise NotImplementedError

    def sweep(self, now_ns: int, budget: int) -> Swept:
        """Visit at most `budget` buckets (9 flows each) of the flow table, and expire what is past its deadline."""
        raise NotImplementedError

    def forget_members(self, members: Collection[int]) -> int:
        """Remove every flow of these member ids; returns how many there were."""
        raise NotImplementedError

    def counters(self) -> CoreCounters:
        """Return a snapshot of the counters that are not zero."""
        raise NotImplementedError

    def flows(self, cursor: int = 0, limit: int = 1_000) -> tuple[list[FlowView], int | None]:
        """Return some flows and the cursor for the next ones, or None at the end."""
        raise NotImplementedError

    def close(self) -> None:
        """Give the memory back."""
        raise NotImplementedError
