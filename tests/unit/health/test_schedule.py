"""When checks start: phases, jitter, missed ticks, and the bound on checks in flight."""

import pytest

from asynclb.health.gate import Gate
from asynclb.health.schedule import (
    Schedule,
    following,
    place_of,
    spread,
    start_at,
)
from asynclb.model import TargetId

S = 1_000_000_000
TARGETS: list[TargetId] = [("web", f"web-{i}", "http") for i in range(1000)]


def test_phases_are_spread_evenly() -> None:
    """1,000 members of one pool start evenly over the interval, each tenth holding about its share."""
    tenths = [0] * 10
    for target in TARGETS:
        tenths[spread(place_of(target), 5 * S) * 10 // (5 * S)] += 1
    assert min(tenths) > 70
    assert max(tenths) < 130


def test_phase_is_the_target_s_own() -> None:
    """The phase depends on the whole name and on nothing else."""
    assert place_of(("a", "b", "c")) == place_of(("a", "b", "c"))
    assert place_of(("a", "bc", "")) != place_of(("ab", "c", ""))


@pytest.mark.parametrize(
    ("ended_s", "next_s"),
    [
        (100.1, 105),  # in time
        (105.2, 105),  # a timeout as long as the interval, begun a little late: the next check starts at once
        (107.4, 105),  # less than half an interval too late: made up
        (107.6, 110),  # more: gone
        (163.0, 165),  # a stall of a minute: one check, no burst
    ],
)
def test_missed_ticks(ended_s: float, next_s: int) -> None:
    """After the check of 100 s at an interval of 5 s: which tick is served next."""
    assert following(100 * S, int(ended_s * S), 5 * S) == next_s * S


def test_never_starts_in_the_past() -> None:
    """A late check is due now."""
    assert start_at(10 * S, 12 * S, 5 * S, 0.5) == 12 * S


def test_schedule_order_and_limit() -> None:
    """What is due comes out most overdue first, at most as many as asked for."""
    schedule: Schedule[str] = Schedule()
    for due_ns, item in ((30, "c"), (10, "a"), (20, "b"), (20, "b2"), (99, "later")):
        schedule.push(due_ns, item)
    assert schedule.next_ns == 10
    assert schedule.pop_due(50, 2) == ["a", "b"]
    assert schedule.pop_due(50, 9) == ["b2", "c"]
    assert schedule.pop_due(50, 9) == []
    assert schedule.next_ns == 99


def test_gate_admits_in_turn() -> None:
    """Two places, three checks: the third waits until one leaves, and is then first."""
    gate: Gate[str] = Gate(2)
    assert [gate.admit(item) for item in ("a", "b", "c", "d")] == [True, True, False, False]
    assert gate.next() is None
    gate.leave()
    assert gate.next() == "c"
    assert gate.next() is None
    assert gate.in_flight == 2


def test_place_given_back_goes_to_those_who_wait() -> None:
    """A check that becomes due does not overtake those that wait."""
    gate: Gate[str] = Gate(1)
    gate.admit("a")
    gate.admit("b")
    gate.leave()
    assert not gate.admit("c")
    assert gate.next() == "b"


def test_starvation_is_told_once_an_episode() -> None:
    """Late starts begin one episode; a start in time with nobody waiting ends it, and the next may begin."""
    gate: Gate[str] = Gate(1)
    late = [3 * S, 4 * S, 0, 3 * S]
    assert [gate.started(late_ns, 5 * S) for late_ns in late] == [True, False, False, True]
    assert gate.late == 3


def test_starvation_lasts_while_others_wait() -> None:
    """A start in time does not end an episode while another check waits."""
    gate: Gate[str] = Gate(1)
    gate.waiting.append("a")
    assert [gate.started(late_ns, 5 * S) for late_ns in (3 * S, 0, 3 * S)] == [True, False, False]
