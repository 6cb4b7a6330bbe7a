"""The C core and the Python oracle agree on every frame: verdict, reason, interface and bytes."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynclb import native
from asynclb.datapath.core import Core, Result, Verdict, build_image
from asynclb.datapath.core.oracle import Oracle
from asynclb.datapath.core.oracle.wire import Part, parse
from asynclb.model import AdminState, BackendPool, Member, Persistence
from asynclb.net.flow import Protocol
from asynclb.net.flowhash import Distribution
from asynclb.tables.row import Delivery, FrontendKey, Row
from tests.unit.core.world import (
    CLIENTS,
    OURS,
    SECOND,
    SERVERS,
    Packet,
    World,
    followed,
    ha,
    icmp_error,
    member_link,
    pool,
    row,
    tcp,
    udp,
    world,
)

pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)

CLIENTS4 = ("198.51.100.7", "198.51.100.8", "10.9.0.1", "0.0.0.0", "127.0.0.1", "224.0.0.1")
CLIENTS6 = ("2001:db8:9::7", "2001:db8:9::8", "::1", "ff02::1", "::ffff:198.51.100.7")
VIPS4 = (
    "203.0.113.10",
    "203.0.113.20",
    "203.0.113.30",
    "203.0.113.40",
    "203.0.113.50",
    "10.0.1.4",
    "192.0.2.200",
    "198.51.100.7",
)
VIPS6 = ("2001:db8::10", "2001:db8::20", "2001:db8::30", "2001:db8::50", "2001:db8:5::1", "fe80::5")
MEMBERS4 = ("10.1.0.11", "10.1.0.12", "10.1.0.13", "10.2.0.11", "10.2.0.12")
MEMBERS6 = ("2001:db8:1::11", "2001:db8:1::12")
HELD_NS = SECOND
MTU = 350  # towards clients
MEMBERS_MTU = 400
PORTS = (80, 443, 8080, 53, 5000, 41000, 61500)


def make_world(
    seed: int, distribution: Distribution, generation: int = 1, members: tuple[str, ...] = MEMBERS4[:3]
) -> World:
    """Return a world that has a bit of everything."""
    web, right = pool("web", *members), pool("right", *MEMBERS4[3:])
    web6, left = pool("web6", *MEMBERS6), pool("left", "10.3.0.11", "10.3.0.12")
    inside = (ip_network("10.0.0.0/8"), ip_network("198.51.100.0/29"))
    nva = FrontendKey(ip_address("10.0.1.4"), 0, Protocol.ALL)
    nva6 = FrontendKey(ip_address("2001:db8:4::4"), 0, Protocol.ALL)
    back = FrontendKey(ip_address("10.0.2.4"), 0, Protocol.ALL)
    return world(
        row(web, "203.0.113.10", 80, 8080, distribution=distribution, tcp_reset=True),
        row(pool("nobody"), "203.0.113.40"),
        row(drained("tired", "10.5.0.11"), "203.0.113.50"),
        row(drained("tired6", "2001:db8:7::1"), "2001:db8::50"),
        row(web, "203.0.113.10", 53, 5353, protocol=Protocol.UDP, distribution=distribution, allow=inside),
        moving(row(web, "203.0.113.10", 54, 5454, protocol=Protocol.UDP, distribution=distribution)),
        ha(right, "203.0.113.20", distribution=distribution),
        ha(web, "203.0.113.30", delivery=Delivery.FLOATING, tcp_reset=True),
        row(web, "203.0.113.30", 80, 8080, delivery=Delivery.FLOATING, distribution=distribution, tcp_reset=True),
        row(web, "203.0.113.30", 53, 5353, delivery=Delivery.FLOATING, protocol=Protocol.UDP),
        row(web6, "2001:db8::30", 80, 8080, delivery=Delivery.FLOATING, distribution=distribution),
        row(web6, "2001:db8::30", 53, 5000, delivery=Delivery.FLOATING, protocol=Protocol.UDP),
        row(web6, "2001:db8::10", 80, 8080, distribution=distribution, tcp_reset=True),
        ha(web6, "2001:db8::20"),
        ha(left, "10.0.1.4", delivery=Delivery.ROUTED, symmetric=True, distribution=distribution, tcp_reset=True),
        ha(pool("back", "10.4.0.11", "10.4.0.12"), "10.0.2.4", delivery=Delivery.ROUTED, symmetric=True),
        ha(pool("left6", "2001:db8:6::1", "2001:db8:6::2"), "2001:db8:4::4", delivery=Delivery.ROUTED, symmetric=True),
        seed=seed,
        generation=generation,
        routed={(CLIENTS, 4): nva, (CLIENTS, 6): nva6, (SERVERS, 4): back},
        local=frozenset({ip_address("192.0.2.200"), ip_address("203.0.113.20")}),
        mtu=MEMBERS_MTU,
        return_hops=seed % 2 == 0,
    )


def moving(found: Row) -> Row:
    """Return a row whose UDP flows follow the tables."""
    return replace(found, rule=replace(found.rule, connection_tracking=False))


def drained(name: str, address: str) -> BackendPool:
    """Return a pool of one member, which takes nothing new."""
    return BackendPool(name, (Member("m0", ip_address(address), admin_state=AdminState.DRAIN),))


@dataclass(frozen=True)
class Step:
    """A frame, where it comes in, and how much later than the one before; `answer` turns an earlier result round."""

    frame: bytes
    ifindex: int
    later_ms: int
    partial: bool = False
    segment: int = 0


transports: st.SearchStrategy[tuple[int, bytes]] = st.one_of(
    st.builds(
        lambda s, d, f, n: (6, struct.pack("!HHIIBBHHH", s, d, 1, 2, n << 4, f, 9, 0, 0) + b"abcd" * n * n),
        *(st.sampled_from(PORTS), st.sampled_from(PORTS)),
        *(st.sampled_from([2, 16, 18, 17, 4, 20, 0]), st.sampled_from([5, 5, 5, 6, 4, 15])),
    ),
    st.builds(
        lambda s, d, n: (17, struct.pack("!HHHH", s, d, n, 0) + b"hello"),
        *(st.sampled_from(PORTS), st.sampled_from(PORTS), st.sampled_from([13, 13, 8, 7, 400])),
    ),
    st.builds(
        lambda t, i: (1, struct.pack("!BBHHH", t, 0, 0, i, 1) + b"ping" * 6), st.integers(0, 18), st.integers(0, 3)
    ),
    st.builds(
        lambda t, i: (58, struct.pack("!BBHHH", t, 0, 0, i, 1) + ip_address("2001:db8::10").packed),
        *(st.sampled_from([1, 2, 128, 129, 133, 135, 136, 143]), st.integers(0, 3)),
    ),
    st.tuples(st.sampled_from([132, 33, 136, 47, 50, 51, 4, 0, 59, 255]), st.binary(max_size=24)),
)
fragments = st.sampled_from([0, 0, 0, 0, 0x2000, 0x2003, 3, 0x4000])
payloads = st.sampled_from([b"", b"a", bytes(range(100)), bytes(range(250)) * 2, bytes(400)])


@st.composite
def packets(draw: st.DrawFn, depth: int = 0) -> Packet:
    """Draw a packet between any two addresses, with extras."""
    four = draw(st.booleans())
    ends = (*CLIENTS4, *VIPS4, *MEMBERS4) if four else (*CLIENTS6, *VIPS6, *MEMBERS6)
    source, destination = draw(st.sampled_from(ends)), draw(st.sampled_from(ends))
    if depth == 0 and draw(st.integers(0, 4)) == 0:
        inner = draw(packets(depth=1)).network[: draw(st.sampled_from([8, 20, 28, 48, 200]))]
        if (inner[:1] >= b"\x60") == (not four):
            return icmp_error(source, destination, inner, kind=draw(st.sampled_from([3, 4, 11] if four else [1, 2, 3])))
    protocol, body = draw(transports)
    options = draw(st.sampled_from([b"", b"", b"\1" * 8, b"\0" * 8 if four else b"\0" + bytes(7)]))
    if not four and options:
        options = b"\0\0" + bytes(6)
    vlan = draw(st.sampled_from([b"", b"", b"\x81\x00\x00\x05", b"\x88\xa8\x00\x05\x81\x00\x00\x06"]))
    via = draw(st.sampled_from([bytes.fromhex("02000000cc01"), bytes.fromhex("02000000cc02"), member_link(0)]))
    to = draw(st.sampled_from([OURS, OURS, OURS, OURS, b"\xff" * 6]))
    return Packet(
        *(source, destination, protocol, body, to, via),
        vlan=vlan,
        options=options,
        fragment=draw(fragments),
        identification=draw(st.integers(1, 3)),
        hops=draw(st.sampled_from([64, 255])),
    )


@st.composite
def likely(draw: st.DrawFn) -> Packet:
    """Draw a packet of few clients to what listens, so that flows go on."""
    if draw(st.integers(0, 5)) == 0:
        return draw(floating())
    client, port = draw(st.sampled_from(CLIENTS4[:3])), draw(st.sampled_from([4000, 4001]))
    flags = draw(st.sampled_from([2, 16, 16, 17, 4]))
    make: Callable[..., Packet] = draw(st.sampled_from([tcp, udp]))
    more: dict[str, Any] = {"flags": flags} if make is tcp else {"fragment": draw(st.sampled_from([0, 0, 0x2000, 5]))}
    if make is tcp:
        more["fragment"] = draw(st.sampled_from([0, 0x4000]))
    more["payload"] = draw(payloads)
    target, dport = draw(
        st.sampled_from(
            [(VIPS4[0], 80), (VIPS4[0], 53), (VIPS4[0], 54), (VIPS4[1], 9), ("172.16.0.1", 7), (VIPS4[2], 5)]
        )
    )
    if draw(st.booleans()):
        return make(client, port, target, dport, **more)
    member = draw(st.sampled_from(MEMBERS4))
    back = draw(st.sampled_from([8080, 5353, 5454, 9, 80]))
    if draw(st.integers(0, 5)) == 0:
        return make(member, port, VIPS4[0], draw(st.sampled_from([80, 53])), **more)
    return make(member, back, client, port, **more)


@st.composite
def floating(draw: st.DrawFn) -> Packet:
    """Draw a packet to a VIP whose members see other ports of it, an answer of theirs, or an error about either."""
    client, vip = draw(st.sampled_from([(CLIENTS4[0], VIPS4[2]), (CLIENTS6[0], VIPS6[2])]))
    make: Callable[..., Packet] = draw(st.sampled_from([tcp, udp]))
    front, back = (80, 8080) if make is tcp else (53, 5353 if vip == VIPS4[2] else 5000)
    more: dict[str, Any] = {"payload": draw(payloads), "fragment": draw(st.sampled_from([0, 0, 0, 0, 0x2000, 5]))}
    if make is tcp:
        more["flags"] = draw(st.sampled_from([2, 16, 16, 16, 16, 17, 4]))
    inward = make(client, 4000, vip, draw(st.sampled_from([front] * 7 + [back])), **more)
    outward = make(vip, draw(st.sampled_from([back] * 7 + [front])), client, 4000, **more)
    match draw(st.integers(0, 7)):
        case 0:
            return icmp_error(vip, client, replace(inward, body=reported(inward.body)).network[:200])
        case 1:
            return icmp_error(client, vip, replace(outward, body=reported(outward.body)).network[:200])
        case number:
            return outward if number > 4 else inward


def reported(body: bytes) -> bytes:
    """Return a transport's bytes as the other side of the balancer knows them: with the ports exchanged."""
    known = {80: 8080, 53: 5353, 8080: 80, 5353: 53, 5000: 53}
    sport, dport = struct.unpack_from("!HH", body)
    return struct.pack("!HH", known.get(sport, sport), known.get(dport, dport)) + body[4:]


