"""Eligibility: every combination of weight, admin state, probe and policy, written out."""

from itertools import product

import pytest

from asynclb.model import (
    AdminState,
    BackendPool,
    Health,
    HealthState,
    Member,
    MemberHealth,
    NoHealthyMembers,
    Reason,
    effective_health,
    eligible_members,
)
from tests.unit.tables.world import pool, with_members

WITHOUT_PROBE = {AdminState.NONE: True, AdminState.UP: True, AdminState.DOWN: True, AdminState.DRAIN: False}
"""Who may take new flows in a rule without a probe: admin states count only beside a probe, but for draining."""

HEALTHY = {
    (AdminState.NONE, HealthState.UNKNOWN): False,
    (AdminState.NONE, HealthState.UP): True,
    (AdminState.NONE, HealthState.DOWN): False,
    (AdminState.UP, HealthState.UNKNOWN): True,
    (AdminState.UP, HealthState.UP): True,
    (AdminState.UP, HealthState.DOWN): True,
    (AdminState.DOWN, HealthState.UNKNOWN): False,
    (AdminState.DOWN, HealthState.UP): False,
    (AdminState.DOWN, HealthState.DOWN): False,
    (AdminState.DRAIN, HealthState.UNKNOWN): False,
    (AdminState.DRAIN, HealthState.UP): False,
    (AdminState.DRAIN, HealthState.DOWN): False,
}
"""Who is healthy in a rule with a probe."""

KINDS = [(weight, *kind) for weight in (0, 1) for kind in HEALTHY]
"""Every kind of member: weight, admin state, and what the probe says."""


def world(*kinds: tuple[int, AdminState, HealthState]) -> tuple[BackendPool, Health]:
    """Return a pool with a member of each kind, and its health."""
    base = pool("web", dict.fromkeys((f"m{i}" for i in range(len(kinds))), 1)).members
    members = [Member(m.name, m.address, weight, state) for m, (weight, state, _) in zip(base, kinds, strict=True)]
    targets = {
        ("web", member.name, "probe"): MemberHealth(found) for member, (_, _, found) in zip(members, kinds, strict=True)
    }
    return with_members(BackendPool("web", ()), *members), Health(targets)


def expected(
    kinds: list[tuple[int, AdminState, HealthState]], probe: str | None, policy: NoHealthyMembers
) -> list[str]:
    """Return the names of those who may take new flows, by the tables above."""
    names = {f"m{i}": kind for i, kind in enumerate(kinds) if kind[0] > 0}
    if probe is None:
        return [name for name, (_, state, _) in names.items() if WITHOUT_PROBE[state]]
    healthy = [name for name, (_, state, found) in names.items() if HEALTHY[state, found]]
    if healthy or policy is NoHealthyMembers.DROP:
        return healthy
    return [name for name, (_, state, _) in names.items() if state not in (AdminState.DOWN, AdminState.DRAIN)]


@pytest.mark.parametrize("policy", NoHealthyMembers)
@pytest.mark.parametrize("probe", ["probe", None])
def test_eligibility_of_every_pair_of_members(probe: str | None, policy: NoHealthyMembers) -> None:
    """For all 576 pairs of kinds of members, the eligible ones are those that the tables say."""
    for kinds in product(KINDS, repeat=2):
        backend_pool, health = world(*kinds)
        found = [member.name for member in eligible_members(backend_pool, probe, health, policy)]
        assert found == expected(list(kinds), probe, policy), kinds


def test_eligible_members_keep_the_pools_order() -> None:
    """The order is the operator's; whoever needs another sorts."""
    backend_pool = pool("web", {"z": 1, "a": 1, "m": 1})
    found = eligible_members(backend_pool, None, Health({}), NoHealthyMembers.DROP)
    assert [member.name for member in found] == ["z", "a", "m"]


@pytest.mark.parametrize("all_down_is_up", [False, True])
@pytest.mark.parametrize("found", HealthState)
@pytest.mark.parametrize("admin_state", AdminState)
def test_effective_health_of_every_state(admin_state: AdminState, found: HealthState, all_down_is_up: bool) -> None:
    """The admin state is over the probe's word, and the reason says which of them spoke."""
    member = Member("m", pool("web", {"m": 1}).members[0].address, admin_state=admin_state)
    said = MemberHealth(found, Reason.NA, since_ns=5, detail="connect timed out")
    state = effective_health(member, said, all_down_is_up=all_down_is_up)
    assert (state.since_ns, state.detail) == (5, "connect timed out")
    match admin_state:
        case AdminState.UP:
            assert (state.state, state.reason) == (HealthState.UP, Reason.UP_ADMIN)
        case AdminState.DOWN | AdminState.DRAIN:
            assert (state.state, state.reason) == (HealthState.DOWN, Reason.DOWN_ADMIN)
        case AdminState.NONE if all_down_is_up and found is not HealthState.UP:
            assert (state.state, state.reason) == (HealthState.UP, Reason.UP_PROBE_ALL_DOWN_IS_UP)
        case AdminState.NONE:
            assert state == said


STANDBY = {
    # who is up among active a, b and standby c, d: who takes new flows
    ("a", "b", "c", "d"): ("a", "b"),
    ("b", "c", "d"): ("b",),
    ("c", "d"): ("c",),
    ("d",): ("d",),
    (): (),
}


@pytest.mark.parametrize("up", STANDBY)
def test_standby_members_take_over_only_when_no_better_one_is_left(up: tuple[str, ...]) -> None:
    """Members of priority 1 get new flows once none of priority 0 is up, and those of 2 once none of 1 is."""
    priorities = {"a": 0, "b": 0, "c": 1, "d": 2}
    base = pool("web", dict.fromkeys(priorities, 1)).members
    members = (Member(m.name, m.address, priority=priorities[m.name]) for m in base)
    found = with_members(BackendPool("web", ()), *members)
    health = Health({("web", name, "probe"): MemberHealth(HealthState.UP) for name in up})
    assert tuple(m.name for m in eligible_members(found, "probe", health, NoHealthyMembers.DROP)) == STANDBY[up]
    without_probe = eligible_members(found, None, health, NoHealthyMembers.DROP)
    assert tuple(m.name for m in without_probe) == ("a", "b")
    if not up:
        last_resort = eligible_members(found, "probe", health, NoHealthyMembers.ALL)
        assert tuple(m.name for m in last_resort) == ("a", "b")
