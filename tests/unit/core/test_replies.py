"""What the core says itself: resets of connections that idled out, and answers to pings."""

import struct
from dataclasses import replace

import pytest

from asynclb import native
from asynclb.datapath.core import Core, Result, Verdict
from asynclb.model import AdminState, BackendPool, Scope
from asynclb.net.drop import Drop
from asynclb.tables.row import Delivery, Row
from tests.unit.core.world import (
    CLIENT_LINK,
    CLIENTS,
    OURS,
    SECOND,
    SERVERS,
    Packet,
    ha,
    pool,
    read,
    right,
    row,
    tcp,
    world,
)

pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)

VIP, ALICE, MEMBER = "203.0.113.10", "198.51.100.7", "10.1.0.11"
VIP6, ALICE6 = "2001:db8::10", "2001:db8:9::7"
SYN, ACK, PUSH, FIN, RST = 2, 16, 8, 1, 4
IDLE_S, FORGOTTEN_S = 10, 310


def made(*, tcp_reset: bool = True, max_flows: int = 1_000) -> Core:
    """Return a core with one rule of a short idle timeout."""
    return world(
        row(pool("web", MEMBER), VIP, 80, 8080, idle_timeout_s=IDLE_S, tcp_reset=tcp_reset),
        row(pool("web6", "2001:db8:1::11"), VIP6, 80, idle_timeout_s=IDLE_S, tcp_reset=tcp_reset),
    ).core(max_flows)


def send(core: Core, flags: int, at_s: float, payload: bytes = b"", port: int = 4000) -> Result:
    """Let the client send a segment, with sequence number 1000 and acknowledgement number 2000."""
    packet = tcp(ALICE, port, VIP, 80, flags, payload)
    return core.process(bytes(packet), ifindex=CLIENTS, now_ns=round(at_s * SECOND))


def connect(core: Core, port: int = 4000) -> None:
    """Open a connection at one second."""
    send(core, SYN, 1, port=port)
    there = send(core, ACK, 1, port=port).frame
    source, sport, destination, dport = read(there)
    back = tcp(destination, dport, source, sport, ACK, to=there[6:12], via=there[:6])
    assert core.process(bytes(back), ifindex=SERVERS, now_ns=SECOND).verdict is Verdict.TX


def numbers(frame: bytes) -> tuple[int, int, int]:
    """Return sequence number, acknowledgement number and flags of a segment."""
    return (*struct.unpack_from("!II", frame, 38), frame[47])


def sweep(core: Core, at_s: float) -> int:
    """Sweep the table; return how many resets were due."""
    resets, done = 0, False
    while not done:
        swept = core.sweep(round(at_s * SECOND), 64)
        resets, done = resets + len(swept.resets), swept.done
    return resets


@pytest.mark.parametrize("swept", [False, True])
def test_a_late_segment_is_answered_by_a_reset(swept: bool) -> None:
    """Its sequence number is the one that the sender waits for, it comes from the VIP, and nothing is balanced anew."""
    core = made()
    connect(core)
    if swept:
        assert sweep(core, 1 + IDLE_S) == 1
    result = send(core, ACK | PUSH, 60, b"hello" * 100)
    assert (result.verdict, result.reason, result.ifindex) == (Verdict.TX, Drop.FLOW_EXPIRED, CLIENTS)
    assert result.frame[:12] == CLIENT_LINK + OURS
    assert read(result.frame) == (VIP, 80, ALICE, 4000)
    assert numbers(result.frame) == (2000, 0, RST)
    assert len(result.frame) == 54
    assert right(result.frame)
    assert core.counters().drops == {Drop.FLOW_EXPIRED: 1}
    assert send(core, ACK, 61).reason is Drop.FLOW_EXPIRED
    assert send(core, RST | ACK, 62).verdict is Verdict.DROP


def test_a_late_segment_of_the_member_is_answered_too() -> None:
    """The reset goes to the member, from the client."""
    core = made()
    connect(core)
    back = tcp(MEMBER, 8080, ALICE, 4000, FIN | ACK)
    result = core.process(bytes(back), ifindex=SERVERS, now_ns=60 * SECOND)
    assert (result.verdict, result.ifindex) == (Verdict.TX, SERVERS)
    assert read(result.frame) == (ALICE, 4000, MEMBER, 8080)
    assert numbers(result.frame) == (2000, 0, RST)
    assert right(result.frame)


def test_without_tcp_reset_late_segments_are_dropped() -> None:
    """In silence, and with a reason."""
    core = made(tcp_reset=False)
    connect(core)
    assert sweep(core, 1 + IDLE_S) == 0
    result = send(core, ACK, 60)
    assert (result.verdict, result.reason) == (Verdict.DROP, Drop.FLOW_EXPIRED)


def test_a_syn_begins_anew() -> None:
    """Whether the table was swept or not, and flows are counted right."""
    for swept in (False, True):
        core = made()
        connect(core)
        if swept:
            sweep(core, 60)
            assert core.flow_count() == core.counters().rules.get(0, None).flows == 0  # type: ignore[union-attr] # it is counted
            assert core.flows()[0] == []
        assert send(core, SYN, 60).verdict is Verdict.TX
        assert send(core, ACK, 61).verdict is Verdict.TX
        assert core.flow_count() == core.counters().rules[0].flows == 1
        assert core.counters().rules[0].new_flows == 2


def test_what_idled_out_is_forgotten_after_minutes() -> None:
    """Then a segment is balanced like any of which nothing is known."""
    core = made()
    connect(core)
    sweep(core, 60)
    sweep(core, 1 + FORGOTTEN_S)
    assert send(core, ACK, 2 + FORGOTTEN_S).ifindex == SERVERS


