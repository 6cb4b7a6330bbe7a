"""What passed per second, from two readings of the counters. Pure.

Counters of a rule that two datapaths have carried are added up. Between readings a counter only grows; a rule that is
new since the first reading counts from nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from asynclb.admin.port_use import Counted, counted_by
from asynclb.datapath.base import Counters, MemberCounters, RuleCounters, summed
from asynclb.net.drop import Drop

DropId = tuple[str, Drop]
"""(datapath, reason)."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All counters at one instant. Units: `at_ns` monotonic."""

    at_ns: int = 0
    rules: Mapping[str, RuleCounters] = field(default_factory=dict)
    members: Mapping[tuple[str, str], MemberCounters] = field(default_factory=dict)
    drops: Mapping[DropId, int] = field(default_factory=dict)
    flows: int = 0
    fullest: tuple[str, int, int] = ("", 0, 0)
    """(datapath, flows, capacity) of the flow table that has the least room left; capacity 0: none is limited."""
    snat: Counted = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rate:
    """What passes through a rule, or all of them. Units: per second; `flows` are open now."""

    flows: int = 0
    new_flows: float = 0.0
    bits_in: float = 0.0
    bits_out: float = 0.0
    packets: float = 0.0

    @property
    def row(self) -> tuple[int, float, int, int, int]:
        """The numbers as they are sent: flows, new flows, bits in, bits out, packets."""
        return self.flows, round(self.new_flows, 1), round(self.bits_in), round(self.bits_out), round(self.packets)


IDLE = Rate()


@dataclass(frozen=True, slots=True)
class Rates:
    """What passes, in all, by rule and by member, and what is dropped, by reason. What is idle is left out."""

    total: Rate = IDLE
    drops: float = 0.0
    rules: Mapping[str, Rate] = field(default_factory=dict)
    members: Mapping[tuple[str, str], Rate] = field(default_factory=dict)
    by_reason: Mapping[DropId, float] = field(default_factory=dict)


def read(counters: Mapping[str, Counters], shown: Callable[[str], str], at_ns: int) -> Reading:
    """Return one reading. `shown`: the name under which a rule's counters are added up."""
    every = counters.values()
    limited = [(path, found.flows, found.capacity) for path, found in counters.items() if found.capacity]
    return Reading(
        at_ns,
        summed((shown(name), rule) for found in every for name, rule in found.rules.items()),
        summed(item for found in every for item in found.members.items()),
        {(path, reason): number for path, found in counters.items() for reason, number in found.drops.items()},
        sum(found.flows for found in every),
        max(limited, key=lambda found: found[1] / found[2], default=("", 0, 0)),
        counted_by(every),
    )


def rates(before: Reading, after: Reading) -> Rates:
    """Return what passed between two readings, per second; nothing if there was no time between them."""
    seconds = (after.at_ns - before.at_ns) / 1e9
    if seconds <= 0 or not before.at_ns:
        return Rates(Rate(after.flows))
    rules = {name: _rule_rate(before.rules.get(name, _NO_RULE), now, seconds) for name, now in after.rules.items()}
    members = {
        place: _member_rate(before.members.get(place, _NO_MEMBER), now, seconds) for place, now in after.members.items()
    }
    by_reason = {key: (number - before.drops.get(key, 0)) / seconds for key, number in after.drops.items()}
    return Rates(
        _total(rules, after.flows),
        sum(by_reason.values()),
        {name: rate for name, rate in rules.items() if rate != IDLE},
        {place: rate for place, rate in members.items() if rate != IDLE},
        by_reason,
    )


_NO_RULE = RuleCounters()
_NO_MEMBER = MemberCounters()


def _total(rules: Mapping[str, Rate], flows: int) -> Rate:
    found = rules.values()
    return Rate(
        flows,
        sum(rate.new_flows for rate in found),
        sum(rate.bits_in for rate in found),
        sum(rate.bits_out for rate in found),
        sum(rate.packets for rate in found),
    )


def _rule_rate(before: RuleCounters, now: RuleCounters, seconds: float) -> Rate:
    packets = now.packets_in + now.packets_out - before.packets_in - before.packets_out
    return Rate(
        now.flows,
        (now.new_flows - before.new_flows) / seconds,
        (now.bytes_in - before.bytes_in) * 8 / seconds,
        (now.bytes_out - before.bytes_out) * 8 / seconds,
        packets / seconds,
    )


def _member_rate(before: MemberCounters, now: MemberCounters, seconds: float) -> Rate:
    return Rate(
        now.flows,
        (now.new_flows - before.new_flows) / seconds,
        (now.bytes_in - before.bytes_in) * 8 / seconds,
        (now.bytes_out - before.bytes_out) * 8 / seconds,
    )
