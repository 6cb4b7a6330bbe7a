"""What a reload would change: objects, shares of slots, live flows. Pure: two configurations with their tables in.

Laws:
  1. A plan changes nothing and promises nothing about what only the host can refuse (a port that is taken).
  2. Open flows stay with their member as long as it stays in the pool at its address; so a share of slots that moves
     is about new flows, and what ends is counted among the open ones.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from asynclb.control.explain import flow_of
from asynclb.datapath.base import FlowRecord
from asynclb.errors import Problem
from asynclb.model import AdminState, BackendPool, Health, HealthState, MemberHealth, Model, Reason, TargetId
from asynclb.tables.dump import slot_counts
from asynclb.tables.lookup import Verdict, choose
from asynclb.tables.tables import Entry, PoolTable, Tables


@dataclass(frozen=True, slots=True)
class Difference:
    """One object that is `added`, `removed` or `changed`; `details` say what of it, as `weight: 1 -> 2`."""

    kind: str
    name: str
    change: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """The share of a rule's new flows that would meet another member than now, and why."""

    rule: str
    share: float
    why: str


@dataclass(frozen=True, slots=True)
class FlowsMoved:
    """What would become of open flows. `stay + end == examined`; `elsewhere` are those of `stay` whose client would
    meet another member the next time; `open` is how many there are, of which some may not have been examined.
    """

    open: int = 0
    examined: int = 0
    stay: int = 0
    end: int = 0
    elsewhere: int = 0
    ending: Mapping[str, int] | None = None
    """Why flows end -> how many."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a reload would change. `flows` is None without a running process."""

    differences: tuple[Difference, ...]
    moves: tuple[Move, ...]
    flows: FlowsMoved | None = None
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Side:
    """A configuration and the tables that it makes."""

    model: Model
    tables: Tables


def make_plan(
    before: Side, after: Side, flows: tuple[int, Sequence[FlowRecord]] | None = None, warnings: tuple[Problem, ...] = ()
) -> Plan:
    """Compare two configurations. `flows`: how many are open, and those that are to be examined.

    Cost: linear in objects, in the slots of tables that are not shared, and in flows; about 15 us for each flow.
    """
    found = None if flows is None else _flows(before, after, *flows)
    return Plan(tuple(differences(before.model, after.model)), tuple(_moves(before, after)), found, warnings)


_SETTINGS = ("datapath", "compat", "admin", "flow_log", "workers", "shutdown_drain_s", "on_stop", "interfaces")


def differences(old: Model, new: Model) -> Iterator[Difference]:
    """Yield what differs. Order: settings, frontends, pools with their members, probes, rules by kind."""
    settings = [_detail(name, getattr(old, name), getattr(new, name)) for name in _SETTINGS]
    if old.hash_seed != new.hash_seed:
        settings.append("hash_seed: another one")  # a secret of the configuration
    if said := tuple(detail for detail in settings if detail):
        yield Difference("settings", "", "changed", said)
    yield from _named("frontend", old.frontends, new.frontends)
    yield from _pools(old.backend_pools, new.backend_pools)
    yield from _named("probe", old.probes, new.probes)
    for kind, before, after in (
        ("rule", old.rules, new.rules),
        ("inbound NAT rule", old.inbound_nat_rules, new.inbound_nat_rules),
        ("outbound rule", old.outbound_rules, new.outbound_rules),
    ):
        yield from _named(kind, {rule.name: rule for rule in before}, {rule.name: rule for rule in after})


def _pools(old: Mapping[str, BackendPool], new: Mapping[str, BackendPool]) -> Iterator[Difference]:
    for name in {**old, **new}:
        before, after = old.get(name), new.get(name)
        if before is after:
            continue
        if before is None or after is None:
            yield Difference("pool", name, "added" if before is None else "removed")
        else:
            said = (
                _detail(key, getattr(before, key), getattr(after, key)) for key in ("drain_period_s", "members_from")
            )
            if details := tuple(detail for detail in said if detail):
                yield Difference("pool", name, "changed", details)
        members = [{f"{name}/{m.name}": m for m in pool.members} if pool else {} for pool in (before, after)]
        yield from _named("member", *members)


