"""The sentences of `show`, `top` and the page, made from a state document and from the page's picture alike."""

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from asynclb.admin.page.picture import Picture, draw
from asynclb.admin.page.rates import Rates, Reading
from asynclb.admin.page.situation import of_picture
from asynclb.admin.situation import MemberState, RuleFacts, Situation, member_state, of_state
from asynclb.admin.state import state_document
from asynclb.admin.verdict import MOST, Severity, Verdict, judge, moment
from asynclb.control.edges import rule_states
from asynclb.control.status import Reload, Status
from asynclb.datapath.base import RuleCounters
from asynclb.errors import Problem
from asynclb.model import AdminState, Health, HealthState, Member, MemberHealth, Model, Reason
from asynclb.net.drop import Drop
from asynclb.rules import load_balancing
from asynclb.tables.compile import compile_tables
from tests.unit.control.fakes import web_model

NOW_S = 1_800_000_000.0
"""2027-01-15 08:00:00 UTC."""
NOW_NS = 5_000_000_000_000
SINCE_NS = NOW_NS - 90_000_000_000
UP = MemberHealth(HealthState.UP, Reason.UP_PROBE_SUCCESS, SINCE_NS)
DOWN = MemberHealth(HealthState.DOWN, Reason.DOWN_PROBE_TCP_REFUSED, SINCE_NS, "10.1.0.11:80: connection refused")


def status_of(model: Model, states: dict[str, MemberHealth]) -> Status:
    """Return what is active when the probes have said this."""
    health = Health({("web", name, "tcp"): found for name, found in states.items()})
    tables = compile_tables(load_balancing.rows(model), health, seed=7, generation=3)
    return Status(
        ready=True,
        config_path="asynclb.yaml",
        config_digest="",
        started_s=NOW_S - 3600,
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


def verdict_of(status: Status) -> Verdict:
    """Return the verdict, which is the same one by either way."""
    document = of_state(state_document(status, now_s=NOW_S, now_ns=NOW_NS))
    picture = draw(status, Picture(), NOW_S - NOW_NS / 1e9)
    assert document == of_picture(status, picture, Rates(), Reading(), NOW_S)
    return judge(document)


def line(status: Status) -> tuple[str, str]:
    """Return how bad it is, and the first line."""
    verdict = verdict_of(status)
    return verdict.state, verdict.line


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ({"a": UP, "b": UP}, ("ok", "All is well: 1 rule serves, every member is up.")),
        ({"a": UP}, ("ok", "No fault is known yet: 1 of 2 members wait for their first check.")),
        (
            {"a": DOWN, "b": UP},
            ("warning", "a of pool web is down since 07:58:30 UTC: connection refused."),
        ),
        ({"a": DOWN, "b": DOWN}, ("critical", "Rule web-0 drops every new flow: no member of pool web is eligible.")),
    ],
)
def test_the_worst_is_told_first(states: dict[str, MemberHealth], told: tuple[str, str]) -> None:
    """A rule without members is worse than a member that is down; one not yet checked is not wrong."""
    assert line(status_of(web_model("a", "b"), states)) == told


def test_many_members_are_counted_and_the_first_are_named() -> None:
    """Nobody reads a thousand names; what most of them have is told."""
    names = [f"m{number}" for number in range(20)]
    refused = replace(DOWN, detail="connection refused")
    states = {name: refused if number < 5 else UP for number, name in enumerate(names)}
    told = "5 of 20 members of pool web are down: m0, m1, m2 and 2 more"
    assert line(status_of(web_model(*names), states)) == ("warning", f"{told} (all: connection refused).")
    late = replace(DOWN, detail="no answer within 2 s")
    states |= {"m0": late, "m1": late, "m2": late}
    found = line(status_of(web_model(*names), states))
    assert found == ("warning", f"{told} (3 of them: no answer within 2 s).")


def test_what_an_operator_wants_is_not_wrong() -> None:
    """A member that is drained is told as a note, and all is well, whatever its probe says."""
    model = web_model("a", "b")
    members = (
        Member("a", IPv4Address("10.1.0.11"), admin_state=AdminState.DRAIN),
        model.backend_pools["web"].members[1],
    )
    drained = replace(model, backend_pools={"web": replace(model.backend_pools["web"], members=members)})
    verdict = verdict_of(status_of(drained, {"a": DOWN, "b": UP}))
    assert (verdict.state, verdict.wrong) == ("ok", [])
    assert verdict.line == "All is well: 1 rule serves, 1 of 2 members are up, 1 taken out by operators."
    assert [finding.text for finding in verdict.findings] == ["a of pool web is draining, as asked for."]