@st.composite
def changing(draw: st.DrawFn) -> Step:
    """Draw a step of few flows whose port changes: each packet comes from its own side, most soon after another."""
    packet = draw(floating())
    inward = packet.source in (CLIENTS4[0], CLIENTS6[0])
    later, segment = draw(st.sampled_from([0, 0, 0, 0, 500, 31_000])), draw(st.sampled_from([0, 0, 0, 60]))
    partial = draw(st.integers(0, 3)) == 0
    return Step(bytes(packet), CLIENTS if inward else SERVERS, later, partial, segment)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """Draw a frame, sometimes damaged."""
    frame = bytes(draw(st.one_of(packets(), likely(), likely())))
    damage = draw(st.integers(0, 9))
    if damage == 0:
        frame = frame[: draw(st.integers(0, len(frame)))]
    elif damage == 1:
        at = draw(st.integers(0, len(frame) - 1))
        frame = frame[:at] + bytes((draw(st.integers(0, 255)),)) + frame[at + 1 :]
    elif damage == 2:
        frame += bytes(draw(st.integers(0, 20)))
    later = draw(st.sampled_from([0, 0, 0, 1, 500, 5_000, 31_000, 241_000]))
    segment = draw(st.sampled_from([0, 0, 0, 0, 60, 1_400]))
    return Step(frame, draw(st.sampled_from([CLIENTS, SERVERS])), later, draw(st.integers(0, 9)) == 0, segment)


