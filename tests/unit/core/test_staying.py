"""Flows when tables change: they keep their member, follow the tables, stay with one that is down, or leave it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from asynclb import native
from asynclb.datapath.core import Core, build_image
from asynclb.model import AdminState, Persistence
from asynclb.net.drop import Drop
from asynclb.net.flow import Protocol
from tests.unit.core.world import CLIENTS, SECOND, World, pool, read, row, tcp, udp, world

pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)

VIP, ALICE = "203.0.113.10", "198.51.100.7"
NAMES = [f"10.1.0.{number}" for number in range(11, 16)]
PORTS = range(1000, 1200)


def made(port: int = 53, *, down: int = 0, **fields: object) -> World:
    """Return tables over five members, of which the last few are put down; `fields` are the rule's."""
    found = row(pool("web", *NAMES), VIP, port, protocol=Protocol.UDP if port == 53 else Protocol.TCP)
    members = found.pool.members
    states = [AdminState.UP] * (5 - down) + [AdminState.DOWN] * down
    members = tuple(replace(member, admin_state=state) for member, state in zip(members, states, strict=True))
    rule = replace(found.rule, probe="tcp", **fields)  # type: ignore[arg-type] # by the caller
    return world(replace(found, pool=replace(found.pool, members=members), rule=rule), generation=2 + down)


def udp_to(port: int) -> bytes:
    """Return a datagram from a port."""
    return bytes(udp(ALICE, port, VIP, 53))


def tcp_to(port: int) -> bytes:
    """Return a packet of a connection from a port."""
    return bytes(tcp(ALICE, port, VIP, 80, 16))


def members_of(core: Core, frame: Callable[[int], bytes] = udp_to) -> list[str]:
    """Return who gets the flows of many ports."""
    return [read(core.process(frame(port), ifindex=CLIENTS, now_ns=SECOND).frame)[2] for port in PORTS]


def change(before: World, after: World, frame: Callable[[int], bytes] = udp_to) -> tuple[list[str], list[str]]:
    """Return who gets flows before and after a change, and what a fresh table would say."""
    core = before.core()
    first = members_of(core, frame)
    core.publish(build_image(after.tables, before.plan))
    return first, members_of(core, frame)


def test_tracked_flows_stay_when_members_come() -> None:
    """They keep a member that may take them."""
    first, after = change(made(down=1), made())
    assert first == after


def test_untracked_flows_follow_the_tables() -> None:
    """Each goes where a new one would."""
    first, after = change(made(down=1, connection_tracking=False), made(connection_tracking=False))
    assert first != after
    assert after == members_of(made().core())


def test_flows_leave_a_member_that_is_down() -> None:
    """Unless the rule says that they always stay."""
    first, after = change(made(), made(down=2))
    gone = set(NAMES[3:])
    assert not gone & set(after)
    assert all(old == new for old, new in zip(first, after, strict=True) if old not in gone)
    always = {"persistence_on_unhealthy": Persistence.ALWAYS}
    first, after = change(made(**always), made(down=2, **always))
    assert first == after


def test_connections_leave_a_member_that_is_down_only_if_the_rule_says_never() -> None:
    """With `never` each goes where a new one would, and those of other members stay."""
    gone = set(NAMES[3:])
    for persistence in Persistence:
        fields = {"persistence_on_unhealthy": persistence}
        first, after = change(made(80, **fields), made(80, down=2, **fields), tcp_to)
        if persistence.keeps_tcp:
            assert first == after
            continue
        fresh = members_of(made(80, down=2).core(), tcp_to)
        assert after == [new if old in gone else old for old, new in zip(first, fresh, strict=True)]


def test_connections_that_never_stay_end_with_the_last_member() -> None:
    """With nobody up, their packets are dropped as a new one's are; a member that comes back goes on with its own."""
    never = {"persistence_on_unhealthy": Persistence.NEVER}
    before, after = made(80, **never), made(80, down=5, **never)
    core = before.core()
    first = members_of(core, tcp_to)
    core.publish(build_image(after.tables, before.plan))
    results = [core.process(tcp_to(port), ifindex=CLIENTS, now_ns=SECOND) for port in PORTS]
    assert {result.reason for result in results} == {Drop.NO_ELIGIBLE_MEMBER}
    again = made(80, **never)
    core.publish(build_image(replace(again.tables, generation=9), before.plan))
    assert members_of(core, tcp_to) == first