def test_a_refused_reload_is_told_with_its_first_problem() -> None:
    """When, what stays active, and how many more problems there are."""
    first = Problem(("rules",), "tpc", "is no protocol", "write tcp", "/etc/asynclb/asynclb.yaml", 18, 15)
    problems = (first, Problem(("rules",), "", "is wrong", ""))
    refused = Reload("refused", "watch", NOW_S - 86_400, 0.1, 3, problems)
    status = replace(status_of(web_model("a"), {"a": UP}), last_reload=refused)
    told = "The reload of 2027-01-14 08:00 UTC was refused, the old configuration stays: "
    place = "asynclb.yaml:18:15: rules: 'tpc': is no protocol; write tcp"
    assert line(status) == ("warning", f"{told}{place} (and 1 more)")
    assert line(replace(status, ready=False)) == (
        "critical",
        "The instance is starting: its first tables are not applied yet.",
    )
    stopping = verdict_of(replace(status, stopping=True))
    assert (stopping.line, len(stopping.wrong)) == ("The instance is stopping and takes no new flows.", 2)


def test_full_tables_and_our_drops_are_told() -> None:
    """A flow table above 80 %, and drops that somebody here can do something about, with what they mean."""
    quiet = of_state(state_document(status_of(web_model("a"), {"a": UP}), now_s=NOW_S, now_ns=NOW_NS))
    full = judge(replace(quiet, fullest=("kernel", 900, 1000)))
    assert full.line == "The flow table of kernel is nearly full: 900 of 1,000 entries are taken."
    dropping = judge(replace(quiet, dropped={Drop.EGRESS_FULL: 12.0, Drop.MARTIAN: 900.0}))
    told = "12 a second are dropped as egress_full: The transmit ring had no free slot."
    assert (dropping.state, dropping.line) == ("warning", told)


def test_counters_say_which_flow_table_is_fullest() -> None:
    """With counters a state document says as much of the traffic as the page's readings."""
    state = state_document(status_of(web_model("a"), {"a": UP}), now_s=NOW_S, now_ns=NOW_NS)
    paths = [
        {"name": "proxy", "flows": 9, "capacity": 0},
        {"name": "packet", "flows": 5, "capacity": 10},
        {"name": "kernel", "flows": 50, "capacity": 1000},
    ]
    counters: Any = {"datapaths": paths}
    assert of_state(state, counters).fullest == ("packet", 5, 10)


@pytest.mark.parametrize(
    ("floating", "backend_port", "flows", "answers", "told"),
    [
        (True, 8080, 12, 0, True),
        (True, 8080, 4, 0, False),
        (True, 8080, 12, 1, False),
        (True, 80, 12, 0, False),
        (False, 8080, 12, 0, False),
    ],
)
def test_answers_that_go_another_way(floating: bool, backend_port: int, flows: int, answers: int, told: bool) -> None:
    """A rule that changes the port under floating IP, had flows and saw no answer: document and page say why."""
    model = web_model("a")
    rules = tuple(replace(rule, floating_ip=floating, backend_port=backend_port) for rule in model.rules)
    status = status_of(replace(model, rules=rules), {"a": UP})
    counters: Any = {"rules": [{"name": "web-0", "new_flows": flows, "packets_out": answers}]}
    document = of_state(state_document(status, now_s=NOW_S, now_ns=NOW_NS), counters)
    reading = Reading(rules={"web-0": RuleCounters(new_flows=flows, packets_out=answers)})
    assert document == of_picture(status, draw(status, Picture(), NOW_S - NOW_NS / 1e9), Rates(), reading, NOW_S)
    sentence = (
        "Rule web-0 had 12 flows, and no answer of its members has passed this host, "
        "which alone turns port 8080 into 80: their route to clients has to lead through it."
    )
    assert judge(document).wrong == [sentence] * told


@pytest.mark.parametrize(
    ("admin", "weight", "probed", "word"),
    [
        ("none", 1, ["up"], "up"),
        ("none", 1, [], "up"),
        ("none", 1, ["up", "down"], "partly"),
        ("none", 1, ["unknown", "down"], "down"),
        ("none", 1, ["unknown", "up"], "waiting"),
        ("none", 0, ["down"], "off"),
        ("drain", 1, ["down"], "drain"),
        ("down", 1, ["up"], "off"),
    ],
)
def test_one_word_for_a_member(admin: str, weight: int, probed: list[str], word: str) -> None:
    """An operator's word comes first, then the worst that a probe says."""
    assert member_state(admin, weight, probed) is MemberState(word)


def test_rules_over_one_pool_are_one_finding_and_there_is_an_end() -> None:
    """1,500 rules over a dead pool are one sentence; a hundred dead pools are told up to a bound."""
    rules = tuple(RuleFacts(f"r{number}", "web", "silent") for number in range(1500))
    verdict = judge(Situation(NOW_S, 3, rules=rules))
    assert verdict.wrong == [
        "1,500 rules (r0, r1, r2 and 1,497 more) drop every new flow: no member of pool web is eligible."
    ]
    pools = tuple(RuleFacts(f"r{number}", f"p{number}", "all_down") for number in range(100))
    many = judge(Situation(NOW_S, 3, rules=pools))
    assert len(many.findings) == MOST
    assert many.findings[0].severity is Severity.CRITICAL


def test_times_of_another_day_have_their_date() -> None:
    """An operator at night must not take yesterday's time for today's."""
    assert moment(NOW_S - 60, NOW_S) == "07:59:00 UTC"
    assert moment(NOW_S - 10 * 3600, NOW_S) == "2027-01-14 22:00 UTC"
