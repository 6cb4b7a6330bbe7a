"""A packet datapath's numbers over more members than there are numbers."""

from asynclb.datapath.core.leaving import Leaving
from asynclb.datapath.core.values import MAX_MEMBERS, CoreCounters
from asynclb.datapath.frames.numbers import Numbers
from tests.unit.packet.test_numbers import AROUND, Counting, one_member


def test_a_member_that_moves_seventy_thousand_times() -> None:
    """More addresses than there are numbers: each is given back when its flows have ended, and nothing is forgotten."""
    numbers, engines, leaving, now = Numbers(), Counting(), Leaving(), one_member(0)
    assert MAX_MEMBERS < 70_000
    numbers.plan([now], leaving, AROUND)
    for number in range(1, 70_000):
        after = one_member(number)
        leaving = leaving.followed([now], [after], float(number))
        plan = numbers.plan([after], leaving, AROUND)
        over = numbers.over([after], leaving, float(number))
        assert over is not None
        assert over.ending.members == tuple(plan.left.values())
        leaving, now = leaving.without(over.partings), after
        plan = numbers.plan([now], leaving, AROUND)
        numbers.release_hops(plan.next_hops)
        numbers.release_members(over, [now], leaving, engines.release)
    assert len(numbers.members.names()) == len(numbers.hops.names()) == 1
    assert max(numbers.members.names()) < 2
    assert numbers.counters(CoreCounters(), 0).members["web", "m0"].new_flows == 69_999
