"""What operators are told when rules change state."""

from dataclasses import replace

import pytest

from asynclb import rules
from asynclb.control.edges import RuleState, all_down_is_up, rule_notices, rule_states
from asynclb.events import Event
from asynclb.model import (
    AdminState,
    BackendPool,
    Health,
    HealthState,
    MemberHealth,
    Model,
    NoHealthyMembers,
)
from asynclb.tables.compile import compile_tables
from asynclb.tables.tables import Tables
from tests.unit.control.fakes import web_model

UP, DOWN, UNKNOWN = HealthState.UP, HealthState.DOWN, HealthState.UNKNOWN


def state_of(model: Model, *states: HealthState) -> RuleState:
    """Return the state of the model's only rule when its members' probes say this."""
    members = model.backend_pools["web"].members
    found = {("web", m.name, "tcp"): MemberHealth(s) for m, s in zip(members, states, strict=True)}
    health = Health(found)
    return rule_states(compiled(model, health), health)["web-0"]


def compiled(model: Model, health: Health) -> Tables:
    """Compile the model's rules."""
    return compile_tables(rules.rows_of(model), health, seed=1, generation=1)


def with_policy(policy: NoHealthyMembers, *admin: AdminState) -> Model:
    """Make a model with two members under these admin states."""
    model = web_model("a", "b")
    pool = model.backend_pools["web"]
    states = admin or (AdminState.NONE, AdminState.NONE)
    members = tuple(replace(m, admin_state=s) for m, s in zip(pool.members, states, strict=True))
    rule = replace(model.rules[0], no_healthy_members=policy)
    return replace(model, rules=(rule,), backend_pools={"web": BackendPool("web", members)})


@pytest.mark.parametrize(
    ("policy", "states", "expected"),
    [
        (NoHealthyMembers.DROP, (UNKNOWN, UNKNOWN), RuleState.WAITING),
        (NoHealthyMembers.DROP, (UNKNOWN, DOWN), RuleState.WAITING),
        (NoHealthyMembers.DROP, (DOWN, DOWN), RuleState.SILENT),
        (NoHealthyMembers.DROP, (UP, DOWN), RuleState.SERVING),
        (NoHealthyMembers.DROP, (UP, UNKNOWN), RuleState.SERVING),
        (NoHealthyMembers.ALL, (UNKNOWN, UNKNOWN), RuleState.WAITING),
        (NoHealthyMembers.ALL, (DOWN, DOWN), RuleState.ALL_DOWN),
        (NoHealthyMembers.ALL, (UP, DOWN), RuleState.SERVING),
    ],
)
def test_state_by_policy_and_health(
    policy: NoHealthyMembers, states: tuple[HealthState, ...], expected: RuleState
) -> None:
    """The state of a rule follows from its policy and what the probes say."""
    assert state_of(with_policy(policy), *states) is expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (RuleState.ALL_DOWN, RuleState.ALL_DOWN, {("web", "tcp")}),
        (RuleState.ALL_DOWN, RuleState.SILENT, set()),
        (RuleState.SERVING, RuleState.SERVING, set()),
    ],
)
def test_all_down_is_up_where_no_rule_says_otherwise(
    first: RuleState, second: RuleState, expected: set[tuple[str, str]]
) -> None:
    """Members of which none is healthy are shown as up only if every rule that asks so sends them flows."""
    rule = web_model("a").rules[0]
    pair = (replace(rule, name="first"), replace(rule, name="second"), replace(rule, name="third", probe=None))
    assert all_down_is_up(pair, {"first": first, "second": second, "third": RuleState.SERVING}) == expected


def test_admin_states_decide_over_probes() -> None:
    """`up` serves though the probe fails; members that are all taken out leave the rule silent, not waiting."""
    up = with_policy(NoHealthyMembers.DROP, AdminState.UP, AdminState.NONE)
    assert state_of(up, DOWN, DOWN) is RuleState.SERVING
    out = with_policy(NoHealthyMembers.ALL, AdminState.DOWN, AdminState.DRAIN)
    assert state_of(out, UP, UNKNOWN) is RuleState.SILENT


def test_a_rule_without_probe_is_silent_only_without_members() -> None:
    """Without a probe every member with a weight serves; with none there is silence."""
    assert rule_states(compiled(web_model("a", probe=None), Health({})), Health({})) == {"web-0": RuleState.SERVING}
    empty = web_model("a", weight=0, probe=None)
    assert rule_states(compiled(empty, Health({})), Health({})) == {"web-0": RuleState.SILENT}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (None, RuleState.WAITING, None),
        (None, RuleState.SERVING, None),
        (None, RuleState.SILENT, Event.RULE_SILENT),
        (RuleState.WAITING, RuleState.SERVING, Event.RULE_SERVING),
        (RuleState.WAITING, RuleState.SILENT, Event.RULE_SILENT),
        (RuleState.SERVING, RuleState.SILENT, Event.RULE_SILENT),
        (RuleState.SILENT, RuleState.SERVING, Event.RULE_SERVING),
        (RuleState.SERVING, RuleState.ALL_DOWN, Event.ALL_MEMBERS_DOWN),
        (RuleState.ALL_DOWN, RuleState.SERVING, Event.RULE_SERVING),
        (RuleState.SERVING, RuleState.SERVING, None),
        (RuleState.SERVING, RuleState.WAITING, None),
    ],
)
def test_edges(before: RuleState | None, after: RuleState, told: Event | None) -> None:
    """Each crossing is told once and standing still is not."""
    model = web_model("a")
    was = {} if before is None else {"web-0": before}
    notices = list(rule_notices(compiled(model, Health({})), was, {"web-0": after}))
    assert [notice.event for notice in notices] == ([] if told is None else [told])
