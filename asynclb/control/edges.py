"""What an operator is told when rules and members change state. Pure: two snapshots in, notices out."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from asynclb.control.assign import Choices
from asynclb.control.overrides import Overrides
from asynclb.errors import Problem
from asynclb.events import Event
from asynclb.model import AdminState, Health, HealthState, LoadBalancingRule, Model, NoHealthyMembers
from asynclb.tables.row import FrontendKey, Row
from asynclb.tables.tables import Entry, Tables

FIXED = ("admin", "workers")
"""What is set up once, before there is a controller; a reload that changes it is applied without it, with a warning."""


class RuleState(StrEnum):
    """What a new flow meets at a rule."""

    WAITING = "waiting"
    """No member is eligible yet and some have not been probed: nothing to worry anybody with."""
    SERVING = "serving"
    SILENT = "silent"
    """No member is eligible; new flows are dropped."""
    ALL_DOWN = "all_down"
    """No member is healthy and new flows go to all of them (`no_healthy_members: all`)."""


@dataclass(frozen=True, slots=True)
class Notice:
    """An event that is due, with its fields."""

    event: Event
    fields: Mapping[str, object] = field(default_factory=dict)


def rule_state(entry: Entry, health: Health) -> RuleState:
    """Return what a new flow meets at an entry.

    Cost: constant for a rule that serves by its probes' word, else linear in the pool's members.
    """
    rule, pool = entry.row.rule, entry.row.pool
    serving = entry.table.size > 0
    if rule.probe is None:
        return RuleState.SERVING if serving else RuleState.SILENT
    if serving and rule.no_healthy_members is NoHealthyMembers.DROP:
        return RuleState.SERVING
    open_to_new = [m for m in pool.members if m.weight > 0 and m.admin_state in (AdminState.NONE, AdminState.UP)]
    states = {health.of(pool.name, m.name, rule.probe).state for m in open_to_new if m.admin_state is AdminState.NONE}
    if any(m.admin_state is AdminState.UP for m in open_to_new) or HealthState.UP in states:
        return RuleState.SERVING if serving else RuleState.SILENT
    if HealthState.UNKNOWN in states:
        return RuleState.WAITING
    return RuleState.ALL_DOWN if serving else RuleState.SILENT


def rule_states(tables: Tables, health: Health) -> Mapping[str, RuleState]:
    """Return every rule's state by its name.

    Cost: rules that ask the same of the same pool are decided once: 1,500 rules may share one of 5,000 members.
    """
    decided: dict[tuple[str, str | None, NoHealthyMembers], RuleState] = {}
    states = {}
    for entry in tables.entries.values():
        rule = entry.row.rule
        question = (rule.backend_pool, rule.probe, rule.no_healthy_members)
        if question not in decided:
            decided[question] = rule_state(entry, health)
        states[rule.name] = decided[question]
    return states


def all_down_is_up(rules: Iterable[LoadBalancingRule], states: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """Return the (pool, probe) whose members take flows although none is healthy, by every rule that asks them so.

    A pair by which another rule is silent is left out: there, down means down.
    """
    asked = {(rule.backend_pool, rule.probe, states.get(rule.name)) for rule in rules if rule.probe is not None}
    otherwise = {(pool, probe) for pool, probe, state in asked if state != RuleState.ALL_DOWN}
    return frozenset((pool, probe) for pool, probe, _ in asked) - otherwise


def rule_notices(tables: Tables, before: Mapping[str, RuleState], after: Mapping[str, RuleState]) -> Iterator[Notice]:
    """Yield a notice for each rule that crossed an edge.

    A rule that begins by serving is no news, and neither is one that still waits for its first probes.
    """
    for entry in tables.entries.values():
        name = entry.row.rule.name
        was, now = before.get(name), after[name]
        if was is now or now is RuleState.WAITING or (was is None and now is RuleState.SERVING):
            continue
        yield _rule_notice(entry, now)


def _rule_notice(entry: Entry, state: RuleState) -> Notice:
    fields: dict[str, object] = {"rule": entry.row.rule.name, "pool": entry.row.pool.name}
    if state is RuleState.SERVING:
        return Notice(Event.RULE_SERVING, fields | {"eligible": len(entry.table.members)})
    if state is RuleState.ALL_DOWN:
        return Notice(Event.ALL_MEMBERS_DOWN, fields | {"policy": str(entry.row.rule.no_healthy_members)})
    return Notice(Event.RULE_SILENT, fields)


def admin_state_notices(before: Model, after: Model) -> Iterator[Notice]:
    """Yield a notice for each member whose admin state is another one than before; a new member had `none`."""
    known = {(pool, name): state for pool, name, state in _admin_states(before)}
    for pool, name, state in _admin_states(after):
        if known.get((pool, name), AdminState.NONE) is not state:
            yield Notice(Event.MEMBER_ADMIN_STATE, {"pool": pool, "member": name, "admin_state": str(state)})


def _admin_states(model: Model) -> Iterable[tuple[str, str, AdminState]]:
    for pool in model.backend_pools.values():
        for member in pool.members:
            yield pool.name, member.name, member.admin_state


def override_notices(before: Overrides, after: Overrides) -> Iterator[Notice]:
    """Yield a notice for each override that came, changed or ended; one that ended is the file's word again."""
    for pool, name in {**before, **after}:
        was, now = before.get((pool, name)), after.get((pool, name))
        if now is None:
            yield Notice(Event.MEMBER_OVERRIDE_ENDED, {"pool": pool, "member": name})
        elif was is None or was.change != now.change:
            said = {"admin_state": str(now.member.admin_state), "weight": now.member.weight, "by": now.by}
            yield Notice(Event.MEMBER_OVERRIDDEN, {"pool": pool, "member": name} | said)


def choice_notices(
    former: Mapping[FrontendKey, Row],
    before: Choices,
    rows: Iterable[Row],
    choices: Choices,
    modes: Mapping[str, Callable[[Row], str]],
) -> Iterator[Notice]:
    """Yield a notice for each row that is carried by another datapath, or in another way, than before."""
    for row in rows:
        choice, was = choices[row.key], former.get(row.key)
        mode_of = modes[choice.datapath]
        mode = mode_of(row)
        if was is None or before.get(row.key) != choice or mode_of(was) != mode:
            where = {"rule": row.rule.name, "datapath": choice.datapath, "mode": mode, "why": choice.why}
            yield Notice(Event.DATAPATH_CHOSEN, where)


def restart_warnings(started_with: Model, wanted: Model) -> tuple[Problem, ...]:
    """Return what a reload cannot change while the process runs."""
    changed = [key for key in FIXED if getattr(started_with, key) != getattr(wanted, key)]
    rule = "a changed `{}` takes effect when the process starts; the old one stays active"
    return tuple(Problem((key,), "", rule.format(key), "restart asynclb", code="NEEDS_RESTART") for key in changed)
