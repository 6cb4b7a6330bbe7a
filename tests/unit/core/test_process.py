"""What the core does to frames, told as conversations."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from asynclb import native
from asynclb.datapath.core import Core, Result, Verdict, build_image
from asynclb.net.drop import Drop
from asynclb.net.flow import Flow, Protocol
from asynclb.tables.lookup import Verdict as Lookup
from asynclb.tables.lookup import lookup
from asynclb.tables.row import Delivery, FrontendKey
from tests.unit.core.world import (
    CLIENT_LINK,
    CLIENTS,
    OURS,
    SECOND,
    SERVERS,
    Packet,
    World,
    changed,
    ha,
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

ALICE, VIP, VIP6 = "198.51.100.7", "203.0.113.10", "2001:db8::10"
WEB = pool("web", "10.1.0.11", "10.1.0.12", "10.1.0.13")
WEB6 = pool("web6", "2001:db8:1::11", "2001:db8:1::12")
SYN, ACK, FIN, RST = 2, 16, 17, 4


@pytest.fixture
def web() -> World:
    """One rule that translates the port, on IPv4 and on IPv6."""
    return world(row(WEB, VIP, 80, 8080), row(WEB6, VIP6, 80, 8080), row(WEB, VIP, 53, 53, protocol=Protocol.UDP))


@pytest.fixture
def core(web: World) -> Iterator[Core]:
    """A core that serves `web`."""
    made = web.core()
    yield made
    made.close()


def give(core: Core, packet: Packet | bytes, ifindex: int = CLIENTS, now: int = SECOND) -> Result:
    """Hand a frame to the core."""
    return core.process(bytes(packet), ifindex=ifindex, now_ns=now)


def reply_to(frame: bytes, flags: int = 18, payload: bytes = b"") -> Packet:
    """Return what a member answers to a frame that it got."""
    source, sport, destination, dport = read(frame)
    make_tcp = frame[23] == 6 if frame[12:14] == b"\x08\x00" else frame[20] == 6
    links = {"to": frame[6:12], "via": frame[:6]}
    if make_tcp:
        return tcp(destination, dport, source, sport, flags, payload, **links)
    return udp(destination, dport, source, sport, payload, **links)


@pytest.mark.parametrize(("client", "vip"), [(ALICE, VIP), ("2001:db8:9::7", VIP6)])
def test_a_request_reaches_a_member_and_its_answer_the_client(core: Core, web: World, client: str, vip: str) -> None:
    """The member that the tables name gets the packet; the answer comes from the VIP; every checksum is right."""
    expected = lookup(web.tables, Flow(ip_address(client), 41000, ip_address(vip), 80, 6))
    assert isinstance(expected, Lookup)
    there = give(core, tcp(client, 41000, vip, 80))
    assert (there.verdict, there.ifindex) == (Verdict.TX, SERVERS)
    assert read(there.frame) == (client, 41000, str(expected.member.address), 8080)
    assert right(there.frame)
    back = give(core, reply_to(there.frame, payload=b"odd"), SERVERS)
    assert (back.verdict, back.ifindex, back.frame[:6], back.frame[6:12]) == (Verdict.TX, CLIENTS, CLIENT_LINK, OURS)
    assert read(back.frame) == (vip, 80, client, 41000)
    assert right(back.frame)


def test_a_thousand_flows_go_where_the_tables_say(core: Core, web: World) -> None:
    """The image's lookup is the one of asynclb.tables.lookup."""
    for port in range(1000, 2000):
        expected = lookup(web.tables, Flow(ip_address(ALICE), port, ip_address(VIP), 80, 6))
        assert isinstance(expected, Lookup)
        assert read(give(core, tcp(ALICE, port, VIP, 80)).frame)[2] == str(expected.member.address)


def test_a_wrong_checksum_stays_wrong(core: Core) -> None:
    """The receiver, not the balancer, finds out."""
    frame = bytes(tcp(ALICE, 1, VIP, 80))
    broken = changed(frame, 50, (int.from_bytes(frame[50:52], "big") ^ 0x0101).to_bytes(2, "big"))
    assert not right(give(core, broken).frame)


def test_udp_without_a_checksum_stays_without(core: Core) -> None:
    """Zero means none, in IPv4."""
    frame = changed(bytes(udp(ALICE, 1, VIP, 53)), 40, b"\0\0")
    assert give(core, frame).frame[40:42] == b"\0\0"


