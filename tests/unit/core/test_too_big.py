"""Packets that do not fit, and errors about hairpins: what their senders are told. The oracle says the same."""

import struct

import pytest

from asynclb import native
from asynclb.datapath.core import Core, Result, Verdict
from asynclb.datapath.core.oracle import Oracle
from asynclb.net.drop import Drop
from tests.unit.core.world import (
    CLIENT_LINK,
    CLIENTS,
    MEMBERS_OURS,
    OURS,
    SECOND,
    SERVERS,
    Packet,
    World,
    icmp_error,
    pool,
    read,
    right,
    row,
    tcp,
    world,
)

pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)

VIP, VIP6, ALICE, ALICE6 = "203.0.113.10", "2001:db8::10", "198.51.100.7", "2001:db8:9::7"
DF = 0x4000
SYN, ACK, SYN_ACK = 2, 16, 18
MTU = 1_300


class Both:
    """The core and the oracle, which have to agree. Owner: a test."""

    def __init__(self, made: World) -> None:
        self.core: Core = made.core()
        self.core.set_interface(CLIENTS, OURS, MTU)
        mtus = {CLIENTS: MTU, SERVERS: made.hops[0].mtu}
        self.oracle = Oracle(made.tables, made.plan, made.hops, {CLIENTS: OURS, SERVERS: MEMBERS_OURS}, mtus=mtus)

    def give(self, frame: Packet, ifindex: int = CLIENTS, *, now_ns: int = SECOND, segment: int = 0) -> Result:
        """Let both decide a frame."""
        got = self.core.process(bytes(frame), ifindex=ifindex, now_ns=now_ns, segment=segment)
        assert got == self.oracle.process(bytes(frame), ifindex=ifindex, now_ns=now_ns, segment=segment)
        return got


def both(mtu: int = MTU) -> Both:
    """Return a rule for either version over two members, whose link is narrow."""
    rows = (row(pool("web", "10.1.0.11", "10.1.0.12"), VIP), row(pool("web6", "2001:db8:1::11"), VIP6))
    return Both(world(*rows, mtu=mtu))


def test_the_sender_is_told_the_mtu() -> None:
    """The message comes from the VIP by the way that the packet came, quotes it, and is right."""
    pair = both()
    frame = tcp(ALICE, 4000, VIP, 80, ACK, bytes(1_400), fragment=DF)
    told = pair.give(frame)
    assert (told.verdict, told.ifindex, told.frame[:12]) == (Verdict.TX, CLIENTS, CLIENT_LINK + OURS)
    assert right(told.frame)
    assert read(told.frame)[::2] == (VIP, ALICE)
    assert told.frame[34:36] + told.frame[38:42] == struct.pack("!BBHH", 3, 4, 0, MTU)
    assert told.frame[42:] == bytes(frame)[14 : 14 + 256]
    assert pair.core.counters().drops == {Drop.TOO_BIG: 1}
    assert pair.core.counters().flows == 0


def test_in_ipv6_nobody_has_to_ask_for_it() -> None:
    """Packet Too Big says the MTU in 32 bits, behind a VLAN tag too."""
    pair = both()
    told = pair.give(tcp(ALICE6, 4000, VIP6, 80, ACK, bytes(1_400), vlan=b"\x81\x00\x00\x05"))
    assert told.frame[:18] == CLIENT_LINK + OURS + b"\x81\x00\x00\x05\x86\xdd"
    untagged = told.frame[:12] + told.frame[16:]
    assert right(untagged)
    assert untagged[54:56] + untagged[58:62] == struct.pack("!BBI", 2, 0, MTU)


def test_packets_that_may_be_fragmented_are_dropped() -> None:
    """And so are errors and later fragments, which nobody may answer."""
    pair = both()
    large = bytes(1_400)
    error = icmp_error(ALICE, VIP, tcp(VIP, 80, ALICE, 4000, ACK).network + large, fragment=DF)
    for frame in (tcp(ALICE, 4000, VIP, 80, ACK, large), error):
        assert pair.give(frame).reason is Drop.TOO_BIG


def test_segments_count_by_their_own_size() -> None:
    """A large frame that the kernel is yet to cut passes if its segments fit."""
    pair = both()
    frame = tcp(ALICE, 4000, VIP, 80, ACK, bytes(4_000), fragment=DF)
    assert pair.give(frame, segment=MTU - 40).ifindex == SERVERS
    assert pair.give(frame, segment=MTU - 39).ifindex == CLIENTS


def test_members_are_told_as_well() -> None:
    """The client's side is narrow: the member hears it from the VIP."""
    pair = both(1_500)
    there = pair.give(tcp(ALICE, 4000, VIP, 80, SYN)).frame
    member = read(there)[2]
    frame = tcp(member, 80, ALICE, 4000, ACK, bytes(1_400), to=there[6:12], via=there[:6], fragment=DF)
    told = pair.give(frame, SERVERS)
    assert (told.verdict, told.ifindex, told.frame[:12]) == (Verdict.TX, SERVERS, there[:12])
    assert (right(told.frame), read(told.frame)[::2]) == (True, (VIP, member))


def test_messages_of_our_own_are_limited() -> None:
    """A burst, then one each millisecond: who floods gets no more out of us."""
    pair = both()
    frame = tcp(ALICE, 4000, VIP, 80, ACK, bytes(1_400), fragment=DF)
    found = [pair.give(frame).verdict for _ in range(60)]
    assert found == [Verdict.TX] * 50 + [Verdict.DROP] * 10
    later = [pair.give(frame, now_ns=SECOND + 3_000_000).verdict for _ in range(5)]
    assert later == [Verdict.TX] * 3 + [Verdict.DROP] * 2


def hairpin(pair: Both) -> tuple[str, Packet, Packet]:
    """Open a connection of a member to its own VIP; return who has it, and what either end has received."""
    client = "10.1.0.11"
    there = pair.give(tcp(client, 4000, VIP, 80, SYN, to=MEMBERS_OURS), SERVERS).frame
    source, sport, member, dport = read(there)
    assert source == VIP
    back = pair.give(tcp(member, dport, VIP, sport, SYN_ACK, to=MEMBERS_OURS, via=there[:6]), SERVERS).frame
    assert read(back) == (VIP, 80, client, 4000)
    return member, tcp(source, sport, member, dport, SYN), tcp(VIP, 80, client, 4000, SYN_ACK)


@pytest.mark.parametrize("reporter", ["10.1.0.11", "10.1.0.12", "10.1.0.99"])
def test_an_error_about_what_a_hairpin_sent_reaches_the_client(reporter: str) -> None:
    """The quote is what the client sent; a member that reports is the VIP to it."""
    pair = both()
    member, sent, _ = hairpin(pair)
    told = pair.give(icmp_error(reporter, VIP, sent.network, to=MEMBERS_OURS), SERVERS).frame
    assert right(told)
    assert read(told)[::2] == (VIP if reporter == member else reporter, "10.1.0.11")
    assert read(told[:14] + told[42:]) == ("10.1.0.11", 4000, VIP, 80)


def test_an_error_about_what_a_hairpin_answered_reaches_the_member() -> None:
    """The quote is what the member answered, to the translated client."""
    pair = both()
    member, sent, answered = hairpin(pair)
    told = pair.give(icmp_error("10.1.0.11", VIP, answered.network, to=MEMBERS_OURS), SERVERS).frame
    assert right(told)
    assert read(told)[::2] == (VIP, member)
    source, sport, destination, dport = read(bytes(sent))
    assert read(told[:14] + told[42:]) == (destination, dport, source, sport)