def partial_of(step: Step) -> dict[str, int]:
    """Return the arguments that say a transport's checksum is partial."""
    if not step.partial or step.frame[12:14] != b"\x08\x00" or len(step.frame) < 34:
        return {}
    offset = {6: 16, 17: 6}.get(step.frame[23])
    return {} if offset is None else {"csum_start": 14 + (step.frame[14] & 15) * 4, "csum_offset": offset}


def replied(step: Step, result: Result) -> Step | None:
    """Return the frame with which whoever received a TCP or UDP frame answers it."""
    frame = result.frame
    if result.verdict is not Verdict.TX or frame[12:14] != b"\x08\x00" or frame[14] != 0x45 or len(frame) < 54:
        return None
    step = replace(step, segment=0)
    turned = frame[6:12] + frame[:6] + frame[12:26] + frame[30:34] + frame[26:30]
    return replace(step, frame=turned + frame[36:38] + frame[34:36] + frame[38:], ifindex=result.ifindex, later_ms=0)


@dataclass
class Pair:
    """The core and the oracle side by side, with the fragments that wait in the core."""

    core: Core
    oracle: Oracle
    waiting: list[tuple[tuple[object, ...], Step, int] | None]

    def decide(self, step: Step, now: int) -> Result:
        """Let both decide a frame, and whatever it sets free."""
        arguments = {"ifindex": step.ifindex, "now_ns": now, "segment": step.segment, **partial_of(step)}
        got = self.core.process(step.frame, **arguments)
        wanted = self.oracle.process(step.frame, **arguments)
        assert replace(got, released=()) == wanted
        if wanted.verdict is Verdict.HOLD:
            free = next(i for i, held in enumerate(self.waiting) if held is None or held[2] <= now)
            self.waiting[free] = (datagram(step.frame), step, now + HELD_NS)
        released = [self.oracle.process(s.frame, ifindex=s.ifindex, now_ns=now) for s in self.freed(step, now)]
        assert list(got.released) == released
        return got

    def freed(self, step: Step, now: int) -> Iterator[Step]:
        """Yield the waiting fragments whose first this frame was."""
        parsed = parse(step.frame)
        if parsed is None or parsed.net is None or parsed.reason or parsed.net.part is not Part.FIRST:
            return
        name = datagram(step.frame)
        if (name[0], name[1], name[2], name[3]) not in self.oracle.fragments:
            return
        for index, held in enumerate(self.waiting):
            if held is not None and held[0] == name:
                self.waiting[index] = None
                if now < held[2]:
                    yield held[1]


