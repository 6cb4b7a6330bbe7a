"""The flow table: who keeps whose member, for how long, and what is counted."""

import random

import pytest

from asynclb import native
from asynclb.datapath.core import Core, Going, Verdict, build_image
from asynclb.datapath.core.reset import checksum
from asynclb.net.drop import Drop
from tests.unit.core.world import CLIENTS, SECOND, SERVERS, World, pool, read, right, row, tcp, world

pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)

VIP, ALICE = "203.0.113.10", "198.51.100.7"
SYN, ACK, FIN, RST = 2, 16, 17, 4


def two_generations(seed: int = 7) -> tuple[World, World]:
    """Return tables over six members, and then over four of them."""
    names = [f"10.1.0.{i}" for i in range(11, 17)]
    return world(row(pool("web", *names), VIP), seed=seed), world(
        row(pool("web", *names[:4]), VIP), seed=seed, generation=2
    )


def member_of(core: Core, port: int, flags: int = ACK, now: int = SECOND) -> str:
    """Return which member a packet of a client's port goes to."""
    result = core.process(bytes(tcp(ALICE, port, VIP, 80, flags)), ifindex=CLIENTS, now_ns=now)
    assert result.verdict is Verdict.TX
    return read(result.frame)[2]


def answer(core: Core, port: int, flags: int, now: int = SECOND) -> None:
    """Let the member of a flow answer."""
    there = core.process(bytes(tcp(ALICE, port, VIP, 80, ACK)), ifindex=CLIENTS, now_ns=now).frame
    source, sport, destination, dport = read(there)
    back = tcp(destination, dport, source, sport, flags, to=there[6:12], via=there[:6])
    assert core.process(bytes(back), ifindex=SERVERS, now_ns=now).verdict is Verdict.TX


def test_connections_keep_their_member_when_members_come() -> None:
    """Only new flows see new members."""
    many, few = two_generations()
    core = many.core()
    core.publish(build_image(few.tables, many.plan))
    before = [member_of(core, port, SYN) for port in range(1000, 1200)]
    assert [member_of(core, port) for port in range(1000, 1200)] == before
    core.publish(build_image(many.tables, many.plan))
    assert [member_of(core, port) for port in range(1000, 1200)] == before
    assert {member_of(core, port, SYN) for port in range(2000, 2200)} > set(before)


def test_connections_of_a_member_that_has_gone_are_balanced_again() -> None:
    """The others stay where they are."""
    many, few = two_generations()
    core = many.core()
    before = [member_of(core, port) for port in range(1000, 1200)]
    core.publish(build_image(few.tables, many.plan))
    after = [member_of(core, port) for port in range(1000, 1200)]
    gone = {"10.1.0.15", "10.1.0.16"}
    assert all(old == new for old, new in zip(before, after, strict=True) if old not in gone)
    assert not gone & set(after)
    assert core.counters().rules[0].flows == core.counters().flows == 200
    assert sum(m.flows for m in core.counters().members.values()) == 200


def test_a_syn_on_a_closed_connection_is_a_new_flow() -> None:
    """A port that is used again is balanced by the tables of now, and counted again."""
    many, few = two_generations()
    core = many.core()
    core.publish(build_image(few.tables, many.plan))
    for port in range(1000, 1100):
        member_of(core, port, SYN)
        member_of(core, port, FIN)
        answer(core, port, FIN)
    assert {flow.state for flow in core.flows(0, 2000)[0]} == {"closed"}
    core.publish(build_image(many.tables, many.plan))
    fresh = many.core()
    assert [member_of(core, p, SYN) for p in range(1000, 1100)] == [member_of(fresh, p, SYN) for p in range(1000, 1100)]
    assert (core.counters().rules[0].new_flows, core.counters().flows) == (200, 100)


def test_a_full_table_keeps_its_flows_and_balances_the_others_without_state() -> None:
    """A flood takes nothing from those who were there."""
    many, few = two_generations()
    core = many.core(200)
    core.publish(build_image(few.tables, many.plan))
    before = [member_of(core, port, SYN) for port in range(1000, 1200)]
    assert core.counters().flows == 200
    flood = [member_of(core, port, SYN) for port in range(2000, 4000)]
    assert [member_of(core, port) for port in range(2000, 4000)] == flood
    core.publish(build_image(many.tables, many.plan))
    assert [member_of(core, port) for port in range(1000, 1200)] == before
    assert (core.counters().flows, core.counters().stateless > 1990) == (200, True)


