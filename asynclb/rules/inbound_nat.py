"""Inbound NAT rules: one frontend port for each member, or one port for one member.

Laws:
  1. A member keeps its port for as long as it is in the pool, whoever comes and goes beside it.
  2. A new member gets the lowest free port; several are served in the order of the configuration.
  3. Ports are a function of (the ports before, the configuration): the controller keeps what was assigned, over a
     restart as well (`control.nat_ports`). With nothing kept, members take ports in the order of the configuration.
  4. No probe, weight, priority or admin state keeps a port from its member. Source: Azure Load Balancer, inbound NAT
     rules and admin state.

A port becomes a row over a pool of one, which is called `pool/member`: names in a configuration have no `/`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from asynclb.errors import Problem
from asynclb.model import AdminState, BackendPool, InboundNatRule, LoadBalancingRule, Member, Model
from asynclb.net.flow import Protocol
from asynclb.tables.row import Delivery, FrontendKey, Row

NatPorts = Mapping[str, Mapping[str, int]]
"""Inbound NAT rule -> member -> frontend port."""


def assign_ports(model: Model, before: NatPorts) -> NatPorts:
    """Return the ports of every inbound NAT rule of the model, given those of the generation before.

    Raises: ValueError -> a range has fewer ports than the pool has members, which `config` refuses.
    """
    ports = {}
    for rule in model.inbound_nat_rules:
        members = [member.name for member in members_of(model, rule)]
        ports[rule.name] = assign_range(rule.first_port, rule.last_port, members, before.get(rule.name, {}))
    return ports


def assign_range(first: int, last: int, members: Sequence[str], before: Mapping[str, int]) -> Mapping[str, int]:
    """Return a port for each member: the one it had if the range still has it, else the lowest free one.

    Raises: ValueError -> the range has fewer ports than there are members.
    """
    if last - first + 1 < len(members):
        raise ValueError(f"ports {first}-{last} are fewer than {len(members)} members")
    kept = {name: port for name in members if (port := before.get(name)) is not None and first <= port <= last}
    taken = frozenset(kept.values())
    free = (port for port in range(first, last + 1) if port not in taken)
    return {name: kept[name] if name in kept else next(free) for name in members}


def members_of(model: Model, rule: InboundNatRule) -> tuple[Member, ...]:
    """Return the members that a rule gives ports to, in the pool's order."""
    members = model.backend_pools[rule.backend_pool].members
    return members if rule.member is None else tuple(member for member in members if member.name == rule.member)


def stranded(model: Model, active: Model, before: NatPorts) -> tuple[Problem, ...]:
    """Return a problem for each range that loses ports under members that are reached on them.

    A range that moves as a whole, without a port in common with what it was, is meant to.
    """
    known = {rule.name: rule for rule in active.inbound_nat_rules}
    problems = (
        _stranded(model, index, rule, old, before.get(rule.name, {}))
        for index, rule in enumerate(model.inbound_nat_rules)
        if (old := known.get(rule.name)) is not None
    )
    return tuple(problem for problem in problems if problem is not None)


def _stranded(
    model: Model, index: int, rule: InboundNatRule, old: InboundNatRule, ports: Mapping[str, int]
) -> Problem | None:
    if rule.first_port > old.last_port or old.first_port > rule.last_port:
        return None
    lost = [
        (port, member.name)
        for member in members_of(model, rule)
        if (port := ports.get(member.name)) is not None and not rule.first_port <= port <= rule.last_port
    ]
    if not lost:
        return None
    port, member = max(lost) if lost[0][0] > rule.last_port else min(lost)
    most = f"{min(rule.first_port, port)}-{max(rule.last_port, port)}"
    others = f", and {len(lost) - 1} more members are on ports that it loses" if len(lost) > 1 else ""
    law = f"member {member} is reached on port {port} by rule {rule.name}, and the range no longer has it{others}"
    remedy = f"keep at least `{most}`, remove the member from the pool first, or give the rule another name"
    path = ("inbound_nat_rules", index, "frontend_port_range")
    return Problem(path, f"{rule.first_port}-{rule.last_port}", law, remedy, code=RANGE_IN_USE)


RANGE_IN_USE = "NAT_RANGE_IN_USE"
"""The problem code of a range that shrinks under live mappings."""


def rows(model: Model, ports: NatPorts) -> tuple[Row, ...]:
    """Return one row for each port and protocol. Order: as in the model, then as in the pool."""
    pools: dict[tuple[str, str], BackendPool] = {}
    return tuple(row for rule in model.inbound_nat_rules for row in _rows(model, rule, ports[rule.name], pools))


def _rows(
    model: Model, rule: InboundNatRule, ports: Mapping[str, int], pools: dict[tuple[str, str], BackendPool]
) -> Iterator[Row]:
    frontend = model.frontends[rule.frontend]
    delivery = Delivery.FLOATING if rule.floating_ip else Delivery.NAT
    for member in members_of(model, rule):
        place = rule.backend_pool, member.name
        pool = pools.get(place)
        if pool is None:
            pool = pools[place] = _pool_of_one(model.backend_pools[rule.backend_pool], member)
        for protocol in _protocols(rule):
            key = FrontendKey(frontend.address, ports[member.name], protocol)
            yield Row(key, _rule(rule, key, pool, member), frontend, pool, delivery, nat_rule=rule.name)


def _protocols(rule: InboundNatRule) -> Iterable[Protocol]:
    return (Protocol.TCP, Protocol.UDP) if rule.protocol is Protocol.ALL else (rule.protocol,)


def _pool_of_one(pool: BackendPool, member: Member) -> BackendPool:
    """Return a pool of the member alone, in which nothing but its presence matters."""
    alone = replace(member, weight=1, priority=0, admin_state=AdminState.NONE)
    return BackendPool(f"{pool.name}/{member.name}", (alone,), pool.drain_period_s)


def _rule(rule: InboundNatRule, key: FrontendKey, pool: BackendPool, member: Member) -> LoadBalancingRule:
    return LoadBalancingRule(
        name=f"{rule.name}/{member.name}",
        frontend=rule.frontend,
        protocol=key.protocol,
        frontend_port=key.port,
        backend_port=rule.backend_port,
        backend_pool=pool.name,
        floating_ip=rule.floating_ip,
        idle_timeout_s=rule.idle_timeout_s,
        tcp_reset=rule.tcp_reset,
        transparent=rule.transparent,
    )
