"""Load-balancing and inbound NAT rules, each with the frontend, pool and members that it joins."""

from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.config.schema import InboundNatRuleSpec, RuleSpec
from asynclb.errors import Path
from asynclb.model import AdminState, ProxyProtocol
from asynclb.net.flow import Protocol

RANGE_EXHAUSTED = "NAT_RANGE_EXHAUSTED"
"""The problem code of a range with fewer ports than the pool has members."""


def check_rules(draft: Draft, report: Report) -> None:
    """Refuse rules that contradict themselves or join what does not fit."""
    for index, rule in draft.rules.items():
        path = ("rules", index)
        _ports(rule, path, report)
        _proxy_protocol(rule, path, draft.settings.transparent, report)
        check_families(draft, rule.frontend, rule.backend_pool, path, report)
    _admin_states(draft, report)
    for index, nat in draft.nat_rules.items():
        path = ("inbound_nat_rules", index)
        _nat_ports(nat, path, draft, report)
        check_families(draft, nat.frontend, nat.backend_pool, path, report)


def check_families(draft: Draft, frontend: str, pool: str, path: Path, report: Report) -> None:
    """Refuse a rule whose frontend and members are of different address families."""
    front, back = draft.frontends.get(frontend), draft.pools.get(pool)
    if front is None or back is None or back.version is None or back.version == front.address.version:
        return
    rule = f"its members are IPv{back.version} and frontend {frontend} is IPv{front.address.version}"
    remedy = f"name a pool of IPv{front.address.version} members; addresses are not translated between families"
    report.problem((*path, "backend_pool"), pool, rule, remedy)


def _ports(rule: RuleSpec, path: Path, report: Report) -> None:
    every_protocol = rule.protocol is Protocol.ALL
    ports = {"frontend_port": rule.frontend_port, "backend_port": rule.backend_port}
    for key, port in ports.items():
        if port is None or (port == 0) == every_protocol:
            continue
        if every_protocol:
            law, remedy = "protocol `all` takes every port (HA ports)", f"write `{key}: 0`, or protocol `tcp` or `udp`"
        else:
            law, remedy = "port 0 is every port, which needs protocol `all`", "write a port, or `protocol: all`"
        report.problem((*path, key), port, law, remedy)


def _proxy_protocol(rule: RuleSpec, path: Path, transparent: bool, report: Report) -> None:
    if rule.proxy_protocol is ProxyProtocol.NONE:
        return
    where = (*path, "proxy_protocol")
    if rule.transparent if rule.transparent is not None else transparent:
        law = "members see the client's address already, as the rule is transparent"
        report.problem(where, rule.proxy_protocol, law, "remove it, or add `transparent: false`")
    if rule.protocol is Protocol.ALL:
        law = "PROXY protocol is for tcp and udp"
        report.problem(where, rule.proxy_protocol, law, "remove it, or write `protocol: tcp`")


def _admin_states(draft: Draft, report: Report) -> None:
    """Warn of members that are put down, and are not where a rule has no probe. Source: Azure, admin state."""
    unprobed = {rule.backend_pool: rule.name for rule in draft.rules.values() if rule.probe is None}
    for name in unprobed.keys() & draft.pools.keys():
        for index, member in draft.pools[name].members.items():
            if member.admin_state is AdminState.DOWN:
                law = f"rule {unprobed[name]} has no probe, and without one `down` takes no flows away from a member"
                remedy = "give the rule a `probe`, or write `drain`, which holds in every rule"
                report.warning(("backend_pools", name, "members", index, "admin_state"), "down", law, remedy)


def _nat_ports(nat: InboundNatRuleSpec, path: Path, draft: Draft, report: Report) -> None:
    if (nat.frontend_port is None) == (nat.frontend_port_range is None):
        law = "an inbound NAT rule has either `frontend_port` or `frontend_port_range`"
        remedy = "add one of them" if nat.frontend_port is None else "remove one of them"
        report.problem(path, "", law, remedy)
        return
    if nat.frontend_port_range is not None and nat.member is not None:
        law = "a range is for every member of the pool"
        report.problem((*path, "member"), nat.member, law, "remove `member`, or write `frontend_port` for it alone")
        return
    _nat_size(nat, path, draft, report)


def _nat_size(nat: InboundNatRuleSpec, path: Path, draft: Draft, report: Report) -> None:
    pool = draft.pools.get(nat.backend_pool)
    if pool is None or nat.member is not None:
        return
    members = len(pool.members)
    if nat.frontend_port is not None and members > 1:
        law = f"one port leads to one member, and pool {nat.backend_pool} has {members}"
        remedy = "name the `member`, or write a `frontend_port_range`"
        report.problem((*path, "frontend_port"), nat.frontend_port, law, remedy)
    if nat.frontend_port_range is not None:
        first, last = nat.frontend_port_range
        if last - first + 1 < members:
            law = (
                f"the range of rule {nat.name} has room for {last - first + 1} of the {members} members "
                f"of pool {nat.backend_pool}"
            )
            remedy = f"make it at least `{first}-{first + members - 1}`"
            if first + members - 1 > 65_535:
                remedy = f"begin it at {65_536 - members} or lower"
            report.problem((*path, "frontend_port_range"), f"{first}-{last}", law, remedy, code=RANGE_EXHAUSTED)
