"""Every name that something refers to exists, and every rule's name is its own.

Rules are looked at as they were written, so that one with a wrong value still has its references checked.
"""

import re
from collections.abc import Collection, Iterator

from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.config.source import Value
from asynclb.config.values import NAME_PATTERN
from asynclb.errors import Path

_MOST_NAMED = 8  # names listed in a remedy

REFERENCES = {
    "rules": {"frontend": "frontends", "backend_pool": "backend_pools", "probe": "probes"},
    "inbound_nat_rules": {"frontend": "frontends", "backend_pool": "backend_pools"},
    "outbound_rules": {"frontends": "frontends", "backend_pool": "backend_pools"},
}
"""Section -> key -> the section of what the key names."""

_KINDS = {"frontends": "frontend", "backend_pools": "backend pool", "probes": "probe"}


def check_references(draft: Draft, report: Report) -> None:
    """Refuse dangling references and rules of one name."""
    first: dict[str, Path] = {}
    for section, keys in REFERENCES.items():
        for index, rule in draft.written[section].items():
            if not isinstance(rule, dict):
                continue
            _unique((section, index, "name"), rule.get("name"), first, report)
            for key, target in keys.items():
                known = draft.names.get(target)
                for path, name in _names((section, index, key), rule.get(key)) if known is not None else ():
                    _refer(path, name, known or (), _KINDS[target], report)
    for index, nat in draft.nat_rules.items():
        pool = draft.pools.get(nat.backend_pool)
        if nat.member is not None and pool is not None and pool.whole:
            path = ("inbound_nat_rules", index, "member")
            _refer(path, nat.member, pool.names, f"member of pool {nat.backend_pool}", report)


def _names(path: Path, value: Value) -> Iterator[tuple[Path, str]]:
    """Iterate over the well-formed names under a key: one, or those of a list."""
    if isinstance(value, str) and re.fullmatch(NAME_PATTERN, value):
        yield path, value
    elif isinstance(value, list):
        for position, item in enumerate(value):
            if isinstance(item, str) and re.fullmatch(NAME_PATTERN, item):
                yield (*path, position), item


def _refer(path: Path, name: str, known: Collection[str], kind: str, report: Report) -> None:
    if name in known or report.full:
        return
    near = report.suggest(name, known)
    if near:
        remedy = f"did you mean `{near}`?"
    elif 0 < len(known) <= _MOST_NAMED:
        remedy = f"write one that exists: {', '.join(sorted(known))}"
    else:
        remedy = f"correct the name, or define a {kind} of this name"
    report.problem(path, name, f"there is no {kind} of this name", remedy)


def _unique(path: Path, name: Value, first: dict[str, Path], report: Report) -> None:
    if not isinstance(name, str):
        return
    other = first.setdefault(name, path)
    if other != path and not report.full:
        line = report.source.place(other)[0]
        report.problem(path, name, f"another rule has this name, at line {line}", "rename one of the two")
