"""What leaves is written into a buffer, one frame behind the other, and collected for one call of the kernel."""

import mmap
import struct
from ctypes import addressof, create_string_buffer, string_at
from dataclasses import dataclass, field

import pytest

from asynclb import native
from asynclb.datapath.core import Core, RxRing
from asynclb.datapath.core.layout import Outlet
from asynclb.net.drop import Drop
from tests.unit.core.test_rings import FRAME_SIZE, FRAMES, Rings
from tests.unit.core.world import CLIENTS, SECOND, SERVERS, member_link, pool, read, right, row, tcp, world

pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)

BATCH_BYTES = 4 << 20  # ring.h
VIP, ALICE = "203.0.113.10", "198.51.100.7"
WHOLE, PARTIAL = bytes(10), struct.pack("=BBHHHH", 1, 1, 54, 1448, 34, 16)


@dataclass
class Wire:
    """A core whose frames are collected from a buffer. Owner: a test."""

    cells: int = 1_024
    limit: int = FRAMES
    rings: Rings = field(default_factory=Rings)

    def __post_init__(self) -> None:
        self.core: Core = world(row(pool("web", "10.1.0.11"), VIP)).core()
        self._buffer = mmap.mmap(-1, self.cells * 128)
        self.core.attach_buffer(SERVERS, self._buffer)
        self.rx = RxRing(self.rings.rx, ifindex=CLIENTS, frame_size=FRAME_SIZE, frame_count=FRAMES)
        self._vectors, self._messages = create_string_buffer(16 * self.limit), create_string_buffer(64 * self.limit)
        self._outlet = Outlet(
            vectors=addressof(self._vectors), messages=addressof(self._messages), limit=self.limit
        )  # fmt: skip

    def arrive(self, port: int, size: int = 0, vnet: bytes = WHOLE) -> None:
        """Let a frame of a client with this port and so many bytes of payload come."""
        self.rings.arrive(bytes(tcp(ALICE, port, VIP, 80, 16, bytes(size))), vnet=vnet)

    def leave(self) -> tuple[bool, list[bytes]]:
        """Collect once; return whether the frames are without a virtio_net_hdr, and them."""
        count, plain = self.core.collect(SERVERS, self._outlet, SECOND)
        vectors = struct.iter_unpack("=QQ", self._vectors.raw[: 16 * count])
        return plain, [string_at(base, length) for base, length in vectors]


def test_frames_stand_one_behind_the_other() -> None:
    """Frames of any size leave whole and in order, and the next ones begin where the first did."""
    wire = Wire(cells=64)
    for _ in range(50):
        for port, size in ((1, 0), (2, 1_400), (3, 43), (4, 44), (5, 1_300)):
            wire.arrive(port, size)
        assert wire.core.receive(wire.rx, FRAMES, SECOND).sent == 5
        plain, frames = wire.leave()
        assert plain
        assert [read(frame)[1] for frame in frames] == [1, 2, 3, 4, 5]
        assert all(right(frame) and frame[:6] == member_link(0) for frame in frames)
        assert wire.leave()[1] == []


def test_what_a_device_has_to_complete_keeps_its_header() -> None:
    """One such frame is enough: all that leave at once have the header then, and none has it the next time."""
    wire = Wire()
    wire.arrive(1)
    wire.arrive(2, 3_000, PARTIAL)
    wire.core.receive(wire.rx, FRAMES, SECOND)
    plain, frames = wire.leave()
    assert not plain
    assert [frame[:10] for frame in frames] == [WHOLE, PARTIAL]
    wire.arrive(3)
    wire.core.receive(wire.rx, FRAMES, SECOND)
    assert wire.leave()[0]


def test_more_than_one_call_takes_are_left_for_the_next() -> None:
    """Nothing is lost or sent twice when there are more frames than messages for them."""
    wire = Wire(limit=2)
    for port in (1, 2, 3):
        wire.arrive(port)
    wire.core.receive(wire.rx, FRAMES, SECOND)
    taken = [[read(frame)[1] for frame in wire.leave()[1]] for _ in range(3)]
    assert taken == [[1, 2], [3], []]


def test_a_full_buffer_drops_with_a_reason() -> None:
    """What does not fit is counted, nothing is overwritten, and there is room again after the next collection."""
    wire = Wire(cells=16)
    for port, size in ((1, 1_400), (2, 1_400), (3, 0)):
        wire.arrive(port, size)
    wire.core.receive(wire.rx, FRAMES, SECOND)
    assert [read(frame)[1] for frame in wire.leave()[1]] == [1, 3]
    assert wire.core.counters().drops == {Drop.EGRESS_FULL: 1}
    wire.arrive(4, 1_400)
    wire.core.receive(wire.rx, FRAMES, SECOND)
    assert [read(frame)[1] for frame in wire.leave()[1]] == [4]


def test_large_frames_end_a_batch_early() -> None:
    """A call ends when it has moved 4 MiB, however many frames it might have taken."""
    size, count = 1 << 16, BATCH_BYTES // 65_000 + 8
    ring = mmap.mmap(-1, (size + 4_096) * count)
    frame = bytes(tcp(ALICE, 1, "192.0.2.1", 80, 16, bytes(64_946)))
    for slot in range(count):
        at = slot * (size + 4_096)
        ring[at : at + 32] = struct.pack("=IIIHHIIHH4x", 1, len(frame), len(frame), 82, 96, 0, 0, 0, 0)
        ring[at + 82 : at + 82 + len(frame)] = frame
    rx = RxRing(ring, ifindex=CLIENTS, frame_size=size + 4_096, frame_count=count)
    batch = Wire().core.receive(rx, count, SECOND)
    assert batch.more
    assert (batch.frames - 1) * 65_000 < BATCH_BYTES <= batch.frames * 65_000
