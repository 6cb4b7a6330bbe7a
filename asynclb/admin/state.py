"""Status as a JSON document: the shape of `GET /api/v1/state`. Pure.

Pool tables are listed once and rules refer to them by position: 1,500 rules may share one table of 5,000 members.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import asynclb
from asynclb.control.status import DatapathStatus, Reload, Status
from asynclb.errors import Problem
from asynclb.model import BackendPool, Frontend, Health, InboundNatRule, Member, effective_health
from asynclb.tables.tables import Entry, PoolTable

_CHUNK = 16_384  # slots counted in one go: the interpreter lock is held for about half a millisecond


def state_document(status: Status, *, now_s: float, now_ns: int) -> dict[str, Any]:
    """Return the document.

    Units: `now_s` seconds since the epoch, `now_ns` monotonic.
    Cost: linear in rules, members and table slots; call it in a thread.
    """
    positions: dict[int, int] = {}
    tables: list[dict[str, Any]] = []
    rules = []
    for entry in status.tables.entries.values():
        position = positions.get(id(entry.table))
        if position is None:
            position = positions[id(entry.table)] = len(tables)
            tables.append(_table(entry.row.pool.name, entry.table))
        rules.append(_rule(entry, position, status))
    return {
        "version": asynclb.__version__,
        "pid": os.getpid(),
        "started": _instant(status.started_s),
        "uptime_s": round(now_s - status.started_s, 3),
        "ready": status.ready,
        "stopping": status.stopping,
        "config": {"path": status.config_path, "digest": status.config_digest},
        "generation": status.generation,
        "since": _instant(status.generation_since_s),
        "last_reload": reload_document(status.last_reload) if status.last_reload else None,
        "reloads": dict(status.reloads),
        "datapaths": [_datapath(datapath) for datapath in status.datapaths],
        "rules": rules,
        "inbound_nat_rules": [_nat_rule(rule, status) for rule in status.model.inbound_nat_rules],
        "frontends": [_frontend(frontend) for frontend in status.model.frontends.values()],
        "tables": tables,
        "pools": list(_pools(status, now_s - now_ns / 1e9)),
    }


def reload_document(reload: Reload) -> dict[str, Any]:
    """Return what became of a reload."""
    return {
        "result": reload.result,
        "trigger": reload.trigger,
        "at": _instant(reload.at_s),
        "took_s": round(reload.took_s, 6),
        "generation": reload.generation,
        "problems": [problem_document(problem) for problem in reload.problems],
        "warnings": [problem_document(problem) for problem in reload.warnings],
    }


def problem_document(problem: Problem) -> dict[str, Any]:
    """Return a problem in its parts, and as the line that `check` prints."""
    return asdict(problem) | {"path": list(problem.path), "where": problem.where, "text": str(problem)}


def _rule(entry: Entry, table: int, status: Status) -> dict[str, Any]:
    row = entry.row
    rule = row.rule
    datapath = next((found for found in status.datapaths if rule.name in found.rules), None)
    state = status.rule_states.get(rule.name, "")
    return {
        "name": rule.name,
        "kind": str(row.kind),
        "frontend": row.frontend.name,
        "address": str(row.key.address),
        "port": row.key.port,
        "protocol": str(row.key.protocol),
        "pool": row.pool.name,
        "backend_port": rule.backend_port,
        "probe": rule.probe,
        "distribution": str(rule.distribution),
        "delivery": str(row.delivery),
        "datapath": datapath.name if datapath else None,
        "mode": datapath.modes[rule.name] if datapath else "",
        "why": datapath.rules[rule.name] if datapath else "",
        "state": str(state),
        "silent": not entry.table.size,
        "eligible": len(entry.table.members),
        "members": len(row.pool.members),
        "table": table,
    }


def _nat_rule(rule: InboundNatRule, status: Status) -> dict[str, Any]:
    """Return a rule with the port of each member, in the order of the ports."""
    ports = status.nat_ports.get(rule.name, {})
    mappings = sorted((port, member) for member, port in ports.items())
    return {
        "name": rule.name,
        "frontend": rule.frontend,
        "protocol": str(rule.protocol),
        "first_port": rule.first_port,
        "last_port": rule.last_port,
        "pool": rule.backend_pool,
        "backend_port": rule.backend_port,
        "mappings": [{"member": member, "frontend_port": port} for port, member in mappings],
    }


def _frontend(frontend: Frontend) -> dict[str, Any]:
    return {
        "name": frontend.name,
        "address": str(frontend.address),
        "scope": str(frontend.scope),
        "allow": [str(prefix) for prefix in frontend.allow],
        "zones": list(frontend.zones),
        "zone_affinity": frontend.zone_affinity,
    }


def _table(pool: str, table: PoolTable) -> dict[str, Any]:
    counts: Counter[int] = Counter()
    for start in range(0, table.size, _CHUNK):
        counts.update(table.slots[start : start + _CHUNK])
    members = [
        {"name": member.name, "slots": counts[index], "share": round(counts[index] / table.size, 6)}
        for index, member in enumerate(table.members)
    ]
    return {"pool": pool, "size": table.size, "members": members}


def _datapath(datapath: DatapathStatus) -> dict[str, Any]:
    return {
        "name": datapath.name,
        "mode": datapath.mode,
        "generation": datapath.generation,
        "since": _instant(datapath.since_s),
        "rules": len(datapath.rules),
    }


def _pools(status: Status, epoch_offset_s: float) -> Iterator[dict[str, Any]]:
    probes: dict[str, dict[str, None]] = {}
    for rule in status.model.rules:
        if rule.probe is not None:
            probes.setdefault(rule.backend_pool, {})[rule.probe] = None
    for pool in status.model.backend_pools.values():
        asked = tuple(probes.get(pool.name, ()))
        members = [_member(pool, member, asked, status.health, epoch_offset_s) for member in pool.members]
        yield {"name": pool.name, "drain_period_s": pool.drain_period_s, "members": members}


def _member(
    pool: BackendPool, member: Member, probes: tuple[str, ...], health: Health, epoch_offset_s: float
) -> dict[str, Any]:
    return {
        "name": member.name,
        "address": str(member.address),
        "weight": member.weight,
        "priority": member.priority,
        "admin_state": str(member.admin_state),
        "zone": member.zone,
        "health": [_health(pool.name, member, probe, health, epoch_offset_s) for probe in probes],
    }


def _health(pool: str, member: Member, probe: str, health: Health, epoch_offset_s: float) -> Mapping[str, Any]:
    """Return what one probe says, and the state that rules act on with the admin state laid over it."""
    found = health.of(pool, member.name, probe)
    effective = effective_health(member, found)
    since = _instant(epoch_offset_s + found.since_ns / 1e9) if found.since_ns else None
    return {
        "probe": probe,
        "state": str(effective.state),
        "reason": str(effective.reason),
        "probed": str(found.state),
        "since": since,
        "detail": found.detail,
    }


def _instant(epoch_s: float) -> str | None:
    if not epoch_s:
        return None
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
