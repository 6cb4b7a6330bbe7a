"""HA-ports rules beside others: what cannot work, and what works here although Azure refuses it.

    combination, over the same members                       Azure      here
    HA-ports rule on a public frontend                       refused    works
    HA ports + HA ports on one frontend                      refused    refused (checks.ports)
    HA ports + another rule, both floating                   allowed    works
    HA ports + another rule, one of them not floating        refused    works, but for the next line
    HA ports + HA ports, both translated                     refused    refused: replies could not be told apart
    internal rules + public rules                            allowed    works, but for the line above

What works here and not in Azure is refused with `compat: azure`, and a warning without. Two rules of one port that
are both carried by frames are as HA-ports rules are to each other.

Source: Azure Load Balancer documentation on HA ports, multiple frontends, limits and deployment errors.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable

from asynclb.config.checks.deliveries import BACKEND_PORT_CLASH, Delivery, deliveries
from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.model import EXTENDED, Compat, Scope
from asynclb.net.flow import Protocol

_TO_AZURE = "where this is to run in Azure too; `compat: azure` refuses it"


def check_ha_ports(draft: Draft, report: Report) -> None:
    """Refuse what cannot work; refuse what Azure refuses or warn of it, as `compat` says."""
    found = deliveries(draft)
    azure = draft.settings.compat is Compat.AZURE
    clashing = _clashes(found, report, azure=azure)
    for delivery in found:
        if delivery.ha_ports and delivery.scope is Scope.PUBLIC and not report.full:
            where = (*delivery.path, "frontend")
            frontend = draft.rules[int(delivery.path[1])].frontend
            _azure(where, frontend, "HA ports on a public frontend", "use an internal frontend", report, refuse=azure)
    internal = [delivery for delivery in found if delivery.scope is Scope.INTERNAL]
    _neighbours(internal, clashing, report, refuse=azure)


def _clashes(found: Iterable[Delivery], report: Report, *, azure: bool) -> set[str]:
    """Refuse rules whose replies could not be told apart; return the names of those refused."""
    taken: dict[tuple[Protocol, int], list[Delivery]] = defaultdict(list)
    masks: Counter[tuple[Protocol, int]] = Counter()
    refused = set()
    for delivery in found:
        if not (delivery.translated and delivery.by_frames):
            continue
        key = delivery.protocol, delivery.port
        if delivery.members & masks[key] and delivery.name not in refused and not report.full:
            refused.add(delivery.name)
            _clash(delivery, next(earlier for earlier in taken[key] if earlier.meets(delivery)), report, azure=azure)
        taken[key].append(delivery)
        masks[key] |= delivery.members
    return refused


def _clash(second: Delivery, first: Delivery, report: Report, *, azure: bool) -> None:
    what = "every port" if second.ha_ports else f"{second.protocol} {second.port}"
    law = f"rule {first.name} delivers to the same members on {what} too, and their replies could not be told apart"
    whom = "both" if azure and second.ha_ports else "one of the two"
    others = "members of its own" if second.ha_ports else "another `backend_port`"
    if not (azure or second.ha_ports):
        others += ", or `datapath: proxy`"
    remedy = f"use `floating_ip: true` on {whom}, or {others}"
    report.problem((*second.path, "name"), second.name, law, remedy, code=BACKEND_PORT_CLASH)


def _neighbours(internal: list[Delivery], clashing: set[str], report: Report, *, refuse: bool) -> None:
    """Look for an HA-ports rule and another one over the same members, of which one is not floating.

    A rule is compared with all earlier ones of a sort at once; which one it meets is looked for when it is reported.
    """
    taken: Counter[tuple[bool, bool]] = Counter()
    for position, second in enumerate(internal):
        met = (sort for sort in taken if _refused_by_azure(second, *sort) and taken[sort] & second.members)
        if any(met) and second.name not in clashing and not report.full:
            first = next(
                other
                for other in internal[:position]
                if other.meets(second) and _refused_by_azure(second, other.ha_ports, other.floating)
            )
            both = "two HA-ports rules" if first.ha_ports and second.ha_ports else "an HA-ports rule and another rule"
            what = f"{both} over the same members, here {first.name} and {second.name}, unless both are floating"
            _azure((*second.path, "name"), second.name, what, "use `floating_ip: true` on both", report, refuse=refuse)
        taken[second.ha_ports, second.floating] |= second.members


def _refused_by_azure(one: Delivery, ha_ports: bool, floating: bool) -> bool:
    return (one.ha_ports or ha_ports) and not (one.floating and floating)


def _azure(path: tuple[str | int, ...], value: str, what: str, remedy: str, report: Report, *, refuse: bool) -> None:
    if refuse:
        report.problem(path, value, f"Azure refuses {what}", f"{remedy}, {EXTENDED}")
    else:
        report.warning(path, value, f"this works here, and Azure refuses {what}", f"{remedy} {_TO_AZURE}")
