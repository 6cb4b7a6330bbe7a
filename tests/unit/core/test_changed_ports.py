"""Floating IP with another backend port: members see the VIP on their port, clients on theirs."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from asynclb import native
from asynclb.datapath.core import Core, Result, Verdict, build_image
from asynclb.net.drop import Drop
from asynclb.net.flow import Flow, Protocol
from asynclb.tables.lookup import Verdict as Lookup
from asynclb.tables.lookup import lookup
from asynclb.tables.row import Delivery
from tests.unit.core.world import (
    CLIENT_LINK,
    CLIENTS,
    MEMBERS_OURS,
    OURS,
    SECOND,
    SERVERS,
    Packet,
    World,
    changed,
    followed,
    icmp_error,
    member_link,
    pool,
    read,
    right,
    row,
    tcp,
    udp,
    world,
)

pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)

ALICE, ALICE6, VIP, VIP6 = "198.51.100.7", "2001:db8:9::7", "203.0.113.10", "2001:db8::10"
WEB, WEB6 = pool("web", "10.1.0.11", "10.1.0.12"), pool("web6", "2001:db8:1::11", "2001:db8:1::12")
SYN, ACK, SYN_ACK, RST = 2, 16, 18, 4
BOTH = pytest.mark.parametrize(("client", "vip"), [(ALICE, VIP), (ALICE6, VIP6)])
HTTP = row(WEB, VIP, 80, 8080, delivery=Delivery.FLOATING, tcp_reset=True, idle_timeout_s=20)


@pytest.fixture
def web() -> World:
    """Rules over TCP and UDP that change the port, on IPv4 and IPv6, and one beside them that does not."""
    return world(
        HTTP,
        row(WEB, VIP, 53, 5353, delivery=Delivery.FLOATING, protocol=Protocol.UDP),
        row(WEB, VIP, 443, delivery=Delivery.FLOATING),
        row(WEB6, VIP6, 80, 8080, delivery=Delivery.FLOATING, tcp_reset=True, idle_timeout_s=20),
        row(WEB6, VIP6, 53, 5353, delivery=Delivery.FLOATING, protocol=Protocol.UDP),
    )


@pytest.fixture
def core(web: World) -> Iterator[Core]:
    """A core that serves `web`."""
    made = web.core()
    yield made
    made.close()


def give(core: Core, packet: Packet | bytes, ifindex: int = CLIENTS, at_s: float = 1) -> Result:
    """Hand a frame to the core."""
    return core.process(bytes(packet), ifindex=ifindex, now_ns=round(at_s * SECOND))


def from_member(core: Core, packet: Packet | bytes, at_s: float = 1) -> Result:
    """Hand a member's frame to the core."""
    return give(core, packet, SERVERS, at_s)


def connect(core: Core, client: str = ALICE, vip: str = VIP) -> None:
    """Let a client and a member shake hands."""
    give(core, tcp(client, 41000, vip, 80, SYN))
    from_member(core, tcp(vip, 8080, client, 41000, SYN_ACK, to=MEMBERS_OURS))
    assert give(core, tcp(client, 41000, vip, 80, ACK)).verdict is Verdict.TX


@BOTH
def test_the_port_changes_and_changes_back(core: Core, web: World, client: str, vip: str) -> None:
    """The member that the tables name gets VIP:8080; its answer leaves as from VIP:80; checksums are right."""
    expected = lookup(web.tables, Flow(ip_address(client), 41000, ip_address(vip), 80, 6))
    assert isinstance(expected, Lookup)
    there = give(core, tcp(client, 41000, vip, 80))
    assert (there.verdict, there.ifindex, read(there.frame)) == (Verdict.TX, SERVERS, (client, 41000, vip, 8080))
    assert there.frame[:6] == member_link(web.plan.next_hops[expected.member.address])
    back = from_member(core, tcp(vip, 8080, client, 41000, SYN_ACK, b"odd", to=MEMBERS_OURS))
    assert (back.verdict, back.ifindex, back.frame[:12]) == (Verdict.TX, CLIENTS, CLIENT_LINK + OURS)
    assert read(back.frame) == (vip, 80, client, 41000)
    assert right(there.frame)
    assert right(back.frame)


