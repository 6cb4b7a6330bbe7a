"""Outbound rules: the ports of all members fit into the addresses, and a member's connections leave by one rule.

Source: 64,000 SNAT ports per frontend address, allocated in blocks of 8; an outbound rule may use the frontend of a
load-balancing rule only if that one has `disable_outbound_snat` (Azure Load Balancer, outbound rules).
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from asynclb.config.checks.frontends import scope_of
from asynclb.config.checks.rules import check_families
from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.config.schema import OutboundRuleSpec
from asynclb.errors import Path
from asynclb.model import EXTENDED, Allocation, Compat, Scope
from asynclb.net.address import Address
from asynclb.net.flow import Protocol
from asynclb.tables.snat import BLOCK, MAX_FRONTENDS, Demand, allot, default_ports, free_blocks

PORTS_UNALIGNED = "SNAT_PORTS_NOT_IN_BLOCKS"
PORTS_EXCEEDED = "SNAT_PORTS_EXCEEDED"
SNAT_ENABLED = "OUTBOUND_SNAT_ENABLED"
MEMBER_TAKEN = "OUTBOUND_MEMBER_TAKEN"
"""The problem codes. Azure's own are not documented."""


def check_outbound(draft: Draft, report: Report) -> None:
    """Refuse allocations that do not fit, and rules that contradict each other."""
    used = {name for rule in draft.outbound_rules.values() for name in rule.frontends}
    free = {one.address: free_blocks(_ranges(name, draft)) for name, one in draft.frontends.items() if name in used}
    left: dict[Address, Collection[int]] = dict(free)
    demands: list[Demand] = []
    for index, rule in draft.outbound_rules.items():
        path = ("outbound_rules", index)
        _frontends(rule, path, draft, report)
        demand = _demand(rule, path, draft, report)
        if demand is not None and _fits(demand, demands, free, left, path, report):
            demands.append(demand)
    _members(draft, report)
    if draft.settings.compat is Compat.AZURE:
        _snat_enabled(draft, report)
        _beyond_azure(draft, report)


def _frontends(rule: OutboundRuleSpec, path: Path, draft: Draft, report: Report) -> None:
    seen: set[str] = set()
    for position, name in enumerate(rule.frontends):
        if name in seen:
            report.problem((*path, "frontends", position), name, "the frontend stands twice in the list", "remove one")
        seen.add(name)
    for name in sorted(seen, key=rule.frontends.index):
        check_families(draft, name, rule.backend_pool, path, report)
    if len(seen) > MAX_FRONTENDS:
        law = f"an outbound rule uses at most {MAX_FRONTENDS} frontends"
        report.problem((*path, "frontends"), len(seen), law, "divide the pool, and give each part a rule of its own")


