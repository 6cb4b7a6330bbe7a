"""Members and rules that leave: their connections go on for a while, and end with resets that both ends accept."""

import pytest

from asynclb import native
from asynclb.datapath.core import Core, Going, Reset, Verdict, build_image
from asynclb.net.drop import Drop
from asynclb.net.flow import Protocol
from tests.unit.core.world import (
    CLIENTS,
    MEMBERS_OURS,
    SECOND,
    SERVERS,
    World,
    followed,
    ha,
    pool,
    read,
    right,
    row,
    tcp,
    udp,
    world,
)

pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)

VIP, OTHER, ALICE = "203.0.113.10", "203.0.113.11", "198.51.100.7"
SYN, ACK, SYN_ACK = 2, 16, 18
NAMES = ("10.1.0.11", "10.1.0.12", "10.1.0.13")
PORTS = range(1000, 1060)


def sent(
    core: Core, port: int, flags: int = ACK, *, vip: str = VIP, now: int = SECOND
) -> tuple[str, int] | Drop | None:
    """Return which member and port a client's packet goes to, or why it does not."""
    result = core.process(bytes(tcp(ALICE, port, vip, 80, flags)), ifindex=CLIENTS, now_ns=now)
    return read(result.frame)[2:] if result.verdict is Verdict.TX else result.reason


def answered(
    core: Core, member: tuple[str, int], port: int, flags: int = ACK, *, now: int = SECOND
) -> tuple[str, int] | Drop | None:
    """Return from whom the client gets what a member answers, or why it does not."""
    frame = tcp(*member, ALICE, port, flags, to=MEMBERS_OURS)
    result = core.process(bytes(frame), ifindex=SERVERS, now_ns=now)
    return read(result.frame)[:2] if result.verdict is Verdict.TX else result.reason


def opened(before: World) -> tuple[Core, dict[int, tuple[str, int]]]:
    """Open a connection from each of some ports, and return who has them."""
    core = before.core()
    for port in PORTS:
        member = sent(core, port, SYN)
        assert isinstance(member, tuple)
        assert answered(core, member, port, SYN_ACK) == (VIP, 80)
    return core, {port: found for port in PORTS if isinstance(found := sent(core, port), tuple)}


def publish(core: Core, after: World) -> None:
    """Let a core go on with what comes after."""
    core.publish(build_image(after.tables, after.plan))
    for index, hop in after.hops.items():
        core.set_next_hop(index, hop)


def going(after: World, port: int = 8080) -> Going:
    """Return what ends when all that leaves has had its time."""
    flows = [(leaver.rule, number, port) for leaver in after.plan.leaving for number in after.plan.left.values()]
    return Going(flows, [], max_members=256)


def passed(core: Core, ending: Going, *, last: bool) -> list[Reset]:
    """Make one pass in small steps."""
    resets: list[Reset] = []
    cursor: int | None = 0
    while cursor is not None:
        found, cursor = core.part(ending, cursor, 10, last=last)
        resets += found
    return resets


def test_a_removed_member_keeps_its_connections_and_gets_no_others() -> None:
    """Both directions go on; new connections and datagrams go to those who are left."""
    web = row(pool("web", *NAMES), VIP, 80, 8080)
    dns = row(pool("web", *NAMES), VIP, 53, 5353, protocol=Protocol.UDP)
    before = world(web, dns)
    core, found = opened(before)
    asked = [core.process(bytes(udp(ALICE, port, VIP, 53)), ifindex=CLIENTS, now_ns=SECOND) for port in PORTS]
    assert {read(result.frame)[2] for result in asked} == set(NAMES)
    few = pool("web", *NAMES[:2])
    publish(core, followed(before, row(few, VIP, 80, 8080), row(few, VIP, 53, 5353, protocol=Protocol.UDP)))
    assert {member for member, _ in found.values()} == set(NAMES)
    for port, member in found.items():
        assert sent(core, port) == member
        assert answered(core, member, port) == (VIP, 80)
    fresh = [sent(core, port, SYN) for port in range(3000, 3200)]
    assert {member[0] for member in fresh if isinstance(member, tuple)} == set(NAMES[:2])
    for port in PORTS:
        result = core.process(bytes(udp(ALICE, port, VIP, 53)), ifindex=CLIENTS, now_ns=SECOND)
        assert read(result.frame)[2] in NAMES[:2]


def test_a_member_with_another_address_is_another_one() -> None:
    """Connections stay with the machine that they began with, new ones meet the new one under its name."""
    before = world(row(pool("web", *NAMES), VIP, 80, 8080))
    core, found = opened(before)
    publish(core, followed(before, row(pool("web", *NAMES[:2], "10.1.0.99"), VIP, 80, 8080)))
    assert [sent(core, port) for port in PORTS] == list(found.values())
    assert all(answered(core, member, port) == (VIP, 80) for port, member in found.items())
    fresh = {member[0] for port in range(3000, 3100) if isinstance(member := sent(core, port, SYN), tuple)}
    assert fresh == {*NAMES[:2], "10.1.0.99"}


def test_a_removed_rule_keeps_its_connections() -> None:
    """Whoever comes now finds no rule."""
    before = world(row(pool("web", *NAMES), VIP, 80, 8080))
    core, found = opened(before)
    publish(core, followed(before))
    assert [sent(core, port) for port in PORTS] == list(found.values())
    assert all(answered(core, member, port) == (VIP, 80) for port, member in found.items())
    assert sent(core, 3000, SYN) is Drop.NO_RULE