@BOTH
def test_datagrams_too(core: Core, client: str, vip: str) -> None:
    """UDP is as TCP; no checksum stays none in IPv4."""
    there = give(core, udp(client, 41000, vip, 53))
    back = from_member(core, udp(vip, 5353, client, 41000))
    assert (read(there.frame), read(back.frame)) == ((client, 41000, vip, 5353), (vip, 53, client, 41000))
    assert right(there.frame)
    assert right(back.frame)
    if vip == VIP:
        bare = give(core, changed(bytes(udp(client, 41000, vip, 53)), 40, b"\0\0")).frame
        assert (bare[36:38], bare[40:42]) == ((5353).to_bytes(2, "big"), b"\0\0")


def test_what_is_no_answer_is_the_hosts(core: Core) -> None:
    """Other ports of the VIP, and answers to nobody who asked, pass as they are."""
    for packet in (tcp(VIP, 443, ALICE, 1, ACK), tcp(VIP, 8080, ALICE, 1, ACK), udp(VIP, 53, ALICE, 1)):
        result = from_member(core, packet)
        assert (result.verdict, result.frame) == (Verdict.PASS, bytes(packet))


def test_members_cannot_be_asked_for_their_port(core: Core) -> None:
    """VIP:8080 is no frontend."""
    assert give(core, tcp(ALICE, 1, VIP, 8080)).reason is Drop.NO_RULE


@BOTH
def test_errors_quote_what_their_reader_knows(core: Core, client: str, vip: str) -> None:
    """What a client reports names VIP:8080 to the member; what the member's side reports, VIP:80 to the client."""
    connect(core, client, vip)
    size = 28 if vip == VIP else 48
    answer = from_member(core, tcp(vip, 8080, client, 41000, ACK, b"x" * 200, to=MEMBERS_OURS)).frame
    heard = give(core, icmp_error(client, vip, answer[14 : 14 + size]))
    assert (heard.verdict, heard.ifindex) == (Verdict.TX, SERVERS)
    assert quoted(heard.frame) == (vip, 8080, client, 41000)
    assert right(heard.frame)
    there = give(core, tcp(client, 41000, vip, 80, ACK)).frame
    told = from_member(core, icmp_error(vip, client, there[14:], to=MEMBERS_OURS))
    assert (told.verdict, told.ifindex, told.frame[:6]) == (Verdict.TX, CLIENTS, CLIENT_LINK)
    assert quoted(told.frame) == (client, 41000, vip, 80)
    assert right(told.frame)


def quoted(frame: bytes) -> tuple[str, int, str, int]:
    """Return the ends of the packet that an error quotes."""
    return read(bytes(12) + frame[12:14] + frame[42 if frame[12:14] == b"\x08\x00" else 62 :])


def test_fragments_carry_the_port_in_their_first(core: Core) -> None:
    """Both ways; a later one is not touched but for its links, and one that comes early waits."""
    for whole, ifindex, at in ((udp(ALICE, 9, VIP, 53, b"y" * 40), CLIENTS, 36), (answer(), SERVERS, 34)):
        ends, body = (whole.source, whole.destination), bytes(whole)[34:]
        first = Packet(*ends, 17, body[:24], whole.to, fragment=0x2000, identification=9, raw=True)
        later = Packet(*ends, 17, body[24:], whole.to, fragment=3, identification=9, raw=True)
        assert give(core, later, ifindex).verdict is Verdict.HOLD
        sent = give(core, first, ifindex)
        (freed,) = sent.released
        assert int.from_bytes(sent.frame[at : at + 2], "big") == {36: 5353, 34: 53}[at]
        assert freed.frame[14:] == bytes(later)[14:]
        assert freed.frame[:12] == sent.frame[:12]
        joined = sent.frame[:20] + b"\0\0" + sent.frame[22:] + freed.frame[34:]
        assert right(with_length(joined))


def answer() -> Packet:
    """Return what a member answers to a datagram."""
    return udp(VIP, 5353, ALICE, 9, b"z" * 40, to=MEMBERS_OURS)


def with_length(frame: bytes) -> bytes:
    """Return a datagram put together again: its length, and the checksum of a header without fragments."""
    packet = Packet("0.0.0.0", "0.0.0.0", 17, frame[34:], raw=True)
    head = changed(bytes(packet), 26, frame[26:34])[14:34]
    total = sum(int.from_bytes(head[i : i + 2], "big") for i in range(0, 20, 2) if i != 10)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return frame[:14] + head[:10] + (total ^ 0xFFFF).to_bytes(2, "big") + head[12:] + frame[34:]