def _demand(rule: OutboundRuleSpec, path: Path, draft: Draft, report: Report) -> Demand | None:
    """Return what a rule asks for; None if that cannot be said, or if its members share what there is."""
    where, ports = (*path, "allocated_ports"), rule.allocated_ports
    if ports % BLOCK:
        lower = ports - ports % BLOCK
        nearest = f"write {lower} or {lower + BLOCK}" if lower else f"write {BLOCK}, or 0 for the default allocation"
        report.problem(where, ports, f"ports are allocated in blocks of {BLOCK}", nearest, code=PORTS_UNALIGNED)
        return None
    if rule.allocation is Allocation.SHARED:
        if ports:
            law = "with `allocation: shared` every member may use every port"
            report.problem(where, ports, law, "remove it, or write `allocation: member`")
        return None
    pool = draft.pools.get(rule.backend_pool)
    addresses = tuple(
        dict.fromkeys(draft.frontends[name].address for name in rule.frontends if name in draft.frontends)
    )
    if pool is None or len(addresses) < len(set(rule.frontends)):
        return None
    members = tuple(member.name for member in pool.members.values())
    each = ports or default_ports(len(members), len(addresses))
    return Demand(rule.name, members, addresses, each // BLOCK)


def _fits(
    demand: Demand,
    before: list[Demand],
    free: Mapping[Address, tuple[int, ...]],
    left: dict[Address, Collection[int]],
    path: Path,
    report: Report,
) -> bool:
    """Return whether a demand fits beside those before; report it if not. What it takes is taken from `left`."""
    members, addresses, where = len(demand.members), len(demand.addresses), (*path, "allocated_ports")
    room = sum(len(free[address]) for address in demand.addresses)
    if demand.blocks * members > room:
        law = (
            f"{members:,} member{'s need' if members > 1 else ' needs'} {members * demand.blocks * BLOCK:,} ports, "
            f"and {addresses} frontend{'s have' if addresses > 1 else ' has'} {room * BLOCK:,}"
        )
        most = room // members * BLOCK
        remedy = (
            f"allocate at most {most}, or add frontends" if most else "add frontends, or write `allocation: shared`"
        )
        report.problem(where, demand.blocks * BLOCK, law, remedy, code=PORTS_EXCEEDED)
        return False
    found = allot([demand], {address: left[address] for address in demand.addresses}, {})
    if found is None:
        others = ", ".join(one.rule for one in before if set(one.addresses) & set(demand.addresses))
        law = f"with the ports of {others} on the same frontends there are not enough left for {members} members"
        remedy = "allocate fewer ports to each member, or add frontends"
        report.problem(where, demand.blocks * BLOCK, law, remedy, code=PORTS_EXCEEDED)
        return False
    for address in demand.addresses:
        given = {block for blocks in found.values() for at, block in blocks if at == address}
        left[address] = [block for block in left[address] if block not in given]
    return True


def _ranges(frontend: str, draft: Draft) -> Iterator[tuple[int, int]]:
    """Yield the ports that rules have on a frontend."""
    for rule in draft.rules.values():
        if rule.frontend == frontend and rule.frontend_port:
            yield rule.frontend_port, rule.frontend_port
    for nat in draft.nat_rules.values():
        if nat.frontend == frontend and nat.frontend_port_range is not None:
            yield nat.frontend_port_range
        elif nat.frontend == frontend and nat.frontend_port is not None:
            yield nat.frontend_port, nat.frontend_port


def _members(draft: Draft, report: Report) -> None:
    """Refuse a second rule for one member's connections of one protocol."""
    taken: dict[tuple[Address, Protocol], str] = {}
    for index, rule in draft.outbound_rules.items():
        pool = draft.pools.get(rule.backend_pool)
        protocols = (Protocol.TCP, Protocol.UDP) if rule.protocol is Protocol.ALL else (rule.protocol,)
        wanted = [(m, p) for m in (pool.members.values() if pool is not None else ()) for p in protocols]
        clash = next(((m, p) for m, p in wanted if (m.address, p) in taken), None)
        if clash is not None:
            member, protocol = clash
            law = f"rule {taken[member.address, protocol]} translates {protocol} of member {member.name} already"
            remedy = "name another pool or protocol, or add the frontends to that rule"
            report.problem(("outbound_rules", index, "backend_pool"), rule.backend_pool, law, remedy, code=MEMBER_TAKEN)
            continue
        taken.update(((member.address, protocol), rule.name) for member, protocol in wanted)


def _snat_enabled(draft: Draft, report: Report) -> None:
    """Refuse outbound rules on frontends whose load-balancing rules would translate as well."""
    enabled: dict[str, list[str]] = defaultdict(list)
    for rule in draft.rules.values():
        frontend = draft.frontends.get(rule.frontend)
        if not rule.disable_outbound_snat and frontend is not None and scope_of(frontend) is Scope.PUBLIC:
            enabled[rule.frontend].append(rule.name)
    for index, outbound in draft.outbound_rules.items():
        for position, name in enumerate(outbound.frontends):
            if name in enabled:
                law = f"rule {enabled[name][0]} on this frontend translates outbound connections as well"
                remedy = f"write `disable_outbound_snat: true` in {', '.join(enabled[name])}, {EXTENDED}"
                path = ("outbound_rules", index, "frontends", position)
                report.problem(path, name, law, remedy, code=SNAT_ENABLED)


def _beyond_azure(draft: Draft, report: Report) -> None:
    for index, rule in draft.outbound_rules.items():
        if rule.allocation is Allocation.SHARED:
            law = "Azure gives each member ports of its own"
            report.problem(("outbound_rules", index, "allocation"), "shared", law, f"remove it, {EXTENDED}")
        if rule.direct is not None:
            law = "Azure translates to every public address and to no private one"
            report.problem(("outbound_rules", index, "direct"), "", law, f"remove it, {EXTENDED}")
