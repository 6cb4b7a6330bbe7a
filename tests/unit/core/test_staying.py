"""UDP flows when tables change: they keep their member, follow the tables, or stay with one that is down."""

from dataclasses import replace

import pytest

from asynclb import native
from asynclb.datapath.core import Core, build_image
from asynclb.model import AdminState, Persistence
from asynclb.net.flow import Protocol
from tests.unit.core.world import CLIENTS, SECOND, World, pool, read, row, udp, world

pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)

VIP, ALICE = "203.0.113.10", "198.51.100.7"
NAMES = [f"10.1.0.{number}" for number in range(11, 16)]
PORTS = range(1000, 1200)


def made(*, down: int = 0, **fields: object) -> World:
    """Return tables over five members, of which the last few are put down; `fields` are the rule's."""
    found = row(pool("web", *NAMES), VIP, 53, protocol=Protocol.UDP)
    members = found.pool.members
    states = [AdminState.UP] * (5 - down) + [AdminState.DOWN] * down
    members = tuple(replace(member, admin_state=state) for member, state in zip(members, states, strict=True))
    rule = replace(found.rule, probe="tcp", **fields)  # type: ignore[arg-type] # by the caller
    return world(replace(found, pool=replace(found.pool, members=members), rule=rule), generation=2 + down)


def members_of(core: Core) -> list[str]:
    """Return who gets the flows of many ports."""
    frames = (bytes(udp(ALICE, port, VIP, 53)) for port in PORTS)
    return [read(core.process(frame, ifindex=CLIENTS, now_ns=SECOND).frame)[2] for frame in frames]


def change(before: World, after: World) -> tuple[list[str], list[str]]:
    """Return who gets flows before and after a change, and what a fresh table would say."""
    core = before.core()
    first = members_of(core)
    core.publish(build_image(after.tables, before.plan))
    return first, members_of(core)


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