def _named(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    for name in {**old, **new}:
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if before is None or after is None:
            yield Difference(kind, name, "added" if before is None else "removed")
        else:
            said = (_detail(f.name, getattr(before, f.name), getattr(after, f.name)) for f in fields(before))
            yield Difference(kind, name, "changed", tuple(detail for detail in said if detail))


def _detail(name: str, old: object, new: object) -> str:
    return "" if old == new else f"{name}: {_show(old)} -> {_show(new)}"


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return "none" if value is None or value == {} else f"{value:g}" if isinstance(value, float) else str(value)


def _moves(before: Side, after: Side) -> Iterator[Move]:
    known = {entry.row.rule.name: entry for entry in before.tables.entries.values()}
    shares: dict[tuple[int, int, bool], tuple[float, str]] = {}
    for entry in after.tables.entries.values():
        was = known.get(entry.row.rule.name)
        if was is None:
            continue
        rehashed = _rehashed(before.tables, was, after.tables, entry)
        pair = (id(was.table), id(entry.table), bool(rehashed))
        if pair not in shares:
            shares[pair] = moved_share(was.table, entry.table, rehashed=bool(rehashed))
        share, why = shares[pair]
        if share:
            yield Move(entry.row.rule.name, share, rehashed or why)


def _rehashed(old: Tables, was: Entry, new: Tables, now: Entry) -> str:
    """Return why equal flows have other hashes, '' if they have not."""
    if old.seed != new.seed:
        return "the hash seed is another one"
    one, other = was.row.rule.distribution, now.row.rule.distribution
    if one != other:
        return f"flows are hashed by {other} in place of {one}"
    return "the rule's symmetry changes" if was.row.symmetric != now.row.symmetric else ""


def moved_share(old: PoolTable, new: PoolTable, *, rehashed: bool) -> tuple[float, str]:
    """Return the share of new flows that meet another member than before, and why.

    Where flows are hashed anew it is the expected one, of two independent choices. Tables of unequal sizes are
    compared at the middle of each new slot, which is exact to about one part in the square root of their size.
    """
    if old is new and not rehashed:
        return 0.0, ""
    if not old.size or not new.size:
        return (1.0, "no member is eligible any more") if old.size else (0.0, "")
    one, other = ([(member.name, member.address) for member in table.members] for table in (old, new))
    if rehashed:
        was, now = slot_counts(old), slot_counts(new)
        here = {name: was[index] / old.size for index, name in enumerate(one)}
        same = sum(here.get(name, 0.0) * now[index] / new.size for index, name in enumerate(other))
        return 1.0 - same, ""
    if old.size == new.size:
        pairs = Counter(zip(old.slots, new.slots, strict=True))
        why = "its eligible members or their weights change"
    else:
        pairs = Counter((old.slots[(2 * j + 1) * old.size // (2 * new.size)], slot) for j, slot in enumerate(new.slots))
        why = f"the table has {new.size:,} slots in place of {old.size:,}"
    return sum(count for (a, b), count in pairs.items() if one[a] != other[b]) / new.size, why


def _flows(before: Side, after: Side, opened: int, records: Sequence[FlowRecord]) -> FlowsMoved:
    entries = {entry.row.rule.name: entry for entry in after.tables.entries.values()}
    addresses = {
        (pool.name, member.name): member.address
        for pool in before.model.backend_pools.values()
        for member in pool.members
    }
    ending: Counter[str] = Counter()
    elsewhere = 0
    for record in records:
        entry = entries.get(record.rule)
        if why := _why_ends(record, entry, addresses.get((record.pool, record.member))):
            ending[why] += 1
        elif entry is not None and _chosen(after.tables.seed, entry, record) not in (None, record.member):
            elsewhere += 1
    end = ending.total()
    return FlowsMoved(opened, len(records), len(records) - end, end, elsewhere, dict(ending))


def _why_ends(record: FlowRecord, entry: Entry | None, address: object) -> str:
    if entry is None:
        return f"rule {record.rule} is removed"
    member = next((member for member in entry.row.pool.members if member.name == record.member), None)
    name = f"{record.pool}/{record.member}"
    if member is None:
        return f"member {name} is removed"
    if address is not None and member.address != address:
        return f"member {name} moves to another address"
    if member.admin_state is AdminState.DRAIN:
        return f"member {name} drains"
    return ""


def _chosen(seed: int, entry: Entry, record: FlowRecord) -> str | None:
    """Return the member that the flow would meet if it came anew; None where a record does not say enough."""
    flow = None if entry.row.frontend.routed else flow_of(record, entry.row.key)
    if flow is None:
        return None
    verdict = choose(seed, entry, flow)
    return verdict.member.name if isinstance(verdict, Verdict) else None


def assumed_health(model: Model, known: Health) -> Health:
    """Return what is known, with members that no probe has asked yet assumed up."""
    up = MemberHealth(HealthState.UP, Reason.UP_PROBE_SUCCESS, 0, "assumed: not asked yet")
    targets: dict[TargetId, MemberHealth] = {}
    for pool, probe in {(rule.backend_pool, rule.probe): None for rule in model.rules}:
        if probe is None:
            continue
        for member in model.backend_pools[pool].members:
            found = known.of(pool, member.name, probe)
            targets[pool, member.name, probe] = up if found.state is HealthState.UNKNOWN else found
    return Health(targets)
