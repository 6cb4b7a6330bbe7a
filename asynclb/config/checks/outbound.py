"""Outbound rules: the ports of all members fit into the addresses.

Source: 64,000 SNAT ports per frontend address, allocated in blocks of 8 (Azure Load Balancer, outbound rules).
"""

from asynclb.config.checks.rules import check_families
from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.config.schema import OutboundRuleSpec
from asynclb.errors import Path

PORTS_PER_ADDRESS = 64_000
BLOCK = 8


def check_outbound(draft: Draft, report: Report) -> None:
    """Refuse allocations that do not fit, and frontends of another family than the members."""
    for index, rule in draft.outbound_rules.items():
        path = ("outbound_rules", index)
        _frontends(rule, path, draft, report)
        _allocation(rule, path, draft, report)


def _frontends(rule: OutboundRuleSpec, path: Path, draft: Draft, report: Report) -> None:
    seen: set[str] = set()
    for position, name in enumerate(rule.frontends):
        if name in seen:
            report.problem((*path, "frontends", position), name, "the frontend stands twice in the list", "remove one")
        seen.add(name)
    for name in sorted(seen, key=rule.frontends.index):
        check_families(draft, name, rule.backend_pool, path, report)


def _allocation(rule: OutboundRuleSpec, path: Path, draft: Draft, report: Report) -> None:
    where, ports = (*path, "allocated_ports"), rule.allocated_ports
    if ports % BLOCK:
        lower = ports - ports % BLOCK
        nearest = f"write {lower} or {lower + BLOCK}" if lower else f"write {BLOCK}, or 0 for the default allocation"
        report.problem(where, ports, f"ports are allocated in blocks of {BLOCK}", nearest)
        return
    pool = draft.pools.get(rule.backend_pool)
    members, addresses = len(pool.members) if pool is not None else 0, len(set(rule.frontends))
    if members * ports > addresses * PORTS_PER_ADDRESS:
        most = addresses * PORTS_PER_ADDRESS // members // BLOCK * BLOCK
        law = (
            f"{members} members need {members * ports:,} ports, "
            f"and {addresses} frontend{'s have' if addresses > 1 else ' has'} {addresses * PORTS_PER_ADDRESS:,}"
        )
        report.problem(where, ports, law, f"allocate at most {most}, or add frontends")
