"""The page's first line, and the rates that it is made of."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from asynclb.admin.page.picture import Picture, changed, draw
from asynclb.admin.page.rates import IDLE, Rates, Reading, rates, read
from asynclb.admin.page.verdict import judge
from asynclb.control.edges import rule_states
from asynclb.control.status import Reload, Status
from asynclb.datapath.base import Counters, RuleCounters
from asynclb.errors import Problem
from asynclb.model import AdminState, Health, HealthState, Member, MemberHealth, Model, Reason
from asynclb.net.drop import Drop
from asynclb.rules import load_balancing
from asynclb.tables.compile import compile_tables
from tests.unit.control.fakes import web_model

UP = MemberHealth(HealthState.UP, Reason.UP_PROBE_SUCCESS, 1)
DOWN = MemberHealth(HealthState.DOWN, Reason.DOWN_PROBE_TCP_REFUSED, 1, "10.1.0.11:80: connection refused")


def status_of(model: Model, states: dict[str, MemberHealth]) -> Status:
    """Return what is active when the probes have said this."""
    health = Health({("web", name, "tcp"): found for name, found in states.items()})
    tables = compile_tables(load_balancing.rows(model), health, seed=7, generation=3)
    return Status(
        ready=True,
        config_path="asynclb.yaml",
        config_digest="",
        started_s=0.0,
        generation=3,
        generation_since_s=0.0,
        model=model,
        health=health,
        tables=tables,
        datapaths=(),
        last_reload=None,
        reloads={},
        rule_states=rule_states(tables, health),
    )


def line(status: Status, passed: Rates = Rates(), reading: Reading = Reading()) -> tuple[str, str]:  # noqa: B008
    """Return how bad it is, and the first line."""
    verdict = judge(status, draw(status, Picture(), 0.0), passed, reading)
    return verdict.state, verdict.line


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ({"a": UP, "b": UP}, ("ok", "All is well: 1 rule serves, every member is up.")),
        ({"a": UP}, ("ok", "All is well: 1 rule serves, 1 of 2 members are up.")),
        ({"a": DOWN, "b": UP}, ("warning", "a of pool web is down: 10.1.0.11:80: connection refused.")),
        ({"a": DOWN, "b": DOWN}, ("critical", "Rule web-0 drops every new flow: no member of pool web is eligible.")),
    ],
)
def test_the_worst_is_told_first(states: dict[str, MemberHealth], told: tuple[str, str]) -> None:
    """A rule without members is worse than a member that is down; one not yet checked is not wrong."""
    assert line(status_of(web_model("a", "b"), states)) == told


def test_many_members_are_counted_and_the_first_are_named() -> None:
    """Nobody reads a thousand names."""
    names = [f"m{number}" for number in range(20)]
    states = {name: DOWN if number < 5 else UP for number, name in enumerate(names)}
    told = "5 of 20 members of pool web are down: m0, m1, m2 and 2 more."
    assert line(status_of(web_model(*names), states)) == ("warning", told)


def test_what_an_operator_wants_is_not_wrong() -> None:
    """A member that is drained is told as a note, and all is well."""
    model = web_model("a", "b")
    members = (
        Member("a", IPv4Address("10.1.0.11"), admin_state=AdminState.DRAIN),
        model.backend_pools["web"].members[1],
    )
    drained = replace(model, backend_pools={"web": replace(model.backend_pools["web"], members=members)})
    status = status_of(drained, {"a": UP, "b": UP})
    verdict = judge(status, draw(status, Picture(), 0.0), Rates(), Reading())
    assert verdict.state == "ok"
    assert [finding.text for finding in verdict.findings] == ["a of pool web is draining, as asked for."]


def test_refusals_and_full_tables_are_told() -> None:
    """A refused reload is told with its first problem, a flow table with how full it is, our drops with their rate."""
    status = status_of(web_model("a"), {"a": UP})
    refused = Reload("refused", "watch", 0.0, 0.1, 3, (Problem(("rules",), "tpc", "is no protocol", "write tcp"),))
    assert line(replace(status, last_reload=refused))[1].startswith("The last reload was refused, generation 3 stays")
    full = Reading(1, fullest=("kernel", 900, 1000))
    assert line(status, reading=full)[1] == "The flow table of kernel is nearly full: 900 of 1,000 entries are taken."
    dropping = Rates(by_reason={("packet", Drop.EGRESS_FULL): 12.0, ("packet", Drop.MARTIAN): 900.0})
    assert line(status, dropping) == ("warning", "12 a second are dropped: egress_full.")
    assert line(replace(status, ready=False, stopping=True))[0] == "critical"


def test_a_picture_is_drawn_again_only_for_what_has_changed() -> None:
    """The same snapshots give the same picture; another health gives the documents of those members."""
    status = status_of(web_model("a", "b"), {"a": UP, "b": UP})
    picture = draw(status, Picture(), 0.0)
    assert draw(replace(status, busy_s=1.0), picture, 0.0) is picture
    after = draw(status_of(web_model("a", "b"), {"a": UP, "b": DOWN}), picture, 0.0)
    assert {
        member["name"]: (member["state"], member["share"]) for member in changed(picture.members, after.members)
    } == {
        "a": ("up", 1.0),
        "b": ("down", 0.0),
    }


def test_rates_are_differences_over_time() -> None:
    """Counters of two datapaths are added up; what is idle is left out; without a time between them nothing passed."""
    first = {"proxy": Counters({"web": RuleCounters(bytes_in=100, new_flows=1)})}
    then = {
        "proxy": Counters({"web": RuleCounters(bytes_in=350, new_flows=2), "idle": RuleCounters()}, flows=4),
        "kernel": Counters({"web": RuleCounters(bytes_in=250, flows=3)}, drops={Drop.NO_RULE: 10}, flows=3),
    }
    before, after = read(first, str, 1_000_000_000), read(then, str, 3_000_000_000)
    found = rates(before, after)
    assert found.rules["web"].row == (3, 0.5, 2000, 0, 0)
    assert "idle" not in found.rules
    assert (found.total.flows, found.drops, found.by_reason["kernel", Drop.NO_RULE]) == (7, 5.0, 5.0)
    assert rates(Reading(), after).rules == {}
    assert rates(after, after).total == replace(IDLE, flows=7)
