"""Numbers stay with what they stand for, and are free again when nothing refers to that any more."""

from collections.abc import Collection
from dataclasses import replace
from ipaddress import IPv4Address

from asynclb.datapath.base import MemberCounters, RuleCounters
from asynclb.datapath.core.leaving import Leaving
from asynclb.datapath.core.values import CoreCounters
from asynclb.datapath.frames.numbers import Numbers
from asynclb.datapath.frames.surroundings import Surroundings
from asynclb.model import BackendPool, Member
from asynclb.net.flow import Protocol
from asynclb.tables.row import Row
from tests.unit.core.world import pool, row

AROUND = Surroundings({}, {}, (), {})
VIP, OTHER = "203.0.113.10", "203.0.113.11"


class Counting:
    """Engines that count one flow for everything they are asked about. Owner: a test."""

    def __init__(self) -> None:
        self.released: list[tuple[int, ...]] = []

    def release(self, rules: Collection[int], members: Collection[int]) -> CoreCounters:
        """Return what was counted."""
        self.released.append(tuple(members))
        return CoreCounters(
            rules={number: RuleCounters(bytes_in=1, new_flows=1) for number in rules},
            members={number: MemberCounters(bytes_in=1, new_flows=1) for number in members},
        )


def one_member(number: int) -> Row:
    """Return a rule over one member, of which there are as many as addresses."""
    member = Member("m0", IPv4Address(0x0A00_0000 + number))
    return row(BackendPool("web", (member,), drain_period_s=0.0), VIP, 80, 8080)


def test_rules_come_and_go() -> None:
    """A rule's number is free when no flow has it, and what it counted stays under its name."""
    numbers, engines = Numbers(), Counting()
    web = pool("web", "10.0.0.1")
    first, second = row(web, VIP), row(web, OTHER)
    numbers.plan([first], Leaving(), AROUND)
    numbers.plan([second], Leaving(), AROUND)
    counted = CoreCounters(rules={0: RuleCounters(flows=1, new_flows=5)})
    numbers.release_rules([second], Leaving(), counted, engines.release)
    assert len(numbers.rules.names()) == 2
    numbers.release_rules([second], Leaving(), CoreCounters(), engines.release)
    assert list(numbers.rules.names().values()) == [(second.rule.name, second.key)]
    found = numbers.counters(CoreCounters(rules={1: RuleCounters(new_flows=2)}), 0).rules
    assert (found[first.rule.name].new_flows, found[second.rule.name].new_flows) == (1, 2)


def test_a_rule_that_moves_is_two_to_its_flows() -> None:
    """Those at the old frontend have the old number, and only they end with it; its counters are one rule's."""
    numbers = Numbers()
    web = BackendPool("web", pool("web", "10.0.0.1").members, drain_period_s=5.0)
    here = row(web, VIP, 80, 8080)
    there = replace(row(web, OTHER, 80, 8080), rule=here.rule)
    numbers.plan([here], Leaving(), AROUND)
    leaving = Leaving().followed([here], [there], 0.0)
    plan = numbers.plan([there], leaving, AROUND)
    assert (plan.leaving[0].rule, plan.rules[here.rule.name]) == (0, 1)
    assert numbers.over([there], leaving, 4.0) is None
    over = numbers.over([there], leaving, 5.0)
    assert over is not None
    assert (over.ending.flows, over.ending.members) == (((0, 0, 8080),), ())
    counted = CoreCounters(rules={0: RuleCounters(bytes_in=1), 1: RuleCounters(bytes_in=2)})
    assert numbers.counters(counted, 0).rules[here.rule.name].bytes_in == 3


def test_a_renamed_rule_ends_flows_of_either_name() -> None:
    """Flows keep the number that they began with."""
    numbers = Numbers()
    two = pool("web", "10.0.0.1", "10.0.0.2")
    before = row(two, VIP, 80, 8080)
    renamed = replace(before, rule=replace(before.rule, name="new"))
    numbers.plan([before], Leaving(), AROUND)
    numbers.plan([renamed], Leaving(), AROUND)
    fewer = replace(renamed, pool=BackendPool("web", two.members[:1], 0.0))
    leaving = Leaving().followed([before], [renamed], 0.0).followed([renamed], [fewer], 0.0)
    numbers.plan([fewer], leaving, AROUND)
    kept = numbers.over([fewer], leaving, 0.0)
    assert kept is not None
    assert (kept.ending.flows, kept.ending.members) == ((), (1,))


def test_a_member_without_a_rule_is_over_at_once() -> None:
    """Datagrams move with their next packet, so nothing waits for those of a removed UDP rule."""
    numbers = Numbers()
    dns = row(pool("dns", "10.0.0.9"), VIP, 53, 5353, protocol=Protocol.UDP)
    numbers.plan([dns], Leaving(), AROUND)
    leaving = Leaving().followed([dns], [], 0.0)
    over = numbers.over([], leaving, 0.0)
    assert over is not None
    assert (over.partings, over.ending.members) == ((), (0,))


def test_a_member_that_is_back_keeps_its_number() -> None:
    """What ended under it has ended; the number is its own still."""
    numbers, engines = Numbers(), Counting()
    web = one_member(1)
    numbers.plan([web], Leaving(), AROUND)
    over = numbers.over([], Leaving(), 0.0)
    assert over is not None
    numbers.release_members(over, [web], Leaving(), engines.release)
    assert (engines.released, len(numbers.members.names())) == ([()], 1)