@BOTH
def test_resets_name_the_port_that_each_end_knows(core: Core, client: str, vip: str) -> None:
    """An idle connection: the client is reset from VIP:80, the member's VIP:8080 by the client."""
    connect(core, client, vip)
    resets = core.sweep(30 * SECOND, 64).resets
    while not resets:
        resets = core.sweep(30 * SECOND, 64).resets
    ((ifindex, to_client), (other, to_member)) = resets[0].frames
    assert (ifindex, read(to_client)) == (CLIENTS, (vip, 80, client, 41000))
    assert (other, read(to_member)) == (SERVERS, (client, 41000, vip, 8080))
    assert right(to_client)
    assert right(to_member)


def test_late_segments_are_reset_on_their_own_port(core: Core) -> None:
    """Whoever speaks on a connection that idled out hears it from where it spoke to."""
    connect(core)
    late = give(core, tcp(ALICE, 41000, VIP, 80, ACK), at_s=40)
    assert (late.reason, read(late.frame)) == (Drop.FLOW_EXPIRED, (VIP, 80, ALICE, 41000))
    late = from_member(core, tcp(VIP, 8080, ALICE, 41000, ACK, to=MEMBERS_OURS), at_s=41)
    assert (late.reason, read(late.frame)) == (Drop.FLOW_EXPIRED, (ALICE, 41000, VIP, 8080))
    assert late.frame[:6] == CLIENT_LINK  # back by the link that it came from


def test_too_big_comes_from_somebody_else_than_the_vip(core: Core) -> None:
    """A member drops what claims to come from its own address, so the client is the one who says it."""
    core.set_interface(CLIENTS, OURS, 400)
    connect(core)
    told = from_member(core, tcp(VIP, 8080, ALICE, 41000, ACK, b"x" * 600, fragment=0x4000, to=MEMBERS_OURS))
    assert (told.verdict, told.ifindex) == (Verdict.TX, SERVERS)
    assert (told.frame[26:30], told.frame[30:34]) == (ip_address(ALICE).packed, ip_address(VIP).packed)
    assert quoted(told.frame) == (VIP, 8080, ALICE, 41000)


def test_a_partial_checksum_stays_as_it_is(core: Core) -> None:
    """It covers the pseudo-header alone, in which there is no port."""
    frame = changed(bytes(tcp(ALICE, 1, VIP, 80)), 50, b"\x12\x34")
    out = core.process(frame, ifindex=CLIENTS, now_ns=SECOND, csum_start=34, csum_offset=16).frame
    assert (read(out)[3], out[50:52]) == (8080, b"\x12\x34")


def test_connections_keep_their_port_when_the_rule_gets_another(web: World, core: Core) -> None:
    """Those who are there stay on 8080 and are answered from 80; new ones meet 9090."""
    connect(core)
    after = followed(web, row(WEB, VIP, 80, 9090, delivery=Delivery.FLOATING, tcp_reset=True, idle_timeout_s=20))
    core.publish(build_image(after.tables, after.plan))
    assert read(give(core, tcp(ALICE, 41000, VIP, 80, ACK)).frame)[3] == 8080
    assert read(from_member(core, tcp(VIP, 8080, ALICE, 41000, ACK, to=MEMBERS_OURS)).frame)[:2] == (VIP, 80)
    assert read(give(core, tcp(ALICE, 41001, VIP, 80, SYN)).frame)[3] == 9090
    assert read(from_member(core, tcp(VIP, 9090, ALICE, 41001, SYN_ACK, to=MEMBERS_OURS)).frame)[:2] == (VIP, 80)


def test_answers_find_their_client_when_there_is_no_room_for_flows() -> None:
    """A full flow table costs state, not the port."""
    full = world(HTTP).core(max_flows=1)
    try:
        ports = range(2000, 2400)
        answers = []
        for port in ports:
            give(full, tcp(ALICE, port, VIP, 80))
            answers.append(from_member(full, tcp(VIP, 8080, ALICE, port, SYN_ACK, to=MEMBERS_OURS)))
        assert full.counters().stateless
        assert {read(back.frame)[:2] for back in answers} == {(VIP, 80)}
    finally:
        full.close()
