"""Availability, the balancer's state, and health events with their windows: time is a number here."""

from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise

import pytest

from asynclb.model import HealthState, InboundNatRule, MemberHealth
from asynclb.model.health import Health
from asynclb.net.flow import Protocol
from asynclb.observe.availability import Availability, ResourceHealth, ResourceState
from asynclb.observe.health_events import (
    TIMINGS,
    Condition,
    HealthEvents,
    HealthEventType,
    SnatUse,
    availability_conditions,
    pool_conditions,
    rule_count_conditions,
    snat_conditions,
)
from asynclb.tables.row import FrontendKey
from tests.unit.control.fakes import web_model

WEB = FrontendKey(ip_address("192.0.2.1"), 80, Protocol.TCP)
DNS = FrontendKey(ip_address("192.0.2.1"), 53, Protocol.UDP)


def test_availability_is_the_share_of_the_last_minute() -> None:
    """Six rounds in a minute count; what is older does not."""
    found = Availability()
    for number in range(12):
        found.add({WEB: number >= 9, DNS: True}, number * 10.0)
    assert found.ratios() == {WEB: 0.5, DNS: 1.0}


def test_rule_that_goes_is_forgotten() -> None:
    """A key that is not measured any more has no ratio, rather than a ratio of 0."""
    found = Availability()
    found.add({WEB: True, DNS: False}, 0.0)
    found.add({WEB: True}, 10.0)
    assert found.ratios() == {WEB: 1.0}


def test_resource_state_table() -> None:
    """A dip is degraded after two minutes, below a quarter unavailable at once, no data for ten minutes unknown."""
    state = ResourceState(0.0)
    seen = []
    for now_s, ratio in (
        (0, 1.0),
        (60, 0.5),
        (120, 0.5),
        (180, 0.5),
        (240, 0.1),
        (300, 0.95),
        (360, None),
        (960, None),
    ):
        seen.append(state.judge([] if ratio is None else [ratio], float(now_s)))
    a, d, u = ResourceHealth.AVAILABLE, ResourceHealth.DEGRADED, ResourceHealth.UNAVAILABLE
    assert seen == [a, a, a, d, u, a, a, ResourceHealth.UNKNOWN]
    assert state.since_s == 960.0


@pytest.mark.parametrize("kind", list(HealthEventType))
def test_window_and_repetition(kind: HealthEventType) -> None:
    """Each type is told after its window and again after its repeat time, and not in between."""
    timing, condition, events = TIMINGS[kind], Condition(kind, (("pool", "web"),)), HealthEvents()
    step = max(timing.repeat_s / 20, 1.0)
    told = [n * step for n in range(60) if events.judge([condition], n * step)]
    assert told[0] == pytest.approx(timing.window_s, abs=step)
    assert all(later - earlier == pytest.approx(timing.repeat_s, abs=step) for earlier, later in pairwise(told))
    assert len(told) >= 2


def test_condition_that_comes_back_is_not_told_twice() -> None:
    """A pool that falls silent twice within the hour is one event."""
    condition, events = Condition(HealthEventType.NO_HEALTHY_BACKENDS, (("pool", "web"),)), HealthEvents()
    assert events.judge([condition], 0.0) == [condition]
    assert events.judge([], 60.0) == []
    assert events.judge([condition], 120.0) == []
    assert events.judge([condition], 3_600.0) == [condition]


def test_window_begins_anew() -> None:
    """A dip that ends within its window is not told, however often it comes."""
    condition, events = Condition(HealthEventType.DATA_PATH_AVAILABILITY_WARNING, (("frontend", "a"),)), HealthEvents()
    for number in range(20):
        assert not events.judge([condition] if number % 2 else [], number * 40.0)


def test_conditions_of_availability() -> None:
    """The mean over an address decides; the ports that lose packets are named."""
    assert list(availability_conditions({WEB: 0.9, DNS: 1.0})) == []
    (warning,) = availability_conditions({WEB: 0.5, DNS: 1.0})
    assert (warning.type, warning.detail["ports"]) == (HealthEventType.DATA_PATH_AVAILABILITY_WARNING, ["tcp/80"])
    (critical,) = availability_conditions({WEB: 0.0, DNS: 0.1})
    assert critical.type is HealthEventType.DATA_PATH_AVAILABILITY_CRITICAL


def test_conditions_of_pools() -> None:
    """A pool counts as dead only when every member is known to be down."""
    model = web_model("a", "b")
    down = MemberHealth(HealthState.DOWN)
    assert not list(pool_conditions(model, Health({("web", "a", "tcp"): down})))
    (dead,) = pool_conditions(model, Health({("web", "a", "tcp"): down, ("web", "b", "tcp"): down}))
    assert dict(dead.subject) == {"pool": "web", "probe": "tcp"}


def test_conditions_of_snat() -> None:
    """Failures since the last round outweigh high use; old failures are no news."""
    tight = SnatUse("web", "a", "192.0.2.1", 1024, 800, 5)
    key = ("web", "a", "192.0.2.1")
    assert [c.type for c in snat_conditions([tight], {key: 4})] == [HealthEventType.SNAT_PORT_EXHAUSTION]
    assert [c.type for c in snat_conditions([tight], {key: 5})] == [HealthEventType.HIGH_SNAT_PORT_USAGE]
    assert not list(snat_conditions([SnatUse("web", "a", "192.0.2.1", 1024, 768, 5)], {key: 5}))


def test_conditions_of_rule_counts() -> None:
    """More than 300 rules on one member are told, 300 are not."""
    assert not list(rule_count_conditions(web_model("a", rules=300)))
    (found,) = rule_count_conditions(web_model("a", rules=301))
    assert found.detail == {"rules": 301, "frontends": ["203.0.113.10"]}


def test_rule_counts_are_told_once_a_day() -> None:
    """A member that has had too many rules for a whole day is told of, and a day later again; less is not."""
    events, hour_s = HealthEvents(), 3_600.0
    told = []
    for hour in range(60):
        many = hour != 2  # one that goes below in between begins its day anew
        found = events.judge(rule_count_conditions(web_model("a", rules=301 if many else 300)), hour * hour_s)
        told += [hour for condition in found if condition.type is HealthEventType.APPROACHING_MAX_RULES]
    assert told == [27, 51]


def test_inbound_nat_rules_count_too() -> None:
    """One over a pool counts for every member, one for a member counts for that one."""
    model = web_model("a", "b", rules=299)
    ssh = InboundNatRule("ssh", "vip", Protocol.TCP, 5000, 5009, "web", 22)
    rdp = replace(ssh, name="rdp", first_port=6000, last_port=6000, member="b")
    assert not list(rule_count_conditions(replace(model, inbound_nat_rules=(ssh,))))
    (found,) = rule_count_conditions(replace(model, inbound_nat_rules=(ssh, rdp)))
    assert (dict(found.subject), found.detail) == (
        {"member": "10.1.0.12"},
        {"rules": 301, "frontends": ["203.0.113.10"]},
    )