def test_half_open_and_closed_flows_are_forgotten_at_once() -> None:
    """A handshake that never ended gets no reset, and a closed connection's tuple is free."""
    core = made()
    send(core, SYN, 1)
    assert sweep(core, 60) == 0
    assert send(core, ACK, 61).ifindex == SERVERS
    connect(core, port=5000)
    send(core, RST, 5, port=5000)
    assert sweep(core, 120) == 1  # the other one
    assert send(core, ACK, 121, port=5000).ifindex == SERVERS


def test_what_idled_out_gives_way_to_new_flows() -> None:
    """A table full of connections that are over has room for as many new ones."""
    core = made(max_flows=90)
    for port in range(4000, 4090):
        connect(core, port)
    sweep(core, 60)
    assert core.flow_count() == 0
    for port in range(5000, 5080):
        send(core, SYN, 61, port=port)
    assert core.flow_count() + core.counters().stateless == 80
    assert core.counters().stateless < 8


def test_resets_over_ipv6() -> None:
    """With the lengths and the checksum of IPv6."""
    core = made()
    for flags in (SYN, ACK):
        core.process(bytes(tcp(ALICE6, 4000, VIP6, 80, flags)), ifindex=CLIENTS, now_ns=SECOND)
    late = tcp(ALICE6, 4000, VIP6, 80, ACK, b"abc")
    result = core.process(bytes(late), ifindex=CLIENTS, now_ns=60 * SECOND)
    assert (result.verdict, len(result.frame)) == (Verdict.TX, 74)
    assert read(result.frame) == (VIP6, 80, ALICE6, 4000)
    assert right(result.frame)


def ping(to: str, source: str = ALICE, size: int = 56, kind: int | None = None) -> Packet:
    """Return an echo request with so many bytes of data."""
    protocol, usual = (1, 8) if ":" not in to else (58, 128)
    body = struct.pack("!BBHHH", usual if kind is None else kind, 0, 0, 77, 3) + bytes(range(size))
    return Packet(source, to, protocol, body)


def pinged(*rows: Row, packet: Packet) -> Result:
    """Return what becomes of a ping."""
    return world(*rows).core().process(bytes(packet), ifindex=CLIENTS, now_ns=SECOND)


def with_state(state: AdminState, address: str = MEMBER) -> BackendPool:
    """Return a pool of one member with an admin state."""
    found = pool("web", address)
    return replace(found, members=(replace(found.members[0], admin_state=state),))


@pytest.mark.parametrize(("vip", "client"), [(VIP, ALICE), (VIP6, ALICE6)])
def test_a_public_frontend_answers_pings(vip: str, client: str) -> None:
    """With what was sent, as far as 64 bytes of ICMP go; longer ones are not answered."""
    rows = row(pool("web", MEMBER), VIP), row(pool("web6", "2001:db8:1::11"), VIP6)
    result = pinged(*rows, packet=ping(vip, client))
    assert (result.verdict, result.ifindex) == (Verdict.TX, CLIENTS)
    assert result.frame[:12] == CLIENT_LINK + OURS
    assert right(result.frame)
    at = 34 if vip == VIP else 54
    assert result.frame[at] == (0 if vip == VIP else 129)
    assert result.frame[at + 4 :] == bytes(ping(vip, client))[at + 4 :]
    assert pinged(*rows, packet=ping(vip, client, size=57)).reason is Drop.PING_IGNORED


def test_an_unreachable_frontend_says_so() -> None:
    """With nobody up, "host unreachable" comes from the VIP and quotes the ping's headers."""
    result = pinged(row(with_state(AdminState.DRAIN), VIP), packet=ping(VIP))
    assert (result.verdict, result.reason) == (Verdict.TX, Drop.NO_ELIGIBLE_MEMBER)
    assert result.frame[34:36] == b"\x03\x01"
    assert result.frame[42:] == bytes(ping(VIP))[14:42]
    assert right(result.frame)
    six = pinged(row(with_state(AdminState.DRAIN, "2001:db8:1::11"), VIP6), packet=ping(VIP6, ALICE6))
    assert six.frame[54:56] == b"\x01\x03"
    assert right(six.frame)


def test_who_is_silent() -> None:
    """Frontends without members or with all put down, internal ones, other kinds of ICMP, and who is not allowed."""
    web = pool("web", MEMBER)
    assert pinged(row(pool("none"), VIP), packet=ping(VIP)).reason is Drop.PING_IGNORED
    off = row(with_state(AdminState.DOWN), VIP)
    off = replace(off, rule=replace(off.rule, probe="tcp"))
    assert pinged(off, packet=ping(VIP)).reason is Drop.PING_IGNORED
    assert pinged(row(web, VIP), packet=ping(VIP, kind=13)).reason is Drop.NO_RULE
    assert pinged(row(web, VIP, allow=()), packet=ping(VIP)).reason is Drop.SOURCE_NOT_ALLOWED
    inside = row(web, "10.9.0.1")
    inside = replace(inside, frontend=replace(inside.frontend, scope=Scope.INTERNAL))
    assert pinged(inside, packet=ping("10.9.0.1")).reason is Drop.NO_RULE


def test_ha_ports_carry_pings_to_members() -> None:
    """As every other protocol."""
    result = pinged(ha(pool("web", MEMBER), VIP), packet=ping(VIP))
    assert (result.verdict, result.ifindex) == (Verdict.TX, SERVERS)
    assert pinged(row(pool("web", MEMBER), VIP, delivery=Delivery.FLOATING), packet=ping(VIP)).ifindex == CLIENTS
