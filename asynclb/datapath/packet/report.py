"""The core's numbers under the operator's names. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TypeVar

from asynclb.datapath.base import Counters, FlowRecord, MemberCounters, RuleCounters
from asynclb.datapath.core.leaving import MemberName
from asynclb.datapath.core.values import CoreCounters, FlowView
from asynclb.net.address import endpoint
from asynclb.net.drop import Drop
from asynclb.tables.row import Row

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 51: "ah", 58: "icmpv6", 132: "sctp"}

Counted = TypeVar("Counted", RuleCounters, MemberCounters)


def counters_of(
    core: CoreCounters,
    rules: Mapping[int, str],
    members: Mapping[int, MemberName],
    lost: int,
    past: Counters | None = None,
) -> Counters:
    """Return the counters by name; numbers with the same name are added up, as members that only moved.

    `lost` are frames that the rings had no room for; `past` is what was counted under numbers that were given back.
    """
    by_rule = dict(past.rules) if past is not None else {}
    by_member = dict(past.members) if past is not None else {}
    for number, counted_rule in core.rules.items():
        if number in rules:
            rule = rules[number]
            by_rule[rule] = _sum(by_rule.get(rule, RuleCounters()), counted_rule)
    for number, counted in core.members.items():
        if number in members:
            pool, name, _address = members[number]
            by_member[pool, name] = _sum(by_member.get((pool, name), MemberCounters()), counted)
    return Counters(
        rules=by_rule,
        members=by_member,
        drops={**core.drops, Drop.LISTEN_OVERFLOW: lost},
        flows=core.flows,
        stateless=core.stateless,
    )


def record_of(
    flow: FlowView, rules: Mapping[int, str], members: Mapping[int, MemberName], rows: Mapping[str, Row], now_s: float
) -> FlowRecord:
    """Describe one flow."""
    rule = rules.get(flow.rule, "")
    pool, member, address = members.get(flow.member, ("", "", flow.frontend))
    row = rows.get(rule)
    port = (row.rule.backend_port or flow.frontend_port) if row is not None else flow.frontend_port
    return FlowRecord(
        rule=rule,
        protocol=_PROTOCOLS.get(flow.protocol, str(flow.protocol)),
        client=endpoint(flow.client, flow.client_port),
        frontend=row.frontend.name if row is not None else str(flow.frontend),
        pool=pool,
        member=member,
        target=endpoint(address, port),
        state=flow.state,
        bytes_in=flow.bytes_in,
        bytes_out=flow.bytes_out,
        age_s=max(0.0, now_s - flow.created_s),
        idle_s=0.0,
    )


def _sum(one: Counted, other: Counted) -> Counted:
    return type(one)(*(getattr(one, f.name) + getattr(other, f.name) for f in fields(one)))


def total(parts: Iterable[CoreCounters]) -> CoreCounters:
    """Add up what several cores counted."""
    found = tuple(parts)
    return CoreCounters(
        rules=_by_number([part.rules for part in found]),
        members=_by_number([part.members for part in found]),
        drops={reason: sum(part.drops.get(reason, 0) for part in found) for part in found for reason in part.drops},
        flows=sum(part.flows for part in found),
        stateless=sum(part.stateless for part in found),
        expired=sum(part.expired for part in found),
    )


def _by_number(parts: Iterable[Mapping[int, Counted]]) -> dict[int, Counted]:
    summed: dict[int, Counted] = {}
    for part in parts:
        for number, counted in part.items():
            summed[number] = _sum(summed[number], counted) if number in summed else counted
    return summed