def test_a_partial_checksum_follows_the_addresses_only(core: Core) -> None:
    """The field holds the sum of the pseudo-header; completed by the device, it is right."""
    frame = bytes(tcp(ALICE, 1, VIP, 80))
    pseudo = sum(int.from_bytes(frame[i : i + 2], "big") for i in range(26, 34, 2)) + 6 + 20
    partial = changed(frame, 50, ((pseudo & 0xFFFF) + (pseudo >> 16)).to_bytes(2, "big"))
    out = core.process(partial, ifindex=CLIENTS, now_ns=SECOND, csum_start=34, csum_offset=16).frame
    total = sum(int.from_bytes(out[i : i + 2], "big") for i in range(34, 54, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert right(changed(out, 50, (total ^ 0xFFFF).to_bytes(2, "big")))


def test_vlan_tags_stay_where_they_are(core: Core) -> None:
    """Up to two tags are looked through and kept."""
    tags = b"\x88\xa8\x00\x05\x81\x00\x00\x06"
    result = give(core, tcp(ALICE, 1, VIP, 80, vlan=tags))
    assert (result.verdict, result.frame[12:20]) == (Verdict.TX, tags)


def test_a_path_mtu_error_finds_the_member(core: Core) -> None:
    """A router tells the VIP that its answer was too big: the member of that flow hears it, about its own packet."""
    there = give(core, tcp(ALICE, 41000, VIP, 80)).frame
    answer = give(core, reply_to(there, 16, b"x" * 1000), SERVERS).frame
    heard = give(core, icmp_error("192.0.2.1", VIP, answer[14 : 14 + 28]))
    assert heard.verdict is Verdict.TX
    assert heard.frame[30:34] == there[30:34]
    assert heard.frame[42 + 12 : 42 + 16] == there[30:34]
    assert heard.frame[42 + 20 : 42 + 22] == (8080).to_bytes(2, "big")
    assert right(heard.frame)


def test_an_error_about_a_request_reaches_the_client_as_from_the_vip(core: Core) -> None:
    """A member says "port unreachable": the client sees the VIP's packet quoted, from the VIP; IPv6 as well."""
    for client, vip in ((ALICE, VIP), ("2001:db8:9::7", VIP6)):
        there = give(core, tcp(client, 41000, vip, 80)).frame
        member = read(there)[2]
        heard = give(core, icmp_error(member, client, there[14:]), SERVERS)
        assert (heard.verdict, heard.ifindex, heard.frame[:6]) == (Verdict.TX, CLIENTS, CLIENT_LINK)
        assert right(heard.frame)
        quote = heard.frame[42:] if vip == VIP else heard.frame[62:]
        assert right(bytes(12) + heard.frame[12:14] + quote)
        assert read(bytes(12) + heard.frame[12:14] + quote) == (client, 41000, vip, 80)


def test_fragments_follow_their_first_in_any_order(core: Core) -> None:
    """A later fragment that comes early is held, and released to the same member when the first has come."""
    whole = bytes(udp(ALICE, 5353, VIP, 53, b"y" * 40))
    body = whole[34:]
    first = Packet(ALICE, VIP, 17, body[:24], fragment=0x2000, identification=9, raw=True)
    later = Packet(ALICE, VIP, 17, body[24:], fragment=3, identification=9, raw=True)
    assert give(core, later).verdict is Verdict.HOLD
    result = give(core, first)
    assert result.verdict is Verdict.TX
    (freed,) = result.released
    assert (freed.verdict, freed.frame[30:34], freed.frame[:6]) == (Verdict.TX, result.frame[30:34], result.frame[:6])
    again = give(core, later)
    assert again.frame == freed.frame


def test_a_fragment_whose_first_never_comes_is_dropped_with_a_reason(core: Core) -> None:
    """After a second the buffer is free again; when it is full, later ones are dropped at once."""
    lost = [Packet(ALICE, VIP, 17, b"z" * 8, fragment=3, identification=n) for n in range(66)]
    verdicts = [give(core, packet).verdict for packet in lost]
    assert verdicts == [Verdict.HOLD] * 64 + [Verdict.DROP] * 2
    core.sweep(3 * SECOND, 1)
    assert core.counters().drops == {Drop.FRAGMENT_LOST: 66}


def test_a_member_reaches_its_own_frontend(core: Core) -> None:
    """Whoever is chosen, the member itself too, sees the VIP as the client, so that the answer passes here."""
    for port in range(5000, 5020):
        there = give(core, tcp("10.1.0.11", port, VIP, 80, via=member_link(0)), SERVERS)
        source, translated, member, dport = read(there.frame)
        assert (there.verdict, source, dport, right(there.frame)) == (Verdict.TX, VIP, 8080, True)
        back = give(core, reply_to(there.frame), SERVERS)
        assert (back.verdict, read(back.frame), right(back.frame)) == (
            Verdict.TX, (VIP, 80, "10.1.0.11", port), True,
        )  # fmt: skip
        assert (translated >= 61_000, member.startswith("10.1.0.")) == (True, True)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (bytes(tcp(VIP, 1, VIP, 80)), Drop.LAND),
        (bytes(tcp("127.0.0.1", 1, VIP, 80)), Drop.MARTIAN),
        (bytes(tcp(ALICE, 1, VIP, 81)), Drop.NO_RULE),
        (bytes(tcp(ALICE, 1, VIP, 80))[:40], Drop.TRUNCATED),
        (changed(bytes(tcp(ALICE, 1, VIP, 80)), 14, b"\x44"), Drop.BAD_HEADER),
        (changed(bytes(tcp(ALICE, 1, VIP, 80)), 46, b"\x10"), Drop.BAD_HEADER),
        (bytes(Packet(ALICE, VIP, 6, b"\0" * 8, fragment=0x2000)), Drop.FRAGMENT_TINY),
        (bytes(tcp(ALICE, 1, VIP, 80, payload=bytes(2000))), Drop.TOO_BIG),
        (bytes(Packet("2001:db8::7", VIP6, 60, (b"\x3c\0" + bytes(6)) * 9)), Drop.EXTENSION_HEADERS),
    ],
)
def test_what_cannot_go_on_is_dropped_with_its_reason_and_leaves_no_flow(
    core: Core, frame: bytes, reason: Drop
) -> None:
    """Every length field is believed only as far as the frame reaches."""
    result = give(core, frame)
    assert (result.verdict, result.reason) == (Verdict.DROP, reason)
    counters = core.counters()
    assert (counters.drops, counters.flows) == ({reason: 1}, 0)


