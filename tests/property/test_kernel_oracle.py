"""The BPF programs and the Python oracle agree on every frame: verdict, reason and bytes, on both hooks.

What the kernel cannot do is said in `wanted`: it holds no fragments back.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynclb.datapath.core import Result, Verdict, build_image
from asynclb.datapath.core.layout import CONSTANTS
from asynclb.datapath.core.oracle import Oracle
from asynclb.datapath.kernel.programs import kernel_release
from asynclb.net.drop import Drop
from asynclb.net.flowhash import Distribution
from tests.property.test_core_oracle import (
    CLIENTS4,
    CLIENTS6,
    MEMBERS4,
    MTU,
    VIPS4,
    VIPS6,
    Step,
    changing,
    crowded,
    make_world,
    replied,
    steps,
)
from tests.unit.core.loaded import Loaded, loaded
from tests.unit.core.world import CLIENTS, OURS, SECOND, SERVERS, Packet, tcp, udp

SHORTEST = {b"\x08\x00": 34, b"\x86\xdd": 54}
"""What the kernel runs tc programs on must have, by its type. XDP programs run on all that has a link header."""
TAGS = (b"\x81\x00", b"\x88\xa8")
ACK = 16
RULES = 20
"""More than a world has."""
SUMMED = "tc-summed"
"""The hook tc for frames that come with a sum over the packet, which the kernel looks at afterwards."""
SUMS = (6, 17)
"""The kernel that does so."""
SETTINGS: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module", params=["xdp", "tc", SUMMED, "xdp-restrained", "tc-restrained"])
def programs(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    """The programs; frames go through one of them. What is restrained was loaded with two capabilities."""
    if request.param == SUMMED and kernel_release() < SUMS:
        pytest.skip("the kernel gives frames of tests no sum")
    with loaded(restrained=request.param.endswith("-restrained")) as made:
        made.hook = request.param.removesuffix("-restrained")
        yield made


def wanted(result: Result) -> tuple[str, Drop | None, bytes]:
    """Return what the kernel makes of a frame by what the oracle does."""
    if result.verdict is Verdict.HOLD:
        return "drop", Drop.FRAGMENT_LOST, result.frame
    return result.verdict.name.lower(), result.reason, result.frame


def decide(programs: Loaded, oracle: Oracle, step: Step, now: int) -> Result:
    """Let both decide a frame."""
    before = programs.drops()
    oracle.icmp_tokens = CONSTANTS["ICMP_BURST"]  # steps are farther apart than messages need be
    result = oracle.process(step.frame, ifindex=step.ifindex, now_ns=now)
    whole = len(result.frame) == len(step.frame)  # what the kernel cuts loses its sum
    verdict, frame = programs.run(step.frame, step.ifindex, summed=programs.hook == SUMMED and whole)
    fresh = [reason for reason, count in programs.drops().items() if count != before.get(reason, 0)]
    told = result.verdict is Verdict.TX and oracle.icmp_tokens < CONSTANTS["ICMP_BURST"]
    if told and programs.hook != "xdp" and step.frame[12:14] in TAGS:
        result = replace(result, verdict=Verdict.DROP, frame=step.frame)  # tc cannot put a message before a quote there
    assert (verdict, fresh[0] if fresh and not told else None, frame) == wanted(result)
    assert not told or fresh == [Drop.TOO_BIG]
    assert len(fresh) < 2
    return result


def travel(programs: Loaded, distribution: Distribution, journey: list[tuple[Step, bool]], change: int) -> None:
    """Send a journey through both."""
    start, after = make_world(7, distribution), make_world(7, distribution, 2, MEMBERS4[:2])
    links = {SERVERS: start.hops[0].source, CLIENTS: OURS}
    mtus = {SERVERS: start.hops[0].mtu, CLIENTS: MTU}
    oracle, now = Oracle(start.tables, start.plan, start.hops, links, mtus=mtus), 5 * SECOND
    programs.show(start)
    for ifindex, link in links.items():
        programs.set_interface(ifindex, link, mtu=mtus[ifindex])
    programs.set_appliances({start.hops[start.plan.next_hops[m.address]].destination for m in routed_members(oracle)})
    for index, (step, answered) in enumerate(journey):
        if index == change:
            programs.publish(build_image(after.tables, start.plan))
            oracle.tables = after.tables
        if later_ms := step.later_ms // 100 * 100:  # nothing ends within a tick from here: the kernel's clock goes on
            programs.later(later_ms)
            now += later_ms * 1_000_000
        if len(step.frame) < (SHORTEST.get(step.frame[12:14], 15) if programs.hook != "xdp" else 14):
            continue
        result = decide(programs, oracle, replace(step, partial=False), now)
        answer = replied(step, result) if answered else None
        if answer is not None:
            decide(programs, oracle, answer, now)


def routed_members(oracle: Oracle) -> list[Any]:
    """Return the members that frames are routed through."""
    return [m for row in oracle.rows() if row.delivery.name == "ROUTED" for m in row.pool.members]


@settings(max_examples=200, **SETTINGS)
@given(
    distribution=st.sampled_from(list(Distribution)),
    journey=st.lists(st.tuples(steps(), st.booleans()), min_size=1, max_size=24),
    change=st.integers(0, 24),
)
def test_the_programs_and_the_oracle_agree(
    programs: Loaded, distribution: Distribution, journey: list[tuple[Step, bool]], change: int
) -> None:
    """Any frames in any order, some of them answered, with new tables somewhere between."""
    travel(programs, distribution, journey, change)


@settings(max_examples=100, **SETTINGS)
@given(journey=st.lists(st.tuples(crowded(), st.booleans()), min_size=4, max_size=30), change=st.integers(0, 24))
def test_fragments_and_hairpins_agree(programs: Loaded, journey: list[tuple[Step, bool]], change: int) -> None:
    """Fragments follow their first, if that came first; members reach themselves and each other, and are answered."""
    travel(programs, Distribution.FIVE_TUPLE, journey, change)


@settings(max_examples=100, **SETTINGS)
@given(journey=st.lists(st.tuples(changing(), st.booleans()), min_size=6, max_size=30), change=st.integers(0, 40))
def test_changed_ports_agree(programs: Loaded, journey: list[tuple[Step, bool]], change: int) -> None:
    """With floating IP and another backend port, both ways, by the fast way and the other."""
    travel(programs, Distribution.FIVE_TUPLE, journey, change)


def looks_partial(make: Callable[..., Packet], client: str, vip: str, port: int) -> bytes:
    """Return a frame whose checksum is whole, and the very number that a device would find that is to complete it."""
    flags = {"flags": ACK} if make is tcp else {}
    frame = bytes(make(client, 4_000, vip, port, payload=bytes(2), **flags))
    place = (34 if ":" not in vip else 54) + (16 if make is tcp else 6)
    ends = ip_address(client).packed + ip_address(vip).packed
    pseudo = ends + struct.pack("!HH", 6 if make is tcp else 17, len(frame) - place + (16 if make is tcp else 6))
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo)) % 0xFFFF
    payload = (int.from_bytes(frame[place : place + 2]) - total) % 0xFFFF
    frame = bytes(make(client, 4_000, vip, port, payload=payload.to_bytes(2), **flags))
    assert int.from_bytes(frame[place : place + 2]) == total
    return frame


def arrive(programs: Loaded, frames: list[bytes]) -> None:
    """Let a client's frames come in, which all go to a member."""
    before = sum(programs.count("rule_counts", rule).packets_in for rule in range(RULES))
    travel(programs, Distribution.FIVE_TUPLE, [(Step(frame, CLIENTS, 0), False) for frame in frames], 9)
    assert sum(programs.count("rule_counts", rule).packets_in for rule in range(RULES)) == before + len(frames)


@pytest.mark.parametrize(
    ("make", "client", "vip", "port"),
    [
        (tcp, CLIENTS4[0], VIPS4[0], 80),
        (udp, CLIENTS4[0], VIPS4[0], 53),
        (tcp, CLIENTS6[0], VIPS6[0], 80),
        (udp, CLIENTS6[0], VIPS6[1], 53),
    ],
)
def test_a_checksum_that_looks_partial(
    programs: Loaded, make: Callable[..., Packet], client: str, vip: str, port: int
) -> None:
    """It follows what is rewritten as any other does, though tc asks the kernel to do it."""
    arrive(programs, [bytes(make(client, 4_000, vip, port)), looks_partial(make, client, vip, port)])


@pytest.mark.parametrize("vip", [VIPS4[0], VIPS4[2], VIPS6[1], VIPS6[2]])
def test_udp_without_a_checksum(programs: Loaded, vip: str) -> None:
    """It stays without one where addresses and ports change, by the usual way and the other."""
    client, place = (CLIENTS4[0], 34 + 6) if ":" not in vip else (CLIENTS6[0], 54 + 6)
    frame = bytes(udp(client, 4_000, vip, 53))
    arrive(programs, [frame[:place] + bytes(2) + frame[place + 2 :]] * 3)
