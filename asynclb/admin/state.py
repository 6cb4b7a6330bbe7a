"""Status as a JSON document: the shape of `GET /api/v1/state`. Pure.

Pool tables are listed once and rules refer to them by position: 1,500 rules may share one table of 5,000 members.
"""

import os
from collections.abc import Iterator

import asynclb
from asynclb.admin import documents
from asynclb.admin.instant import instant
from asynclb.admin.outbound import outbound_documents
from asynclb.admin.sources import source_document
from asynclb.control.edges import all_down_is_up
from asynclb.control.overrides import Override
from asynclb.control.status import DatapathStatus, Reload, Status
from asynclb.errors import Problem
from asynclb.model import BackendPool, Frontend, Health, InboundNatRule, Member, effective_health, probes_by_pool
from asynclb.tables.dump import digest, slot_counts
from asynclb.tables.tables import Entry, PoolTable


def state_document(status: Status, *, now_s: float, now_ns: int) -> documents.State:
    """Return the document.

    Units: `now_s` seconds since the epoch, `now_ns` monotonic.
    Cost: linear in rules, members and table slots; call it in a thread.
    """
    rules, tables = rule_documents(status)
    return {
        "version": asynclb.__version__,
        "pid": os.getpid(),
        "started": instant(status.started_s),
        "uptime_s": round(now_s - status.started_s, 3),
        "ready": status.ready,
        "stopping": status.stopping,
        "config": {"path": status.config_path, "digest": status.config_digest},
        "generation": status.generation,
        "since": instant(status.generation_since_s),
        "last_reload": reload_document(status.last_reload) if status.last_reload else None,
        "reloads": dict(status.reloads),
        "datapaths": [datapath_document(datapath) for datapath in status.datapaths],
        "rules": rules,
        "inbound_nat_rules": [_nat_rule(rule, status) for rule in status.model.inbound_nat_rules],
        "outbound_rules": outbound_documents(status),
        "frontends": [_frontend(frontend) for frontend in status.model.frontends.values()],
        "tables": tables,
        "pools": list(pool_documents(status, now_s - now_ns / 1e9)),
    }


def rule_documents(status: Status) -> tuple[list[documents.Rule], list[documents.Table]]:
    """Return every rule, and the tables that they refer to by position."""
    positions: dict[int, int] = {}
    tables: list[documents.Table] = []
    rules = []
    carried = {rule: datapath for datapath in status.datapaths for rule in datapath.rules}
    for entry in status.tables.entries.values():
        position = positions.get(id(entry.table))
        if position is None:
            position = positions[id(entry.table)] = len(tables)
            tables.append(_table(entry.row.pool.name, entry.table))
        rules.append(_rule(entry, position, status, carried.get(entry.row.rule.name)))
    return rules, tables


def tables_document(status: Status) -> list[documents.Table]:
    """Return every table with the rules that use it."""
    rules, tables = rule_documents(status)
    for rule, entry in zip(rules, status.tables.entries.values(), strict=True):
        table = tables[rule["table"]]
        table.setdefault("rules", []).append(rule["name"])
        if "digest" not in table:
            table["digest"] = digest(entry.table)
    return tables


def reload_document(reload: Reload) -> documents.Reload:
    """Return what became of a reload."""
    return {
        "result": reload.result,
        "trigger": reload.trigger,
        "at": instant(reload.at_s),
        "took_s": round(reload.took_s, 6),
        "generation": reload.generation,
        "problems": [problem_document(problem) for problem in reload.problems],
        "warnings": [problem_document(problem) for problem in reload.warnings],
    }


def problem_document(problem: Problem) -> documents.Problem:
    """Return a problem in its parts, and as the line that `check` prints."""
    return {
        "path": list(problem.path),
        "names": list(problem.names),
        "where": problem.where,
        "value": problem.value,
        "rule": problem.rule,
        "remedy": problem.remedy,
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "code": problem.code,
        "text": str(problem),
    }


