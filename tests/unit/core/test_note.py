"""Which of the frames that leave the guard is shown: the first of a flow, and one every few seconds."""

import mmap
from ctypes import addressof, c_char, create_string_buffer
from dataclasses import dataclass, field
from struct import unpack_from

import pytest

from asynclb import native
from asynclb.datapath.core import Core, RxRing
from asynclb.datapath.core.image import build_image
from asynclb.datapath.core.layout import Outlet
from asynclb.datapath.packet.ruleset import SHOWN_MS
from asynclb.net.flow import Protocol
from asynclb.tables.row import Delivery
from tests.unit.core.test_rings import FRAME_SIZE, FRAMES, Rings
from tests.unit.core.world import (
    CLIENT_LINK,
    CLIENTS,
    MEMBERS_OURS,
    SECOND,
    SERVERS,
    Packet,
    World,
    followed,
    ha,
    pool,
    tcp,
    udp,
    world,
)

pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)

VIP, ALICE, MEMBER = "203.0.113.10", "198.51.100.7", "10.1.0.11"
SHOWN = SHOWN_MS * 1_000_000
SETS, SET_BYTES, CONTROL_BYTES = 64, 64, 24
SYN, RST, SYN_ACK, ACK = 2, 4, 18, 16


@dataclass
class Wire:
    """A core whose frames are collected for sending; time is what the test says. Owner: a test."""

    world: World
    egress: int = SERVERS
    rings: Rings = field(default_factory=Rings)

    def __post_init__(self) -> None:
        self.core: Core = self.world.core()
        self.core.attach_egress(self.egress, self.rings.tx, FRAME_SIZE, FRAMES)
        self._rx = RxRing(self.rings.rx, ifindex=CLIENTS, frame_size=FRAME_SIZE, frame_count=FRAMES)
        self._vectors, self.messages = create_string_buffer(16 * FRAMES), create_string_buffer(64 * FRAMES)
        self.notes = mmap.mmap(-1, SETS * SET_BYTES)
        self._outlet = Outlet(
            vectors=addressof(self._vectors), messages=addressof(self.messages),
            notes=addressof(c_char.from_buffer(self.notes)),
            note_sets=SETS, interval_ms=SHOWN_MS, limit=FRAMES,
        )  # fmt: skip

    def shown(self, *frames: bytes | Packet, now_ns: int = SECOND) -> list[bool]:
        """Return of each frame, in order, whether the guard is shown it."""
        for frame in frames:
            self.rings.arrive(bytes(frame))
        assert self.core.receive(self._rx, FRAMES, now_ns).sent == len(frames)
        assert self.core.collect(self.egress, self._outlet, now_ns) == (len(frames), True)
        sizes = [unpack_from("=Q", self.messages, 64 * i + 40)[0] for i in range(len(frames))]
        assert set(sizes) <= {0, CONTROL_BYTES}
        return [bool(size) for size in sizes]


def datagram(port: int, source: str = ALICE) -> Packet:
    """Return a datagram of a client to the VIP."""
    return udp(source, port, VIP, 53)


def everything(generation: int = 1, *, delivery: Delivery = Delivery.NAT) -> World:
    """Return a world with one HA-ports rule."""
    return world(ha(pool("any", MEMBER), VIP, delivery=delivery), generation=generation)


def test_a_flow_is_shown_at_first_and_every_few_seconds() -> None:
    """Between two frames that are shown there is less than the interval, and every flow has its own."""
    wire = Wire(everything())
    assert wire.shown(datagram(1), datagram(1), datagram(2)) == [True, False, True]
    assert wire.shown(datagram(1), datagram(2), now_ns=SECOND + SHOWN - 1_000_000) == [False, False]
    assert wire.shown(datagram(1), datagram(1), now_ns=SECOND + SHOWN) == [True, False]
    assert wire.shown(datagram(2), now_ns=SECOND + 900 * SHOWN) == [True]


