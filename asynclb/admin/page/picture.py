"""What stands there: frontends, rules, pools and members, as the page draws them. Pure.

A picture is made again only when something of it has changed, which is seen by the identity of the snapshots it is made
of; and what has changed in it is found by comparing documents. So a quiet instance costs nothing for its thousands of
members.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from asynclb.admin.situation import member_state
from asynclb.control.edges import all_down_is_up
from asynclb.control.status import Status
from asynclb.model import (
    BackendPool,
    Frontend,
    Health,
    Member,
    Model,
    Reason,
    effective_health,
    probes_by_pool,
)
from asynclb.tables.dump import slot_counts
from asynclb.tables.row import Row, RuleKind
from asynclb.tables.tables import Entry, PoolTable

Document = Mapping[str, Any]
MemberId = tuple[str, str]
"""(pool, member)."""

_EXAMPLES = {4: ip_address("198.51.100.7"), 6: ip_address("2001:db8::7")}
"""Clients in documents. Source: RFC 5737, RFC 3849."""

_SHAKY = (Reason.UP_PROBE_APPROACHING_UNHEALTHY, Reason.UP_PROBE_ALL_DOWN_IS_UP)


@dataclass(frozen=True, slots=True)
class Picture:
    """Documents by name, and the snapshots that they were made of.

    Shape: `shares` is by the identity of a table, which is kept so that the identity stays its own.
    """

    sources: tuple[object, ...] = ()
    model: Model | None = None
    frontends: tuple[Document, ...] = ()
    rules: Mapping[str, Document] = field(default_factory=dict)
    pools: tuple[str, ...] = ()
    members: Mapping[MemberId, Document] = field(default_factory=dict)
    shown: Mapping[str, str] = field(default_factory=dict)
    """The name of each port of an inbound NAT rule -> the rule's."""
    probes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Pool -> the probes that ask its members."""
    shares: Mapping[int, tuple[PoolTable, tuple[int, ...]]] = field(default_factory=dict)


def draw(status: Status, before: Picture, epoch_offset_s: float) -> Picture:
    """Return the picture of a status: the one before, if nothing of it has changed.

    Units: `epoch_offset_s` is what makes an epoch of monotonic seconds; the same for every call, or times would waver.
    Cost: linear in rules, members and the slots of tables that are new; call it in a thread.
    """
    sources = (status.model, status.health, status.tables, status.rule_states, status.overrides)
    known = before.sources
    if len(known) == len(sources) and all(one is other for one, other in zip(known, sources, strict=True)):
        return before
    shares = _shares(status, before)
    probes = probes_by_pool(status.model)
    return Picture(
        sources,
        status.model,
        tuple(_frontend(status, name) for name in status.model.frontends),
        dict(_rules(status)),
        tuple(status.model.backend_pools),
        dict(_members(status, probes, _share_of(status, shares), epoch_offset_s)),
        {entry.row.rule.name: nat for entry in status.tables.entries.values() if (nat := entry.row.nat_rule)},
        probes,
        shares,
    )


def changed(before: Mapping[Any, Document], after: Mapping[Any, Document]) -> list[Document]:
    """Return the documents that are new or other than before."""
    if before is after:
        return []
    return [document for key, document in after.items() if before.get(key) != document]


def _shares(status: Status, before: Picture) -> dict[int, tuple[PoolTable, tuple[int, ...]]]:
    found: dict[int, tuple[PoolTable, tuple[int, ...]]] = {}
    for entry in status.tables.entries.values():
        key = id(entry.table)
        if key not in found and entry.row.nat_rule is None:
            found[key] = before.shares.get(key) or (entry.table, slot_counts(entry.table))
    return found


def _share_of(status: Status, shares: Mapping[int, tuple[PoolTable, tuple[int, ...]]]) -> dict[MemberId, float]:
    """Return each member's share of new flows, in the first rule of its pool."""
    found: dict[MemberId, float] = {}
    first: dict[str, int] = {}
    for entry in status.tables.entries.values():
        if entry.row.nat_rule is None:
            first.setdefault(entry.row.pool.name, id(entry.table))
    for pool, key in first.items():
        table, counts = shares[key]
        for member, count in zip(table.members, counts, strict=True):
            found[pool, member.name] = round(count / table.size, 6)
    return found


