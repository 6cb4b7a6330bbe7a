"""What Azure refuses of members, and of rules because they reach the same ones: refused with `compat: azure` only.

What Azure refuses because of HA ports is in `ha_ports`, its limits are in `limits`.

Source: Azure Load Balancer documentation on multiple frontends, and deployment errors.
"""

from collections import Counter, defaultdict

from asynclb.config.checks.deliveries import BACKEND_PORT_CLASH, Delivery, deliveries
from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.config.schema import MemberSpec
from asynclb.errors import Path
from asynclb.model import EXTENDED, Scope, unknown_to_azure
from asynclb.net.flow import Protocol


def check_azure_members(draft: Draft, report: Report) -> None:
    """Refuse members that are not like others, and rules of one scope that deliver to one port of a member."""
    for name, pool in draft.pools.items():
        for index, member in pool.members.items():
            _unlike_others(member, ("backend_pools", name, "members", index), report)
    same_port: dict[tuple[Scope, Protocol, int], list[Delivery]] = defaultdict(list)
    for delivery in deliveries(draft):
        if not delivery.floating and not delivery.ha_ports:
            same_port[delivery.scope, delivery.protocol, delivery.port].append(delivery)
    for found in same_port.values():
        _same_backend_port(found, report)


def _unlike_others(member: MemberSpec, path: Path, report: Report) -> None:
    for found in unknown_to_azure(member.weight, member.priority, member.admin_state):
        report.problem((*path, found.key), found.value, found.law, found.remedy)


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