def test_new_tables_show_every_flow_again() -> None:
    """A note may have to last longer now, or in another set."""
    wire = Wire(everything())
    assert wire.shown(datagram(1), datagram(1)) == [True, False]
    later = everything(2)
    wire.core.publish(build_image(later.tables, later.plan))
    assert wire.shown(datagram(1), datagram(1)) == [True, False]


def test_a_first_syn_is_always_shown() -> None:
    """It ends what the host knew of the same ends; the rest of a connection is as any other flow."""
    wire = Wire(everything())
    frames = [tcp(ALICE, 1, VIP, 80, flags) for flags in (SYN, ACK, ACK, SYN, SYN_ACK)]
    assert wire.shown(*frames) == [True, True, False, True, False]


def test_a_connection_that_begins_anew_at_another_member_is_shown_again() -> None:
    """The client's end and the tables are the same, the member's end is not."""
    wire = Wire(everything())
    assert wire.shown(tcp(ALICE, 1, VIP, 80, ACK)) == [True]
    later = followed(wire.world, ha(pool("any", "10.1.0.12"), VIP))
    for index, hop in later.hops.items():
        wire.core.set_next_hop(index, hop)
    wire.core.publish(build_image(later.tables, later.plan))
    stays = [tcp(ALICE, 1, VIP, 80, flags) for flags in (ACK, ACK, RST)]
    assert wire.shown(*stays) == [True, False, False]
    anew = [tcp(ALICE, 1, VIP, 80, flags) for flags in (SYN, ACK, ACK)]
    assert wire.shown(*anew) == [True, True, False]


def test_fragments_and_errors_are_shown() -> None:
    """What has no ports, or no flow of its own, is noted otherwise."""
    wire = Wire(everything())
    whole = bytes(datagram(1))[34:] + bytes(64)
    parts = [
        Packet(ALICE, VIP, 17, whole[:32], fragment=0x2000, raw=True),
        Packet(ALICE, VIP, 17, whole[32:], fragment=4, raw=True),
    ]
    assert wire.shown(*parts, *parts) == [True] * 4


def test_what_members_of_nat_rules_do_not_get_is_quiet() -> None:
    """Floating members see the VIP, and the guard has nothing to note of them; nor of what goes to clients."""
    assert Wire(everything(delivery=Delivery.FLOATING)).shown(datagram(1)) == [False]
    there = Wire(everything())
    assert there.shown(datagram(1)) == [True]
    back = Wire(there.world, egress=CLIENTS)
    back.core.attach_egress(SERVERS, Rings().tx, FRAME_SIZE, FRAMES)
    back.rings.arrive(bytes(datagram(1)))
    assert back.core.receive(back._rx, 1, SECOND).sent == 1
    answer = udp(MEMBER, 53, ALICE, 1, to=MEMBERS_OURS, via=CLIENT_LINK)
    assert back.shown(answer) == [False]


def test_more_flows_than_room_are_shown_more_often() -> None:
    """A flow that was displaced is shown again; none is quiet that was not shown."""
    wire = Wire(everything())
    for port in range(1, 4 * SETS * 4):
        assert wire.shown(datagram(port)) == [True]
    assert wire.shown(datagram(port), datagram(port)) == [False, False]
    again = [wire.shown(datagram(port))[0] for port in range(1, 4 * SETS * 4)]
    assert 0.7 < sum(again) / len(again) <= 1


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_a_note_can_be_taken_back(protocol: Protocol) -> None:
    """The number in the message's padding is that of the note; without it the flow is shown again."""
    wire = Wire(everything())
    frame = {Protocol.TCP: tcp(ALICE, 1, VIP, 80, ACK), Protocol.UDP: datagram(1)}[protocol]
    assert wire.shown(frame) == [True]
    number = unpack_from("=I", wire.messages, 60)[0]
    assert wire.shown(frame) == [False]
    assert unpack_from("=I", wire.messages, 60)[0] == 0
    assert wire.notes[16 * (number - 1) : 16 * number] != bytes(16)
    wire.notes[16 * (number - 1) : 16 * number] = bytes(16)
    assert wire.notes[:] == bytes(SETS * SET_BYTES)
    assert wire.shown(frame) == [True]