def _frontend(status: Status, name: str) -> Document:
    frontend = status.model.frontends[name]
    return {"name": name, "address": str(frontend.address), "client": _client(frontend)}


def _client(frontend: Frontend) -> str:
    """Return an address that the frontend lets in, for an example of a flow."""
    example = _EXAMPLES[frontend.address.version]
    if not frontend.allow or any(example in prefix for prefix in frontend.allow):
        return str(example)
    first = frontend.allow[0]
    return str(first[min(7, first.num_addresses - 1)])


def _rules(status: Status) -> Iterator[tuple[str, Document]]:
    """Yield one document for each rule; an inbound NAT rule is one, however many ports it has."""
    carried = {rule: path for path in status.datapaths for rule in path.rules}
    ports: dict[str, list[Entry]] = {}
    for entry in status.tables.entries.values():
        row = entry.row
        if row.nat_rule is not None:
            ports.setdefault(row.nat_rule, []).append(entry)
            continue
        path = carried.get(row.rule.name)
        yield (
            row.rule.name,
            {
                **_rule(row, row.rule.name, str(row.key.port or "any")),
                "pool": row.pool.name,
                "state": str(status.rule_states.get(row.rule.name, "")),
                "eligible": len(entry.table.members),
                "members": len(row.pool.members),
                "datapath": path.name if path else "",
                "mode": path.modes[row.rule.name] if path else "",
            },
        )
    for rule in status.model.inbound_nat_rules:
        entries = ports.get(rule.name)
        if not entries:
            continue
        path = carried.get(entries[0].row.rule.name)
        yield (
            rule.name,
            {
                **_rule(entries[0].row, rule.name, f"{rule.first_port}-{rule.last_port}"),
                "pool": rule.backend_pool,
                "state": "serving",
                "eligible": len(entries),
                "members": len(entries),
                "datapath": path.name if path else "",
                "mode": path.modes[entries[0].row.rule.name] if path else "",
            },
        )


def _rule(row: Row, name: str, port: str) -> dict[str, Any]:
    kind = row.kind
    return {
        "name": name,
        "kind": str(kind),
        "frontend": row.frontend.name,
        "address": str(row.key.address),
        "port": port,
        "protocol": str(row.key.protocol),
        "backend_port": row.rule.backend_port,
        "probe": row.rule.probe if kind is not RuleKind.INBOUND_NAT else None,
        "distribution": str(row.rule.distribution) if kind is not RuleKind.INBOUND_NAT else "",
        "delivery": str(row.delivery),
    }


def _members(
    status: Status, probes: Mapping[str, tuple[str, ...]], shares: Mapping[MemberId, float], epoch_offset_s: float
) -> Iterator[tuple[MemberId, Document]]:
    fallen = all_down_is_up(status.model.rules, status.rule_states)
    for pool in status.model.backend_pools.values():
        asked = probes.get(pool.name, ())
        told = frozenset(member.name for member in status.discovered.get(pool.name, ()))
        source = status.sources.get(pool.name)
        for member in pool.members:
            place = (pool.name, member.name)
            health = [
                _health(pool, member, probe, status.health, epoch_offset_s, up=(pool.name, probe) in fallen)
                for probe in asked
            ]
            yield (
                place,
                {
                    "pool": pool.name,
                    "name": member.name,
                    "address": str(member.address),
                    "weight": member.weight,
                    "priority": member.priority,
                    "zone": member.zone,
                    "source": source.members_from.source.kind.value if source and member.name in told else None,
                    "admin": str(member.admin_state),
                    "by": status.overrides[place].by if place in status.overrides else None,
                    "state": member_state(member.admin_state, member.weight, (found["state"] for found in health)),
                    "share": shares.get(place, 0.0),
                    "health": health,
                },
            )


def _health(
    pool: BackendPool, member: Member, probe: str, health: Health, epoch_offset_s: float, *, up: bool
) -> Document:
    found = health.of(pool.name, member.name, probe)
    effective = effective_health(member, found, all_down_is_up=up)
    return {
        "probe": probe,
        "state": str(effective.state),
        "probed": str(found.state),
        "reason": str(effective.reason),
        "shaky": effective.reason in _SHAKY,
        "detail": found.detail,
        "since": round(epoch_offset_s + found.since_ns / 1e9, 3) if found.since_ns else None,
    }
