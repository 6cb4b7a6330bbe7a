"""Batches through rings in plain memory, laid out as the kernel lays out TPACKET_V2."""

import mmap
import struct
from dataclasses import dataclass, field

import pytest

from asynclb import native
from asynclb.datapath.core import Core, RxRing
from asynclb.net.drop import Drop
from tests.unit.core.world import (
    CLIENTS,
    OURS,
    SECOND,
    SERVERS,
    Packet,
    changed,
    member_link,
    pool,
    read,
    right,
    row,
    tcp,
    world,
)

pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)

VIP, ALICE = "203.0.113.10", "198.51.100.7"
FRAME_SIZE, FRAMES, MAC = 4096, 8, 82
USER, VLAN_VALID, TPID_VALID = 1, 1 << 4, 1 << 6


@dataclass
class Rings:
    """A receive ring and a transmit ring; the test plays the kernel."""

    rx: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, FRAME_SIZE * FRAMES))
    tx: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, FRAME_SIZE * FRAMES))
    filled: int = 0
    sent: int = 0

    def arrive(self, frame: bytes, *, vnet: bytes = bytes(10), tci: int | None = None, kind: int = 0) -> None:
        """Put a frame into the receive ring as the kernel does."""
        at = self.filled % FRAMES * FRAME_SIZE
        status = USER | (VLAN_VALID | TPID_VALID if tci is not None else 0)
        head = struct.pack(
            "=IIIHHIIHH4x", status, len(frame), len(frame), MAC, MAC + 14, 0, 0, tci or 0, 0x8100 if tci else 0
        )
        self.rx[at + 4 : at + 32] = head[4:]
        self.rx[at + 42] = kind
        self.rx[at + MAC - 10 : at + MAC] = vnet
        self.rx[at + MAC : at + MAC + len(frame)] = frame
        self.rx[at : at + 4] = head[:4]
        self.filled += 1

    def leave(self) -> list[tuple[bytes, bytes]]:
        """Take (virtio header, frame) of what was requested to be sent."""
        found = []
        while True:
            at = self.sent % FRAMES * FRAME_SIZE
            status, size = struct.unpack_from("=II", self.tx, at)
            if status != 1:
                return found
            found.append((self.tx[at + 32 : at + 42], self.tx[at + 42 : at + 32 + size]))
            self.tx[at : at + 4] = bytes(4)
            self.sent += 1


@pytest.fixture
def rings() -> Rings:
    """Two empty rings."""
    return Rings()


def ready(rings: Rings) -> tuple[Core, RxRing]:
    """Return a core that sends to the members through the transmit ring."""
    core = world(row(pool("web", "10.1.0.11"), VIP)).core()
    core.attach_egress(SERVERS, rings.tx, FRAME_SIZE, FRAMES)
    return core, RxRing(rings.rx, ifindex=CLIENTS, frame_size=FRAME_SIZE, frame_count=FRAMES)


def test_a_batch_goes_from_ring_to_ring(rings: Rings) -> None:
    """Frames for members are in the transmit ring, the receive slots are the kernel's again, the egress is dirty."""
    core, rx = ready(rings)
    assert not rx.ready
    for port in range(1, 7):
        rings.arrive(bytes(tcp(ALICE, port, VIP, 80)))
    rings.arrive(bytes(tcp(ALICE, 1, "192.0.2.1", 80)))
    rings.arrive(bytes(tcp(ALICE, 1, VIP, 81)))
    assert rx.ready
    first = core.receive(rx, 5, SECOND)
    assert (first.frames, first.sent, first.dirty, first.more) == (5, 5, (SERVERS,), True)
    second = core.receive(rx, 64, SECOND)
    assert (second.frames, second.sent, second.passed, second.dropped, second.more) == (3, 1, 1, 1, False)
    frames = [frame for _, frame in rings.leave()]
    assert [read(frame)[:3] for frame in frames] == [(ALICE, port, "10.1.0.11") for port in range(1, 7)]
    assert all(right(frame) for frame in frames)
    assert frames[0][:6] == member_link(0)
    assert [rings.rx[i * FRAME_SIZE] for i in range(FRAMES)] == [0] * FRAMES


def test_many_rounds_wrap_both_rings(rings: Rings) -> None:
    """The heads go round in step with the kernel's."""
    core, rx = ready(rings)
    for port in range(1, 100):
        rings.arrive(bytes(tcp(ALICE, port, VIP, 80)))
        assert core.receive(rx, 64, SECOND).sent == 1
        ((_, frame),) = rings.leave()
        assert read(frame)[1] == port


def test_a_full_transmit_ring_drops_with_a_reason(rings: Rings) -> None:
    """Nothing is overwritten; what did not fit is counted."""
    core, rx = ready(rings)
    for port in range(1, 11):
        rings.arrive(bytes(tcp(ALICE, port, VIP, 80)))
        core.receive(rx, 64, SECOND)
    assert len(rings.leave()) == FRAMES
    assert core.counters().drops == {Drop.EGRESS_FULL: 2}


