"""What Azure refuses of rules because they reach the same members: refused with `compat: azure` only.

A set of members is an integer with one bit per address, so that two sets overlap if `one & other`: 1,500 rules over
pools of 5,000 members are compared in milliseconds.

Source: Azure Load Balancer documentation on multiple frontends, HA ports, deployment errors and limits.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass

from asynclb.config.checks.frontends import scope_of
from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.errors import Path
from asynclb.model import Scope
from asynclb.net.address import Address
from asynclb.net.flow import Protocol

MAX_RULES_PER_MEMBER = 300
MAX_PER_FRONTEND = 10_000  # members x rules
MAX_OF_ALL_FRONTENDS = 500_000  # members x rules
BACKEND_PORT_CLASH = "RulesOfSameLoadBalancerTypeUseSameBackendPortProtocolAndIPConfig"
RULE_COUNT = "LoadBalancerRuleCountLimitReachedForNic"
EXTENDED = "or write `compat: extended`"


@dataclass(frozen=True, slots=True)
class _Delivery:
    """Where a rule delivers to: members as bits, and the port, 0 for HA ports."""

    name: str
    path: Path
    scope: Scope
    protocol: Protocol
    port: int
    members: int
    floating: bool

    def meets(self, other: "_Delivery") -> bool:
        """Return whether both reach a member."""
        return self.members & other.members != 0


def check_azure_members(draft: Draft, report: Report) -> None:
    """Refuse rules whose replies could not be told apart, and more rules than a member or a frontend may have."""
    deliveries = _deliveries(draft)
    same_port: dict[tuple[Scope, Protocol, int], list[_Delivery]] = defaultdict(list)
    for delivery in deliveries:
        if not delivery.floating and delivery.protocol is not Protocol.ALL:
            same_port[delivery.scope, delivery.protocol, delivery.port].append(delivery)
    for found in same_port.values():
        _same_backend_port(found, report)
    _ha_ports([delivery for delivery in deliveries if delivery.scope is Scope.INTERNAL], report)
    _rules_per_member(draft, report)
    _members_per_frontend(draft, report)


def _deliveries(draft: Draft) -> list[_Delivery]:
    masks = _masks(draft)
    found = []
    for index, rule in draft.rules.items():
        frontend = draft.frontends.get(rule.frontend)
        if frontend is not None:
            port = rule.frontend_port if rule.backend_port is None else rule.backend_port
            members, scope = masks.get(rule.backend_pool, 0), scope_of(frontend)
            delivery = _Delivery(rule.name, ("rules", index), scope, rule.protocol, port, members, rule.floating_ip)
            found.append(delivery)
    return found


def _masks(draft: Draft) -> dict[str, int]:
    bits: dict[Address, int] = {}
    masks = {}
    for name, pool in draft.pools.items():
        field = bytearray((len(bits) + len(pool.members)) // 8 + 1)
        for member in pool.members.values():
            bit = bits.setdefault(member.address, len(bits))
            field[bit // 8] |= 1 << bit % 8
        masks[name] = int.from_bytes(field, "little")
    return masks


def _same_backend_port(found: list[_Delivery], report: Report) -> None:
    taken = 0
    for position, delivery in enumerate(found):
        if delivery.members & taken and not report.full:
            other = next(earlier for earlier in found[:position] if earlier.meets(delivery))
            law = f"rule {other.name} delivers to the same members on {delivery.protocol} {delivery.port}"
            remedy = f"use another backend port or `floating_ip: true`, {EXTENDED}"
            path = (*delivery.path, "backend_port")
            report.problem(path, delivery.port, law, remedy, code=BACKEND_PORT_CLASH)
        taken |= delivery.members


def _ha_ports(internal: list[_Delivery], report: Report) -> None:
    """Refuse an HA-ports rule beside another internal rule over the same members, unless both are floating."""
    reported: set[Path] = set()
    for position, ha_rule in enumerate(internal):
        if ha_rule.protocol is not Protocol.ALL or report.full:
            continue
        for other_position, other in enumerate(internal):
            if other is ha_rule or (ha_rule.floating and other.floating) or not ha_rule.meets(other):
                continue
            first, second = (other, ha_rule) if other_position < position else (ha_rule, other)
            if second.path not in reported:
                reported.add(second.path)
                law = f"rule {first.name} reaches the same members, and one of the two is an HA-ports rule"
                remedy = f"use `floating_ip: true` on both, {EXTENDED}"
                report.problem((*second.path, "name"), second.name, law, remedy)


def _rules_per_member(draft: Draft, report: Report) -> None:
    rules_of_pool = Counter(draft.pools_of_rules())
    rules_of: Counter[Address] = Counter()
    for name, pool in draft.pools.items():
        reported = False
        for index, member in pool.members.items():
            rules_of[member.address] += rules_of_pool[name]
            if rules_of[member.address] > MAX_RULES_PER_MEMBER and not reported:
                reported = True  # one member stands for the pool
                law = f"{rules_of[member.address]} rules reach this member, and Azure allows {MAX_RULES_PER_MEMBER}"
                path = ("backend_pools", name, "members", index, "address")
                remedy = f"spread the rules over more members, {EXTENDED}"
                report.problem(path, member.address, law, remedy, code=RULE_COUNT)


def _members_per_frontend(draft: Draft, report: Report) -> None:
    per_frontend: Counter[str] = Counter()
    for rule in draft.rules.values():
        pool = draft.pools.get(rule.backend_pool)
        per_frontend[rule.frontend] += len(pool.members) if pool is not None else 0
    for name, found in per_frontend.items():
        if found > MAX_PER_FRONTEND:
            law = f"its rules have {found:,} members together, and Azure allows {MAX_PER_FRONTEND:,}"
            report.problem(("frontends", name), name, law, f"spread the rules over more frontends, {EXTENDED}")
    if (total := sum(per_frontend.values())) > MAX_OF_ALL_FRONTENDS:
        law = f"all rules have {total:,} members together, and Azure allows {MAX_OF_ALL_FRONTENDS:,}"
        report.problem(("rules",), "", law, f"use smaller pools or fewer rules, {EXTENDED}")
