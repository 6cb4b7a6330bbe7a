"""What Azure refuses and asynclb can do: refused with `compat: azure` only.

What it does not know at all is refused as well, such as weights: there nothing would do what the key says.

Source: Azure Load Balancer documentation on probes, TCP reset, HA ports, floating IP, deployment errors and limits.
"""

from asynclb.config.checks.azure_members import check_azure_members
from asynclb.config.checks.azure_probes import check_azure_probes
from asynclb.config.checks.frontends import scope_of
from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.config.schema import InboundNatRuleSpec, RuleSpec
from asynclb.config.values import show_duration
from asynclb.errors import Path
from asynclb.model import EXTENDED, Compat, Persistence, ProxyProtocol, Scope
from asynclb.net.flow import Protocol

MIN_IDLE_S = 240.0
SURE_IDLE_S = 1800.0  # older documents end here, newer ones at 100 minutes
MAX_FRONTEND_PORT = 65_534


def check_azure(draft: Draft, report: Report) -> None:
    """Refuse what Azure refuses, if the configuration asks for that."""
    if draft.settings.compat is not Compat.AZURE:
        return
    check_azure_probes(draft, report)
    if not draft.settings.transparent:
        _opaque(("transparent",), report)
    for index, rule in draft.rules.items():
        _idle(rule.idle_timeout, ("rules", index), report, warn=True)
        _frontend_port(rule, ("rules", index), report)
        _by_route(rule, ("rules", index), draft, report)
        _persistence(rule, ("rules", index), report)
        _source(rule, ("rules", index), report)
    for index, nat in draft.nat_rules.items():
        _idle(nat.idle_timeout, ("inbound_nat_rules", index), report, warn=True)
        _nat_frontend_port(nat, ("inbound_nat_rules", index), report)
    for index, outbound in draft.outbound_rules.items():
        _idle(outbound.idle_timeout, ("outbound_rules", index), report, warn=False)
        for position, name in enumerate(outbound.frontends):
            frontend = draft.frontends.get(name)
            if frontend is not None and scope_of(frontend) is Scope.INTERNAL:
                path = ("outbound_rules", index, "frontends", position)
                report.problem(
                    path, name, "outbound rules need public frontends in Azure", f"name a public one, {EXTENDED}"
                )
    for name, frontend in draft.frontends.items():
        if frontend.zone_affinity:
            law = "Azure spreads over all zones and has no zone affinity"
            report.problem(("frontends", name, "zone_affinity"), True, law, f"remove it, {EXTENDED}")
    check_azure_members(draft, report)


def _idle(idle_s: float, path: Path, report: Report, *, warn: bool) -> None:
    where = (*path, "idle_timeout")
    if idle_s < MIN_IDLE_S:
        rule = f"Azure's shortest idle timeout is {show_duration(MIN_IDLE_S)}"
        report.problem(where, show_duration(idle_s), rule, f"raise it, {EXTENDED}")
    elif warn and idle_s > SURE_IDLE_S:
        rule = f"some of Azure's tools and documents end at {show_duration(SURE_IDLE_S)}"
        report.warning(where, show_duration(idle_s), rule, "lower it, or send keep-alives")


def _frontend_port(rule: RuleSpec, path: Path, report: Report) -> None:
    if rule.frontend_port > MAX_FRONTEND_PORT:
        law = f"Azure's frontend ports end at {MAX_FRONTEND_PORT}"
        report.problem((*path, "frontend_port"), rule.frontend_port, law, f"use a lower one, {EXTENDED}")


def _persistence(rule: RuleSpec, path: Path, report: Report) -> None:
    if rule.persistence_on_unhealthy is not Persistence.DEFAULT:
        law = "in Azure a member that goes down keeps its TCP connections and nothing else"
        where = (*path, "persistence_on_unhealthy")
        report.problem(where, rule.persistence_on_unhealthy, law, f"remove it, {EXTENDED}")


def _source(rule: RuleSpec, path: Path, report: Report) -> None:
    if rule.transparent is False:
        _opaque((*path, "transparent"), report)
    if rule.proxy_protocol is not ProxyProtocol.NONE:
        law = "Azure passes packets on and has no PROXY protocol"
        report.problem((*path, "proxy_protocol"), rule.proxy_protocol, law, f"remove it, {EXTENDED}")


def _opaque(path: Path, report: Report) -> None:
    law = "in Azure members see the client's address as source"
    report.problem(path, False, law, f"remove it, {EXTENDED}")


def _by_route(rule: RuleSpec, path: Path, draft: Draft, report: Report) -> None:
    """Warn of what Azure accepts and does not do for traffic that a route led to the balancer."""
    frontend = draft.frontends.get(rule.frontend)
    if rule.protocol is not Protocol.ALL or frontend is None or not frontend.routed:
        return
    if "idle_timeout" in rule.model_fields_set:
        law = "Azure does not keep idle timeouts of traffic that comes by a route"
        report.warning((*path, "idle_timeout"), show_duration(rule.idle_timeout), law, "do not count on it there")
    if rule.tcp_reset:
        law = "Azure does not send resets where appliances are in the path of HA ports"
        report.warning((*path, "tcp_reset"), True, law, "do not count on it there")


def _nat_frontend_port(nat: InboundNatRuleSpec, path: Path, report: Report) -> None:
    last = nat.frontend_port_range[1] if nat.frontend_port_range is not None else nat.frontend_port
    if last is not None and last > MAX_FRONTEND_PORT:
        key = "frontend_port" if nat.frontend_port_range is None else "frontend_port_range"
        law = f"Azure's frontend ports end at {MAX_FRONTEND_PORT}"
        report.problem((*path, key), last, law, f"end at a lower one, {EXTENDED}")
