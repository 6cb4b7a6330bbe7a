"""Counters and drops as documents. Pure."""

import ast
import inspect
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from asynclb.admin import documents
from asynclb.admin.port_use import counted_by
from asynclb.datapath.base import Counters, SnatCounters
from asynclb.net.drop import Drop


def counters_document(counters: Mapping[str, Counters], clock_s: float) -> documents.Counters:
    """Return every counter; a rule or member that two datapaths have carried is added up."""
    rules: dict[str, dict[str, int]] = {}
    members: dict[tuple[str, str], dict[str, int]] = {}
    for found in counters.values():
        for name, counted in found.rules.items():
            _add(rules.setdefault(name, {}), asdict(counted))
        for place, passed in found.members.items():
            _add(members.setdefault(place, {}), asdict(passed))
    listed: Any = {
        "rules": [{"name": name} | numbers for name, numbers in sorted(rules.items())],
        "members": [{"pool": pool, "name": name} | numbers for (pool, name), numbers in sorted(members.items())],
    }
    return {
        "clock_s": round(clock_s, 6),
        "pid": os.getpid(),
        "datapaths": [_datapath(name, found) for name, found in counters.items()],
        "rules": listed["rules"],
        "members": listed["members"],
        "snat": [_snat(pool, name, found) for (pool, name), found in sorted(counted_by(counters.values()).items())],
    }


def _snat(pool: str, name: str, found: SnatCounters) -> documents.SnatUse:
    ports: Any = [asdict(part) for part in found.ports]
    return {"pool": pool, "name": name, "attempted": found.attempted, "failed": found.failed, "ports": ports}


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for key, number in more.items():
        total[key] = total.get(key, 0) + number


def _datapath(name: str, counters: Counters) -> documents.DatapathCounters:
    return {
        "name": name,
        "flows": counters.flows,
        "capacity": counters.capacity,
        "evictions": counters.evictions,
        "stateless": counters.stateless,
        "drops": {str(reason): number for reason, number in counters.drops.items() if number},
    }


def drops_document(counters: Mapping[str, Counters]) -> documents.Drops:
    """Return every reason for which something was dropped, the most frequent first, with what it means."""
    meanings = drop_meanings()
    drops: list[documents.Drop] = [
        {"datapath": name, "reason": str(reason), "count": number, "meaning": meanings.get(reason, "")}
        for name, found in counters.items()
        for reason, number in found.drops.items()
        if number
    ]
    return {"drops": sorted(drops, key=lambda drop: (-drop["count"], drop["datapath"], drop["reason"]))}


@cache
def drop_meanings() -> Mapping[Drop, str]:
    """Return the sentence that stands below each reason in `net/drop.py`; none where the source is not at hand."""
    try:
        (drop,) = ast.parse(inspect.getsource(Drop)).body
    except (OSError, TypeError, SyntaxError):
        return {}
    found: dict[Drop, str] = {}
    name = ""
    for node in drop.body if isinstance(drop, ast.ClassDef) else ():
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]):
                pass
            case ast.Expr(value=ast.Constant(value=str(text))) if name in Drop.__members__:
                found[Drop[name]] = " ".join(text.split())
    return found
