"""The C core and the Python oracle agree on members' own connections: few ports and ends, which run out and meet."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynclb import native
from asynclb.datapath.core import build_image
from asynclb.datapath.core.oracle import Oracle
from asynclb.net.flow import Protocol
from asynclb.tables.snat import SnatRule
from tests.property.test_core_oracle import MTU, Pair, Step, replied
from tests.unit.core.world import (
    CLIENTS,
    OURS,
    SECOND,
    SERVERS,
    Packet,
    World,
    ha,
    icmp_error,
    outbound,
    pool,
    row,
    tcp,
    udp,
    world,
)

pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)

VIPS = ("203.0.113.10", "203.0.113.11", "203.0.113.12")
VIPS6 = ("2001:db8::10",)
MEMBERS, MEMBERS6 = ("10.1.0.11", "10.1.0.12", "10.2.0.11", "10.3.0.11"), ("2001:db8:1::11",)
SERVERS4, SERVERS6 = ("198.51.100.80", "198.51.100.81", "192.0.2.7"), ("2001:db8:9::80",)
BOTH = (Protocol.TCP, Protocol.UDP)


def rules(ports: int, *, more: bool) -> tuple[SnatRule, ...]:
    """Return rules over three pools and two versions: one with two addresses, one for UDP, one that closes."""
    direct = (ip_network("192.0.2.0/24"),)
    found = [
        outbound(pool("web", *MEMBERS[:2]), *VIPS[:2], ports=ports, direct=direct, idle_timeout_s=60.0),
        outbound(pool("udp", MEMBERS[2]), VIPS[2], ports=ports, first=300, protocols=(Protocol.UDP,)),
        outbound(pool("six", *MEMBERS6), *VIPS6, ports=ports, tcp_reset=True),
        outbound(pool("shut", MEMBERS[3]), protocols=()),
    ]
    return tuple(found if more else found[1:])


def make_world(seed: int, ports: int, generation: int = 1, *, more: bool = True) -> World:
    """Return a world with outbound rules beside load-balancing rules over the same pools."""
    web = pool("web", *MEMBERS[:2])
    return world(
        row(web, VIPS[0], 80, 8080),
        ha(pool("any", MEMBERS[2]), VIPS[2]),
        row(pool("six", *MEMBERS6), VIPS6[0], 80, 8080),
        seed=seed,
        generation=generation,
        outbound=rules(ports, more=more),
    )


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """Draw what a member sends, what may come back to a frontend, or an error about either."""
    six = draw(st.integers(0, 4)) == 0
    members, servers, vips = (MEMBERS6, SERVERS6, VIPS6) if six else (MEMBERS, SERVERS4, VIPS)
    member, server, vip = (draw(st.sampled_from(found)) for found in (members, servers, vips))
    make: Callable[..., Packet] = draw(st.sampled_from([tcp, udp]))
    more: dict[str, Any] = {"flags": draw(st.sampled_from([2, 2, 2, 18, 16, 17, 4]))} if make is tcp else {}
    sport, dport = draw(st.sampled_from([5000, 5001, 5002, 8080])), draw(st.sampled_from([443, 53]))
    port = draw(st.sampled_from([1600, 1601, 1607, 1610, 2400, 2401, 80]))
    later = draw(st.sampled_from([0, 0, 0, 10, 11_000, 61_000]))
    part = draw(st.sampled_from([0, 0, 0, 0, 0x2000, 0x4000])) if not six else 0
    more |= {"payload": draw(st.sampled_from([b"", b"abc", bytes(400)])), "fragment": part}
    out, back = make(member, sport, server, dport, **more), make(server, dport, vip, port, **more)
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return Step(bytes(icmp_error(member, server, make(server, dport, member, sport).network)), SERVERS, later)
    if kind == 1:
        return Step(bytes(icmp_error(server, vip, make(vip, port, server, dport).network)), CLIENTS, later)
    if kind == 2:
        return Step(bytes(back), CLIENTS, later)
    frame = bytes(out)
    if kind == 3:
        frame = frame[: draw(st.integers(14, len(frame)))]
    return Step(frame, SERVERS, later, draw(st.integers(0, 5)) == 0)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**64 - 1),
    ports=st.sampled_from([8, 16, 512]),
    journey=st.lists(st.tuples(steps(), st.booleans()), min_size=1, max_size=40),
    change=st.integers(0, 40),
)
def test_own_connections_agree(seed: int, ports: int, journey: list[tuple[Step, bool]], change: int) -> None:
    """Any frames of members and servers, some answered, with other rules or ports somewhere between."""
    start = make_world(seed, ports)
    after = make_world(seed, 8 if seed % 2 else ports, 2, more=bool(seed & 4))
    keep = start.plan
    plan = replace(after.plan, rules=keep.rules, members=keep.members, sources=_still(keep.sources, after))
    core, now = start.core(), 5 * SECOND
    core.set_interface(CLIENTS, OURS, MTU)
    links = {SERVERS: start.hops[0].source, CLIENTS: OURS}
    mtus = {SERVERS: start.hops[0].mtu, CLIENTS: MTU}
    pair = Pair(core, Oracle(start.tables, start.plan, start.hops, links, mtus=mtus), [None] * 64)
    try:
        for index, (step, answered) in enumerate(journey):
            if index == change:
                core.publish(build_image(after.tables, plan))
                pair.oracle.tables, pair.oracle.plan = after.tables, plan
            now += step.later_ms * 1_000_000
            answer = replied(replace(step, ifindex=CLIENTS), pair.decide(step, now))
            if answered and answer is not None and answer.ifindex in (0, CLIENTS):
                pair.decide(replace(answer, ifindex=CLIENTS), now)
    finally:
        core.close()


def _still(sources: Any, after: World) -> dict[Any, int]:
    wanted = {address for rule in after.tables.outbound for address in rule.sources}
    return {address: number for address, number in sources.items() if address in wanted}