def test_a_rule_that_moves_to_another_frontend() -> None:
    """The same members on the same port serve the old connections and the new ones, each under their address."""
    backend = pool("web", *NAMES)
    before = world(row(backend, VIP, 80, 8080))
    core, found = opened(before)
    publish(core, followed(before, row(backend, OTHER, 80, 8080)))
    assert [sent(core, port) for port in PORTS] == list(found.values())
    assert all(answered(core, member, port) == (VIP, 80) for port, member in found.items())
    assert sent(core, 3000, SYN) is Drop.NO_RULE
    member = sent(core, 3000, SYN, vip=OTHER)
    assert isinstance(member, tuple)
    assert answered(core, member, 3000, SYN_ACK) == (OTHER, 80)


def test_a_removed_rule_beside_ha_ports() -> None:
    """Its port is the HA-ports rule's from now on, for all but the connections that are open."""
    web, rest = pool("web", *NAMES), pool("rest", "10.2.0.11")
    before = world(row(web, VIP, 80, 8080), ha(rest, VIP))
    core, found = opened(before)
    publish(core, followed(before, ha(rest, VIP)))
    assert [sent(core, port) for port in PORTS] == list(found.values())
    assert all(answered(core, member, port) == (VIP, 80) for port, member in found.items())
    assert sent(core, 3000, SYN) == ("10.2.0.11", 80)


def test_a_rule_with_another_pool_or_port() -> None:
    """Connections go on as they were delivered."""
    before = world(row(pool("web", *NAMES), VIP, 80, 8080))
    for after in (row(pool("green", "10.2.0.11"), VIP, 80, 8080), row(pool("web", *NAMES), VIP, 80, 9090)):
        core, found = opened(before)
        publish(core, followed(before, after))
        assert [sent(core, port) for port in PORTS] == list(found.values())
        assert all(answered(core, member, port) == (VIP, 80) for port, member in found.items())
        member = sent(core, 3000, SYN)
        assert isinstance(member, tuple)
        assert answered(core, member, 3000, SYN_ACK) == (VIP, 80)


def test_when_the_time_is_over_both_ends_are_told_twice() -> None:
    """Silence comes between the two, in which the ends' last acknowledgements are still noted."""
    before = world(row(pool("web", *NAMES), VIP, 80, 8080))
    core, found = opened(before)
    after = followed(before, row(pool("web", *NAMES[:2]), VIP, 80, 8080))
    publish(core, after)
    gone = [port for port, (member, _) in found.items() if member == NAMES[2]]
    first = passed(core, going(after), last=False)
    assert sorted(reset.flow.client_port for reset in first) == gone
    assert (sent(core, gone[0]), answered(core, found[gone[0]], gone[0])) == (Drop.NO_FLOW, Drop.NO_FLOW)
    later = bytearray(bytes(tcp(ALICE, gone[0], VIP, 80, ACK)))
    later[42:46] = (2960).to_bytes(4, "big")
    assert core.process(bytes(later), ifindex=CLIENTS, now_ns=SECOND).reason is Drop.NO_FLOW
    last = {reset.flow.client_port: reset.frames for reset in passed(core, going(after), last=True)}
    assert sorted(last) == gone
    for port, ((to_client, client_frame), (to_member, member_frame)) in last.items():
        assert (to_client, read(client_frame)) == (CLIENTS, (VIP, 80, ALICE, port))
        assert (to_member, read(member_frame)) == (SERVERS, (ALICE, port, NAMES[2], 8080))
        assert (right(client_frame), right(member_frame)) == (True, True)
        assert client_frame[47] == member_frame[47] == 4
        assert int.from_bytes(client_frame[38:42], "big") == (2960 if port == gone[0] else 2000)
    assert core.counters().flows == len(PORTS) - len(gone)
    assert [sent(core, port) for port in PORTS if port not in gone] == [found[p] for p in PORTS if p not in gone]


def test_a_client_that_begins_again_while_its_flow_ends() -> None:
    """A SYN is a new connection, with somebody who stays."""
    before = world(row(pool("web", *NAMES), VIP, 80, 8080))
    core, found = opened(before)
    after = followed(before, row(pool("web", *NAMES[:2]), VIP, 80, 8080))
    publish(core, after)
    passed(core, going(after), last=False)
    gone = next(port for port, (member, _) in found.items() if member == NAMES[2])
    member = sent(core, gone, SYN)
    assert isinstance(member, tuple)
    assert member[0] in NAMES[:2]
    assert answered(core, member, gone, SYN_ACK) == (VIP, 80)
    passed(core, going(after), last=True)
    assert sent(core, gone) == member


def test_only_the_rule_that_a_member_left_is_over() -> None:
    """The same member goes on under its other rule."""
    web = pool("web", *NAMES)
    before = world(row(web, VIP, 80, 8080), row(web, OTHER, 80, 8081))
    core, _ = opened(before)
    member = sent(core, 1000, SYN, vip=OTHER)
    publish(core, after := followed(before, row(web, OTHER, 80, 8081)))
    passed(core, going(after), last=True)
    assert core.counters().flows == 1
    assert sent(core, 1000, vip=OTHER) == member


def test_a_hairpin_that_finds_no_room_leaves_nothing() -> None:
    """The entry of the way back goes with that of the way there."""
    made = world(row(pool("web", *NAMES), VIP, 80, 8080))
    core = made.core(1)
    frame = bytes(tcp(NAMES[0], 5000, VIP, 80, SYN, to=MEMBERS_OURS))
    assert core.process(frame, ifindex=SERVERS, now_ns=SECOND).reason is Drop.FLOW_TABLE_FULL
    core.sweep(SECOND, 1_000)
    assert core.counters().flows == 0
