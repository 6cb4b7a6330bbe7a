"""Every name that something refers to exists, and every rule's name is its own."""

from collections.abc import Collection

from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.errors import Path

_MOST_NAMED = 8  # names listed in a remedy


def check_references(draft: Draft, report: Report) -> None:
    """Refuse dangling references and rules of one name."""
    for index, rule in draft.rules.items():
        path = ("rules", index)
        _refer((*path, "frontend"), rule.frontend, draft.names["frontends"], "frontend", report)
        _refer((*path, "backend_pool"), rule.backend_pool, draft.names["backend_pools"], "backend pool", report)
        if rule.probe is not None:
            _refer((*path, "probe"), rule.probe, draft.names["probes"], "probe", report)
    for index, nat in draft.nat_rules.items():
        path = ("inbound_nat_rules", index)
        _refer((*path, "frontend"), nat.frontend, draft.names["frontends"], "frontend", report)
        _refer((*path, "backend_pool"), nat.backend_pool, draft.names["backend_pools"], "backend pool", report)
        pool = draft.pools.get(nat.backend_pool)
        if nat.member is not None and pool is not None and pool.whole:
            _refer((*path, "member"), nat.member, pool.names, f"member of pool {nat.backend_pool}", report)
    for index, outbound in draft.outbound_rules.items():
        path = ("outbound_rules", index)
        for position, frontend in enumerate(outbound.frontends):
            _refer((*path, "frontends", position), frontend, draft.names["frontends"], "frontend", report)
        _refer((*path, "backend_pool"), outbound.backend_pool, draft.names["backend_pools"], "backend pool", report)
    _unique_names(draft, report)


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


def _unique_names(draft: Draft, report: Report) -> None:
    first: dict[str, Path] = {}
    sections = (
        ("rules", draft.rules),
        ("inbound_nat_rules", draft.nat_rules),
        ("outbound_rules", draft.outbound_rules),
    )
    for section, parts in sections:
        for index, part in parts.items():
            path: Path = (section, index, "name")
            if part.name in first:
                line = report.source.place(first[part.name])[0]
                report.problem(path, part.name, f"another rule has this name, at line {line}", "rename one of the two")
            else:
                first[part.name] = path
