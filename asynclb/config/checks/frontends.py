"""Frontends: one address each, and somebody who may reach it."""

from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.config.schema import FrontendSpec
from asynclb.model import Scope
from asynclb.model.frontend import default_scope
from asynclb.net.address import Address


def check_frontends(draft: Draft, report: Report) -> None:
    """Refuse frontends that overlap or cannot be; warn of those that nobody can reach."""
    owners: dict[Address, str] = {}
    routed: dict[tuple[str, int], str] = {}
    for name, frontend in draft.frontends.items():
        other = owners.setdefault(frontend.address, name)
        if other != name:
            remedy = "give each frontend its own address; one frontend may serve many rules"
            report.problem(("frontends", name, "address"), frontend.address, f"frontend {other} has it too", remedy)
        if frontend.routed:
            _routed(name, frontend, routed, report)
        _allow(name, frontend, report)
        _zones(name, frontend, draft, report)


def scope_of(frontend: FrontendSpec) -> Scope:
    """Return the scope in force."""
    return frontend.scope if frontend.scope is not None else default_scope(frontend.address)


def _routed(name: str, frontend: FrontendSpec, seen: dict[tuple[str, int], str], report: Report) -> None:
    path = ("frontends", name, "routed")
    if frontend.interface is None:
        remedy = "add `interface: ...`, the interface that routes point at"
        report.problem(path, True, "a routed frontend takes what arrives on its interface, and has none", remedy)
        return
    other = seen.setdefault((frontend.interface, frontend.address.version), name)
    if other != name:
        rule = f"frontend {other} is routed on {frontend.interface} too, for IPv{frontend.address.version}"
        report.problem(path, True, rule, "route one frontend per interface and address family")


def _zones(name: str, frontend: FrontendSpec, draft: Draft, report: Report) -> None:
    for index, zone in enumerate(frontend.zones):
        if zone in frontend.zones[:index]:
            law = f"zone {zone} is named twice; each of a frontend's zones is named once"
            report.problem(("frontends", name, "zones", index), zone, law, "remove it, or write the one that was meant")
            break
    if not frontend.zone_affinity:
        return
    path = ("frontends", name, "zone_affinity")
    if not frontend.zones:
        law = "a zone-redundant frontend prefers no zone"
        report.problem(path, True, law, 'name the zones to prefer, as in `zones: ["1"]`, or remove it')
        return
    for rule in draft.rules.values():
        pool = draft.pools.get(rule.backend_pool) if rule.frontend == name else None
        if pool is not None and pool.whole and not any(m.zone in frontend.zones for m in pool.members.values()):
            law = f"no member of pool {rule.backend_pool} of rule {rule.name} is in its zones, so none is preferred"
            report.warning(path, True, law, "give members a `zone`, or remove it")
            return


def _allow(name: str, frontend: FrontendSpec, report: Report) -> None:
    version = frontend.address.version
    for index, prefix in enumerate(frontend.allow or ()):
        if prefix.version != version:
            rule = f"the frontend's address is IPv{version}, so this prefix never matches"
            report.problem(
                ("frontends", name, "allow", index), prefix, rule, "remove it, or write it for a frontend of its family"
            )
    if frontend.allow or (frontend.allow is None and scope_of(frontend) is Scope.INTERNAL):
        return
    everyone = "0.0.0.0/0" if version == 4 else "::/0"
    kind = "a public frontend without `allow`" if frontend.allow is None else "an empty `allow`"
    remedy = f'open it to everyone with `allow: ["{everyone}"]`, or to the prefixes that you name'
    report.warning(("frontends", name), frontend.address, f"{kind} admits nobody", remedy)
