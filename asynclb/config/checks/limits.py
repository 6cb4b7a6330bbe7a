"""The limits of the cloud's balancer, as defaults that `limits` raises; `compat: azure` holds on to them.

Source: Azure subscription and service limits, load balancer, 2024-10.
"""

from collections import Counter

from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.config.schema import LimitsSpec
from asynclb.errors import Path
from asynclb.model import Compat
from asynclb.net.address import Address

RULE_COUNT = "LoadBalancerRuleCountLimitReachedForNic"
"""Azure's name for too many rules over one member. Source: the common deployment errors of Azure Load Balancer."""

_AZURE = LimitsSpec()


def check_limits(draft: Draft, report: Report) -> None:
    """Refuse more objects than the limits allow, and limits that Azure does not raise."""
    limits = draft.settings.limits
    rules, nat_rules = len(draft.rules), len(draft.nat_rules)
    _limit(("frontends",), len(draft.frontends), "frontends", "frontends", limits, report)
    _limit(("outbound_rules",), len(draft.outbound_rules), "outbound_rules", "outbound rules", limits, report)
    section = "rules" if rules >= nat_rules else "inbound_nat_rules"
    both = "load-balancing and inbound NAT rules together"
    _limit((section,), rules + nat_rules, "rules", both, limits, report)
    for name, pool in draft.pools.items():
        path = ("backend_pools", name, "members")
        _limit(path, len(pool.members), "pool_members", "members in one pool", limits, report)
    _rules_per_member(draft, limits, report)
    _members_per_frontend(draft, limits, report)
    if draft.settings.compat is Compat.AZURE:
        _raised(limits, report)


def _limit(path: Path, found: int, key: str, what: str, limits: LimitsSpec, report: Report) -> None:
    most = getattr(limits, key)
    if found > most:
        remedy = f"remove {found - most:,}, or raise `limits.{key}`"
        report.problem(path, f"{found:,}", f"there are at most {most:,} {what}", remedy)


def _rules_per_member(draft: Draft, limits: LimitsSpec, report: Report) -> None:
    of_one = Counter((nat.backend_pool, nat.member) for nat in draft.nat_rules.values() if nat.member is not None)
    of_pool = Counter(draft.pools_of_rules())
    of_pool.subtract(pool for pool, _ in of_one.elements())
    rules_of: dict[Address, int] = {}
    for name, pool in draft.pools.items():
        reported = False
        for index, member in pool.members.items():
            found = rules_of.get(member.address, 0) + of_pool[name] + (of_one[name, member.name] if of_one else 0)
            rules_of[member.address] = found
            if found > limits.rules_per_member and not reported:
                reported = True  # one member stands for the pool
                law = f"{found:,} rules reach this member, and at most {limits.rules_per_member:,} may"
                path = ("backend_pools", name, "members", index, "address")
                remedy = "spread the rules over more members, or raise `limits.rules_per_member`"
                report.problem(path, member.address, law, remedy, code=RULE_COUNT)


def _members_per_frontend(draft: Draft, limits: LimitsSpec, report: Report) -> None:
    per_frontend: Counter[str] = Counter()
    for rule in draft.rules.values():
        pool = draft.pools.get(rule.backend_pool)
        per_frontend[rule.frontend] += len(pool.members) if pool is not None else 0
    for name, found in per_frontend.items():
        if found > limits.members_per_frontend:
            law = f"its rules have {found:,} members together, and at most {limits.members_per_frontend:,} are allowed"
            remedy = "spread the rules over more frontends, or raise `limits.members_per_frontend`"
            report.problem(("frontends", name), name, law, remedy)
    if (total := sum(per_frontend.values())) > limits.members_of_all_frontends:
        law = f"all rules have {total:,} members together, and at most {limits.members_of_all_frontends:,} are allowed"
        remedy = "use smaller pools or fewer rules, or raise `limits.members_of_all_frontends`"
        report.problem(("rules",), "", law, remedy)


def _raised(limits: LimitsSpec, report: Report) -> None:
    for key in LimitsSpec.model_fields:
        wanted, most = getattr(limits, key), getattr(_AZURE, key)
        if wanted > most:
            remedy = "remove the key, or write `compat: extended`"
            report.problem(("limits", key), f"{wanted:,}", f"Azure's limit is {most:,}", remedy)