def test_a_table_takes_all_the_flows_it_was_made_for() -> None:
    """Eight of nine ways are used before the first flow is turned away."""
    core = two_generations()[0].core(20_000)
    rng = random.Random(1)
    for _ in range(20_000):
        client = f"198.51.{rng.randrange(256)}.{rng.randrange(1, 255)}"
        core.process(bytes(tcp(client, rng.randrange(65536), VIP, 80)), ifindex=CLIENTS, now_ns=SECOND)
    counters = core.counters()
    assert counters.stateless == 0
    assert counters.flows > 19_900


def test_idle_flows_expire_and_both_ends_are_told() -> None:
    """With `tcp_reset`, resets carry the numbers that the ends wait for."""
    made = world(row(pool("web", "10.1.0.11"), VIP, 80, 8080, idle_timeout_s=240, tcp_reset=True))
    core = made.core()
    member_of(core, 1000)
    answer(core, 1000, ACK)
    assert core.sweep(240 * SECOND, 1_000_000).expired == 0
    swept = core.sweep(241 * SECOND, 1_000_000)
    assert (swept.expired, swept.done, core.counters().flows) == (1, True, 0)
    (reset,) = swept.resets
    (to_client, client_frame), (to_member, member_frame) = reset.frames
    assert (to_client, read(client_frame)) == (CLIENTS, (VIP, 80, ALICE, 1000))
    assert (to_member, read(member_frame)) == (SERVERS, (ALICE, 1000, "10.1.0.11", 8080))
    for frame in (client_frame, member_frame):
        assert (right(frame), frame[47], frame[38:42]) == (True, 4, (2000).to_bytes(4, "big"))
    assert checksum(b"") == 0xFFFF


def test_a_sweep_visits_the_table_in_parts() -> None:
    """Each call has a budget, and the next goes on."""
    core = two_generations()[0].core(800)
    for port in range(1000, 1800):
        member_of(core, port, SYN)
    parts = [core.sweep(100 * SECOND, 25) for _ in range(4)]
    assert sum(part.expired for part in parts) == 800
    assert [part.done for part in parts] == [False, False, False, True]


def test_forgotten_members_leave_no_flows() -> None:
    """An id can be used again afterwards."""
    made = two_generations()[0]
    core = made.core()
    found = [member_of(core, port) for port in range(1000, 1100)]
    gone = made.plan.members["web", "m0"]
    assert core.part(Going([], [gone], max_members=256), 0, 1 << 20, last=True)[1] is None
    assert core.counters().flows == 100 - found.count("10.1.0.11")
    counted = core.release_ids([], [gone]).members[gone]
    assert (counted.new_flows, counted.flows) == (found.count("10.1.0.11"), 0)
    assert gone not in core.counters().members
    assert all(flow.member != made.plan.members["web", "m0"] for flow in core.flows()[0])


def test_flows_are_listed_in_parts() -> None:
    """Cursors go on until there is none."""
    core = two_generations()[0].core()
    for port in range(1000, 1100):
        member_of(core, port, SYN)
    ports, cursor = set(), 0
    while cursor is not None:
        flows, cursor = core.flows(cursor, 20)  # type: ignore[assignment] # the loop ends with None
        assert len(flows) <= 20
        ports |= {flow.client_port for flow in flows}
    assert ports == set(range(1000, 1100))


def test_a_late_answer_of_another_member_is_dropped() -> None:
    """A client never hears from a member that is not its flow's."""
    core = two_generations()[0].core()
    mine = member_of(core, 1000)
    other = next(f"10.1.0.{i}" for i in range(11, 17) if f"10.1.0.{i}" != mine)
    result = core.process(bytes(tcp(other, 80, ALICE, 1000, ACK)), ifindex=SERVERS, now_ns=SECOND)
    assert (result.verdict, result.reason) == (Verdict.DROP, Drop.NO_FLOW)


@pytest.mark.parametrize("at", [0, 4, 8, 40, 44, 60, 120])
def test_a_damaged_image_is_refused_and_the_old_one_stays(at: int) -> None:
    """Whatever is not as the builder makes it is found before a frame meets it."""
    made = two_generations()[0]
    core = made.core()
    before = member_of(core, 1000)
    image = build_image(made.tables, made.plan)
    with pytest.raises(ValueError, match="damaged"):
        core.publish(image[:at] + b"\xf1\xff\xff\x7f" + image[at + 4 :] if at < 120 else image[:-8])
    assert member_of(core, 1000) == before
