"""The limits of the cloud's balancer, kept here as well: beyond them nothing is tested.

Source: Azure subscription and service limits, load balancer, 2024-10.
"""

from asynclb.config.draft import Draft
from asynclb.config.report import Report

MAX_FRONTENDS = 600
MAX_RULES = 1500  # load-balancing and inbound NAT rules together
MAX_OUTBOUND_RULES = 600
MAX_MEMBERS = 5000  # in one pool


def check_limits(draft: Draft, report: Report) -> None:
    """Refuse more objects than the limits allow."""
    rules, nat_rules = len(draft.rules), len(draft.nat_rules)
    _limit(("frontends",), len(draft.frontends), MAX_FRONTENDS, "frontends", report)
    _limit(("outbound_rules",), len(draft.outbound_rules), MAX_OUTBOUND_RULES, "outbound rules", report)
    section = "rules" if rules >= nat_rules else "inbound_nat_rules"
    _limit((section,), rules + nat_rules, MAX_RULES, "load-balancing and inbound NAT rules together", report)
    for name, pool in draft.pools.items():
        _limit(("backend_pools", name, "members"), len(pool.members), MAX_MEMBERS, "members in one pool", report)


def _limit(path: tuple[str, ...], found: int, most: int, what: str, report: Report) -> None:
    if found > most:
        remedy = f"remove {found - most:,}, or run a second instance for them"
        report.problem(path, f"{found:,}", f"there are at most {most:,} {what}", remedy)