def test_offloads_and_tags_travel_with_the_frame(rings: Rings) -> None:
    """A large segment with a partial checksum leaves as one; a tag that the kernel took off is put back."""
    core, rx = ready(rings)
    vnet = struct.pack("=BBHHHH", 1, 1, 54, 1448, 34, 16)
    rings.arrive(bytes(tcp(ALICE, 1, VIP, 80, 16, bytes(3000))), vnet=vnet, tci=5)
    assert core.receive(rx, 64, SECOND).sent == 1
    ((header, frame),) = rings.leave()
    assert struct.unpack("=BBHHHH", header) == (1, 1, 58, 1448, 38, 16)
    assert frame[12:18] == b"\x81\x00\x00\x05\x08\x00"
    assert len(frame) == 54 + 3000 + 4


def test_frames_that_are_not_for_us_pass(rings: Rings) -> None:
    """What the host sends itself, and what is for other hosts, is left alone."""
    core, rx = ready(rings)
    rings.arrive(bytes(tcp(ALICE, 1, VIP, 80)), kind=4)
    rings.arrive(bytes(tcp(ALICE, 1, VIP, 80)), kind=3)
    assert core.receive(rx, 64, SECOND).passed == 2


def test_a_lying_slot_is_not_believed(rings: Rings) -> None:
    """A slot that claims more than it has is passed over."""
    core, rx = ready(rings)
    rings.arrive(bytes(tcp(ALICE, 1, VIP, 80)))
    rings.rx[8:12] = struct.pack("=I", FRAME_SIZE)
    assert core.receive(rx, 64, SECOND).passed == 1


def test_questions_are_answered_under_their_tag(rings: Rings) -> None:
    """ARP for a VIP leaves by the interface that it came in by, as a reply, in the same VLAN."""
    core, rx = ready(rings)
    asker = b"\2\0\0\0\xcc\1"
    ask = b"\xff" * 6 + asker + b"\x08\x06\0\1\x08\0\6\4\0\1" + asker + bytes(10) + bytes((203, 0, 113, 10))
    rings.arrive(ask, tci=7, kind=1)
    core.detach_egress(SERVERS)
    core.attach_egress(CLIENTS, rings.tx, FRAME_SIZE, FRAMES)
    assert core.receive(rx, 64, SECOND).sent == 1
    ((_, frame),) = rings.leave()
    assert frame[:26] == b"\2\0\0\0\xcc\1" + OURS + b"\x81\0\0\7\x08\6\0\1\x08\0\6\4\0\2"


def test_held_fragments_leave_behind_their_first(rings: Rings) -> None:
    """The order on the wire is first, then later."""
    core, rx = ready(rings)
    whole = bytes(tcp(ALICE, 1, VIP, 80, 16, bytes(36)))[34:]
    rings.arrive(bytes(Packet(ALICE, VIP, 6, whole[32:], fragment=4, raw=True)))
    rings.arrive(bytes(Packet(ALICE, VIP, 6, whole[:32], fragment=0x2000, raw=True)))
    batch = core.receive(rx, 64, SECOND)
    assert (batch.frames, batch.held, batch.sent) == (2, 1, 2)
    first, later = (frame for _, frame in rings.leave())
    assert (first[20:22], later[20:22]) == (b"\x20\x00", b"\x00\x04")
    assert changed(first, 0, b"")[:6] == later[:6]


def test_a_detached_egress_is_no_egress(rings: Rings) -> None:
    """Frames for it are dropped with a reason, and it can be attached again."""
    core, rx = ready(rings)
    core.detach_egress(SERVERS)
    rings.arrive(bytes(tcp(ALICE, 1, VIP, 80)))
    assert core.receive(rx, 64, SECOND).dropped == 1
    assert core.counters().drops == {Drop.NO_EGRESS: 1}
    core.attach_egress(SERVERS, rings.tx, FRAME_SIZE, FRAMES)
    with pytest.raises(ValueError, match="cannot have a transmit ring"):
        core.attach_egress(SERVERS, rings.tx, FRAME_SIZE, FRAMES)


def test_interfaces_that_come_and_go(rings: Rings) -> None:
    """Of any number of them, the one that is there now answers with its own link address."""
    core, rx = ready(rings)
    core.detach_egress(SERVERS)
    core.attach_egress(CLIENTS, rings.tx, FRAME_SIZE, FRAMES)
    for index in range(100, 300):
        core.set_interface(index, b"\2\0\0\0\xdd\1")
        core.forget_interface(index)
    core.forget_interface(CLIENTS)
    core.set_interface(CLIENTS, b"\2\0\0\0\xdd\2")
    asker = b"\2\0\0\0\xcc\1"
    ask = b"\xff" * 6 + asker + b"\x08\x06\0\1\x08\0\6\4\0\1" + asker + bytes(10) + bytes((203, 0, 113, 10))
    rings.arrive(ask, kind=1)
    assert core.receive(rx, 64, SECOND).sent == 1
    ((_, frame),) = rings.leave()
    assert frame[6:12] == b"\2\0\0\0\xdd\2"