def test_what_is_not_ours_passes_untouched(core: Core) -> None:
    """Other destinations, other types, broadcasts and broken frames for others belong to the host."""
    for frame in (bytes(tcp(ALICE, 1, "192.0.2.9", 80)), b"", b"\xff" * 60, bytes(tcp(ALICE, 1, "192.0.2.9", 80))[:30],
                  bytes(tcp(ALICE, 1, VIP, 80, to=b"\xff" * 6)), bytes(tcp("10.1.0.11", 22, ALICE, 9))):  # fmt: skip
        result = give(core, frame)
        assert (result.verdict, result.frame) == (Verdict.PASS, frame)


def arp(address: str) -> bytes:
    """Return the question who has an address, of 10.0.0.9."""
    head = b"\xff" * 6 + CLIENT_LINK + b"\x08\x06\0\1\x08\0\6\4\0\1"
    return head + CLIENT_LINK + bytes((10, 0, 0, 9)) + bytes(6) + ip_address(address).packed


def test_who_asks_for_a_vip_is_told_our_link_address() -> None:
    """The reply leaves as the question came; what the host owns, it answers itself."""
    owned = world(row(WEB, VIP), row(WEB, "203.0.113.11"), local=frozenset({ip_address("203.0.113.11")}))
    core = owned.core()
    result = give(core, arp(VIP))
    reply = CLIENT_LINK + OURS + b"\x08\x06\0\1\x08\0\6\4\0\2"
    reply += OURS + ip_address(VIP).packed + CLIENT_LINK + bytes((10, 0, 0, 9))
    assert (result.verdict, result.ifindex, result.frame) == (Verdict.TX, CLIENTS, reply)
    assert {give(core, arp(a)).verdict for a in ("203.0.113.11", "192.0.2.1")} == {Verdict.PASS}
    assert give(core, arp(VIP)[:-1]).verdict is Verdict.PASS


def solicitation(
    target: str, source: str = "2001:db8::9", option: bytes = b"\1\1" + CLIENT_LINK, **more: Any
) -> Packet:
    """Return a neighbour solicitation to the group of its target."""
    packed = ip_address(target).packed
    group = str(ip_address(bytes.fromhex("ff0200000000000000000001ff") + packed[-3:]))
    to = b"\x33\x33" + ip_address(group).packed[-4:]
    return Packet(source, group, 58, struct.pack("!BBHI", 135, 0, 0, 0) + packed + option, to=to, hops=255, **more)


def test_who_solicits_a_vip_is_told_our_link_address() -> None:
    """The advertisement goes to who asked, says so, and names our link address in place of theirs."""
    core = world(row(WEB6, VIP6)).core()
    result = give(core, solicitation(VIP6))
    frame, vip = result.frame, ip_address(VIP6).packed
    assert (result.verdict, result.ifindex, frame[:12]) == (Verdict.TX, CLIENTS, CLIENT_LINK + OURS)
    assert frame[22:54] == vip + ip_address("2001:db8::9").packed
    assert (frame[54:56], frame[58:78], frame[78:]) == (b"\x88\0", b"\x60\0\0\0" + vip, b"\2\1" + OURS)
    assert right(frame)