def datagram(frame: bytes) -> tuple[object, ...]:
    """Return what names the datagram of a fragment."""
    parsed = parse(frame)
    assert parsed is not None
    net = parsed.net
    assert net is not None
    return net.source, net.destination, net.fragment_id, net.protocol if net.version == 4 else 0


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**64 - 1),
    distribution=st.sampled_from(list(Distribution)),
    journey=st.lists(st.tuples(steps(), st.booleans()), min_size=1, max_size=24),
    change=st.integers(0, 24),
)
def test_the_core_and_the_oracle_agree(
    seed: int, distribution: Distribution, journey: list[tuple[Step, bool]], change: int
) -> None:
    """Any frames in any order, some of them answered, with new tables somewhere between."""
    travel(seed, distribution, journey, change)


def _rows(found: World) -> list[Row]:
    return [entry.row for entry in found.tables.entries.values()]


def _moved(row: Row) -> Row:
    """Return a rule as it is with every second member at another address, and on another port if it has one."""
    backend = row.pool.members
    members = tuple(replace(m, address=m.address + 64 * (i % 2)) for i, m in enumerate(backend))
    port = row.rule.backend_port and 9090
    return replace(row, rule=replace(row.rule, backend_port=port), pool=replace(row.pool, members=members))


def _downed(number: int, row: Row) -> Row:
    """Return a rule as it is with every second member down, and one of the words on what becomes of its flows."""
    states = (AdminState.UP, AdminState.DOWN)
    members = tuple(replace(m, admin_state=states[i % 2]) for i, m in enumerate(row.pool.members))
    persistence = tuple(Persistence)[number % len(Persistence)]
    rule = replace(row.rule, probe="tcp", persistence_on_unhealthy=persistence)
    return replace(row, rule=rule, pool=replace(row.pool, members=members))


