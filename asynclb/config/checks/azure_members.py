"""What Azure refuses of rules because they reach the same members: refused with `compat: azure` only.

What Azure refuses because of HA ports is in `ha_ports`.

Source: Azure Load Balancer documentation on multiple frontends, deployment errors and limits.
"""

from collections import Counter, defaultdict

from asynclb.config.checks.deliveries import BACKEND_PORT_CLASH, Delivery, deliveries
from asynclb.config.checks.ha_ports import EXTENDED
from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.model import Scope
from asynclb.net.address import Address
from asynclb.net.flow import Protocol

MAX_RULES_PER_MEMBER = 300
MAX_PER_FRONTEND = 10_000  # members x rules
MAX_OF_ALL_FRONTENDS = 500_000  # members x rules
RULE_COUNT = "LoadBalancerRuleCountLimitReachedForNic"


def check_azure_members(draft: Draft, report: Report) -> None:
    """Refuse rules whose replies could not be told apart, and more rules than a member or a frontend may have."""
    same_port: dict[tuple[Scope, Protocol, int], list[Delivery]] = defaultdict(list)
    for delivery in deliveries(draft):
        if not delivery.floating and not delivery.ha_ports:
            same_port[delivery.scope, delivery.protocol, delivery.port].append(delivery)
    for found in same_port.values():
        _same_backend_port(found, report)
    _rules_per_member(draft, report)
    _members_per_frontend(draft, report)


def _same_backend_port(found: list[Delivery], report: Report) -> None:
    """Refuse rules of one scope for one port of a member, but those that are refused everywhere (checks.ha_ports)."""
    taken: Counter[bool] = Counter()  # by whether frames carry the rule
    for position, delivery in enumerate(found):
        sorts = {False, not delivery.by_frames}
        if any(delivery.members & taken[sort] for sort in sorts) and not report.full:
            other = next(one for one in found[:position] if one.by_frames in sorts and one.meets(delivery))
            law = f"rule {other.name} delivers to the same members on {delivery.protocol} {delivery.port}"
            remedy = f"use another backend port or `floating_ip: true`, {EXTENDED}"
            path = (*delivery.path, "backend_port")
            report.problem(path, delivery.port, law, remedy, code=BACKEND_PORT_CLASH)
        taken[delivery.by_frames] |= delivery.members


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