def _rule(entry: Entry, table: int, status: Status, datapath: DatapathStatus | None) -> documents.Rule:
    row = entry.row
    rule = row.rule
    state = status.rule_states.get(rule.name, "")
    return {
        "name": rule.name,
        "kind": row.kind.value,
        "frontend": row.frontend.name,
        "address": str(row.key.address),
        "port": row.key.port,
        "protocol": row.key.protocol.value,
        "pool": row.pool.name,
        "backend_port": rule.backend_port,
        "probe": rule.probe,
        "distribution": str(rule.distribution),
        "delivery": row.delivery.value,
        "datapath": datapath.name if datapath else None,
        "mode": datapath.modes[rule.name] if datapath else "",
        "why": datapath.rules[rule.name] if datapath else "",
        "state": str(state),
        "silent": not entry.table.size,
        "eligible": len(entry.table.members),
        "members": len(row.pool.members),
        "table": table,
    }


def _nat_rule(rule: InboundNatRule, status: Status) -> documents.NatRule:
    """Return a rule with the port of each member, in the order of the ports."""
    ports = status.nat_ports.get(rule.name, {})
    mappings = sorted((port, member) for member, port in ports.items())
    return {
        "name": rule.name,
        "frontend": rule.frontend,
        "protocol": rule.protocol.value,
        "first_port": rule.first_port,
        "last_port": rule.last_port,
        "pool": rule.backend_pool,
        "backend_port": rule.backend_port,
        "mappings": [{"member": member, "frontend_port": port} for port, member in mappings],
    }


def _frontend(frontend: Frontend) -> documents.Frontend:
    return {
        "name": frontend.name,
        "address": str(frontend.address),
        "scope": str(frontend.scope),
        "allow": [str(prefix) for prefix in frontend.allow],
        "zones": list(frontend.zones),
        "zone_affinity": frontend.zone_affinity,
    }


def _table(pool: str, table: PoolTable) -> documents.Table:
    members: list[documents.TableMember] = [
        {"name": member.name, "slots": count, "share": round(count / table.size, 6)}
        for member, count in zip(table.members, slot_counts(table), strict=True)
    ]
    return {"pool": pool, "size": table.size, "members": members}


def datapath_document(datapath: DatapathStatus) -> documents.Datapath:
    return {
        "name": datapath.name,
        "mode": datapath.mode,
        "generation": datapath.generation,
        "since": instant(datapath.since_s),
        "rules": len(datapath.rules),
        "interfaces": [
            {"name": found.interface, "mode": found.mode, "instead": found.instead} for found in datapath.attachments
        ],
    }


def pool_documents(status: Status, epoch_offset_s: float) -> Iterator[documents.Pool]:
    probes, fallen = probes_by_pool(status.model), all_down_is_up(status.model.rules, status.rule_states)
    for pool in status.model.backend_pools.values():
        asked = probes.get(pool.name, ())
        told = frozenset(member.name for member in status.discovered.get(pool.name, ()))
        yield {
            "name": pool.name,
            "drain_period_s": pool.drain_period_s,
            "source": source_document(status, pool.name),
            "members": [
                _member(pool, member, asked, status, epoch_offset_s, fallen, from_source=member.name in told)
                for member in pool.members
            ],
        }


def _member(
    pool: BackendPool,
    member: Member,
    probes: tuple[str, ...],
    status: Status,
    epoch_offset_s: float,
    fallen: frozenset[tuple[str, str]],
    *,
    from_source: bool,
) -> documents.Member:
    override = status.overrides.get((pool.name, member.name))
    return {
        "name": member.name,
        "address": str(member.address),
        "weight": member.weight,
        "priority": member.priority,
        "admin_state": member.admin_state.value,
        "zone": member.zone,
        "from_source": from_source,
        "override": None if override is None else _override(override),
        "health": [
            _health(pool.name, member, probe, status.health, epoch_offset_s, up=(pool.name, probe) in fallen)
            for probe in probes
        ],
    }


def _override(override: Override) -> documents.Override:
    state = override.change.admin_state
    return {
        "admin_state": None if state is None else state.value,
        "weight": override.change.weight,
        "by": override.by,
        "at": instant(override.at_s),
    }


def _health(
    pool: str, member: Member, probe: str, health: Health, epoch_offset_s: float, *, up: bool
) -> documents.Health:
    """Return what one probe says, and the state that rules act on; `up`: they take all for up, as none is."""
    found = health.of(pool, member.name, probe)
    effective = effective_health(member, found, all_down_is_up=up)
    return {
        "probe": probe,
        "state": effective.state.value,
        "reason": str(effective.reason),
        "probed": found.state.value,
        "since": instant(epoch_offset_s + found.since_ns / 1e9) if found.since_ns else None,
        "detail": found.detail,
    }