CHANGES: tuple[Callable[[World, World], World], ...] = (
    lambda start, after: replace(start, tables=after.tables),  # nobody is given time
    lambda start, after: followed(start, *_rows(after)),  # a member leaves
    lambda start, after: followed(start, *_rows(after)[::2]),  # rules are removed
    lambda start, after: followed(start, *_rows(after)[1::2]),
    lambda start, _after: followed(start, *map(_moved, _rows(start))),  # members change their address
    lambda start, _after: followed(start, *(_downed(i, row) for i, row in enumerate(_rows(start)))),
    lambda start, _after: followed(start, *(_downed(i + 1, row) for i, row in enumerate(_rows(start)))),
    lambda start, _after: followed(start, *(_downed(i + 2, row) for i, row in enumerate(_rows(start)))),
)


def travel(seed: int, distribution: Distribution, journey: list[tuple[Step, bool]], change: int) -> None:
    """Send a journey through both."""
    start = make_world(seed, distribution)
    after = CHANGES[seed % len(CHANGES)](start, make_world(seed, distribution, 2, MEMBERS4[:2]))
    core, now = start.core(), 5 * SECOND
    core.set_interface(CLIENTS, OURS, MTU)
    links = {SERVERS: start.hops[0].source, CLIENTS: OURS}
    mtus = {SERVERS: start.hops[0].mtu, CLIENTS: MTU}
    pair = Pair(core, Oracle(start.tables, start.plan, start.hops, links, mtus=mtus), [None] * 64)
    try:
        for index, (step, answered) in enumerate(journey):
            if index == change:
                core.publish(build_image(after.tables, after.plan))
                for number in after.hops.keys() - start.hops.keys():
                    core.set_next_hop(number, after.hops[number])
                pair.oracle.tables, pair.oracle.plan, pair.oracle.hops = after.tables, after.plan, after.hops
            now += step.later_ms * 1_000_000
            result = pair.decide(step, now)
            answer = replied(step, result) if answered else None
            if answer is not None:
                pair.decide(answer, now)
    finally:
        core.close()


@st.composite
def crowded(draw: st.DrawFn) -> Step:
    """Draw a frame of so few that they meet: fragments of two datagrams, and members that are clients."""
    later = draw(st.sampled_from([0, 0, 0, 300, 999, 1_000]))
    if draw(st.booleans()):
        client, vip = draw(st.sampled_from([("198.51.100.7", VIPS4[1]), ("2001:db8:9::7", "2001:db8::20")]))
        part, number = draw(st.sampled_from([0x2000, 5, 9])), draw(st.integers(1, 2))
        return Step(bytes(udp(client, 4000, vip, 53, fragment=part, identification=number)), CLIENTS, later)
    member, flags = draw(st.sampled_from(MEMBERS4[:2])), draw(st.sampled_from([2, 16, 17, 4]))
    return Step(bytes(tcp(member, 4000, VIPS4[0], 80, flags)), SERVERS, later)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 7),
    journey=st.lists(st.tuples(crowded(), st.booleans()), min_size=4, max_size=30),
    change=st.integers(0, 24),
)
def test_fragments_and_hairpins_agree(seed: int, journey: list[tuple[Step, bool]], change: int) -> None:
    """Later fragments wait and go; members reach themselves and each other, and are answered."""
    travel(seed, Distribution.FIVE_TUPLE, journey, change)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 7),
    journey=st.lists(st.tuples(changing(), st.booleans()), min_size=6, max_size=30),
    change=st.integers(0, 40),
)
def test_changed_ports_agree(seed: int, journey: list[tuple[Step, bool]], change: int) -> None:
    """With floating IP and another backend port, both ways, with errors, fragments and new tables between."""
    travel(seed, Distribution.FIVE_TUPLE, journey, change)