def test_who_looks_for_a_duplicate_of_a_vip_is_told_with_all_others() -> None:
    """Duplicate address detection has no source that could be answered."""
    core = world(row(WEB6, VIP6)).core()
    frame = give(core, solicitation(VIP6, "::", b"")).frame
    assert (frame[:12], frame[38:54]) == (bytes.fromhex("333300000001") + OURS, ip_address("ff02::1").packed)
    assert (frame[58:62], right(frame)) == (b"\x20\0\0\0", True)


def test_solicitations_that_may_not_be_believed_are_not_answered() -> None:
    """A forwarded one, one for another address, one on an interface whose link address is not known."""
    core = world(row(WEB6, VIP6)).core()
    forwarded = replace(solicitation(VIP6), hops=254)
    assert {give(core, p).verdict for p in (forwarded, solicitation("2001:db8::77"))} == {Verdict.PASS}
    assert core.process(bytes(solicitation(VIP6)), ifindex=99, now_ns=SECOND).verdict is Verdict.PASS


def test_floating_delivery_changes_only_the_link_addresses() -> None:
    """The member sees the VIP, and any protocol goes."""
    core = world(ha(WEB, VIP, delivery=Delivery.FLOATING)).core()
    for packet in (tcp(ALICE, 1, VIP, 5), Packet(ALICE, VIP, 47, b"\0\0\x08\0"), Packet(ALICE, VIP, 132, bytes(12))):
        result = give(core, packet)
        assert (result.verdict, result.frame[14:]) == (Verdict.TX, bytes(packet)[14:])


def make_nva(members: int, generation: int) -> World:
    """Return appliances between two networks, each with a leg in both."""
    left = pool("left", *(f"10.3.0.{11 + i}" for i in range(members)))
    right_pool = pool("right", *(f"10.4.0.{11 + i}" for i in range(members)))
    keys = [FrontendKey(ip_address(a), 0, Protocol.ALL) for a in ("10.0.1.4", "10.0.2.4")]
    return world(
        ha(left, "10.0.1.4", delivery=Delivery.ROUTED, symmetric=True),
        ha(right_pool, "10.0.2.4", delivery=Delivery.ROUTED, symmetric=True),
        generation=generation,
        routed={(CLIENTS, 4): keys[0], (SERVERS, 4): keys[1]},
    )


def test_both_directions_meet_one_appliance_even_after_another_was_added() -> None:
    """The first direction's choice holds for the other, on the other interface and over the other pool."""
    few, many = make_nva(2, 1), make_nva(6, 2)
    core = many.core()
    core.publish(build_image(few.tables, many.plan))
    spokes = [(f"10.8.0.{i}", 1000 + i) for i in range(1, 60)]
    legs = {str(m.address): m.name for row_ in many.tables.entries.values() for m in row_.row.pool.members}
    by_link = {many.hops[i].destination: legs[str(a)] for a, i in many.plan.next_hops.items()}
    there = [by_link[give(core, tcp(a, p, "10.9.0.1", 80, SYN)).frame[:6]] for a, p in spokes]
    core.publish(build_image(many.tables, many.plan))
    back = [by_link[give(core, tcp("10.9.0.1", 80, a, p, 18), SERVERS).frame[:6]] for a, p in spokes]
    assert there == back
    fresh = {by_link[give(core, tcp(a, 9, "10.9.0.1", 81)).frame[:6]] for a, _ in spokes}
    assert fresh > set(there)


def test_what_comes_from_an_appliance_is_the_hosts_to_route() -> None:
    """A packet that has been through an appliance is not sent to one again."""
    found = make_nva(2, 1)
    core = found.core()
    assert give(core, tcp("10.8.0.1", 1, "10.9.0.1", 80, via=member_link(0))).verdict is Verdict.PASS


def test_only_allowed_sources_make_flows() -> None:
    """A source outside `allow` is dropped and counted, and leaves nothing behind."""
    core = world(row(WEB, VIP, allow=(ip_network("198.51.100.0/29"), ip_network("10.0.0.0/8")))).core()
    verdicts = [give(core, tcp(a, 1, VIP, 80)).reason for a in (ALICE, "198.51.100.8", "10.255.1.2", "11.0.0.1")]
    assert verdicts == [None, Drop.SOURCE_NOT_ALLOWED, None, Drop.SOURCE_NOT_ALLOWED]
    assert core.counters().flows == 2


def test_an_unresolved_next_hop_is_reported_once_to_be_resolved(core: Core, web: World) -> None:
    """Frames are dropped with a reason until somebody sets the next hop."""
    for index in web.hops:
        core.set_next_hop(index, None)
    assert give(core, tcp(ALICE, 1, VIP, 80)).reason is Drop.NEXT_HOP_UNRESOLVED
    assert (len(core.wanted_next_hops()), core.wanted_next_hops(), core.counters().flows) == (1, (), 0)
