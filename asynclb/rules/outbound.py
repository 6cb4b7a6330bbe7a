"""Outbound rules: members' own connections leave from ports of a frontend's address.

A pool whose load-balancing rules say `disable_outbound_snat`, and that no outbound rule translates, has no way out but
to private addresses: that is a rule without protocols here.
"""

from collections.abc import Collection, Iterator

from asynclb.model import Allocation, Model, OutboundRule
from asynclb.net.address import PRIVATE_PREFIXES, Address
from asynclb.net.flow import Protocol
from asynclb.tables.snat import (
    BLOCK,
    Blocks,
    Demand,
    SnatRule,
    allot,
    default_ports,
    free_blocks,
    slices_of,
)

_BOTH = (Protocol.TCP, Protocol.UDP)


def snat_rules(model: Model, before: Collection[SnatRule] = ()) -> tuple[SnatRule, ...]:
    """Return the model's outbound rules with every member's ports, given those of the generation before.

    Order: as in the model, then pools without a way out.
    Raises: ValueError -> the ports do not fit, which `config` refuses.
    """
    used = {name for rule in model.outbound_rules for name in rule.frontends}
    free = {one.address: free_blocks(_ranges(model, name)) for name, one in model.frontends.items() if name in used}
    own = [rule for rule in model.outbound_rules if rule.allocation is Allocation.MEMBER]
    found: Blocks | None = allot([_demand(model, rule) for rule in own], free, _blocks(before))
    if found is None:
        raise ValueError("the ports of outbound rules do not fit into their frontends")
    taken = {block for blocks in found.values() for block in blocks}
    left = {a: tuple(block for block in blocks if (a, block) not in taken) for a, blocks in free.items()}
    for rule in model.outbound_rules:
        if rule.allocation is Allocation.SHARED:
            every = tuple((address, block) for address in _addresses(model, rule) for block in left[address])
            members = model.backend_pools[rule.backend_pool].members
            found = {**found, **{(rule.name, member.name): every for member in members}}
    return tuple(_rule(model, rule, found) for rule in model.outbound_rules) + tuple(_without(model))


def _rule(model: Model, rule: OutboundRule, blocks: Blocks) -> SnatRule:
    pool = model.backend_pools[rule.backend_pool]
    names = {model.frontends[name].address: name for name in rule.frontends}
    shared = rule.allocation is Allocation.SHARED and pool.members
    one = slices_of(blocks[rule.name, pool.members[0].name], names) if shared else ()
    return SnatRule(
        name=rule.name,
        pool=pool,
        protocols=_BOTH if rule.protocol is Protocol.ALL else (rule.protocol,),
        slices={m.name: one if shared else slices_of(blocks[rule.name, m.name], names) for m in pool.members},
        direct=rule.direct,
        idle_timeout_s=rule.idle_timeout_s,
        tcp_reset=rule.tcp_reset,
        shared=bool(shared),
    )


def _without(model: Model) -> Iterator[SnatRule]:
    """Yield a rule that translates nothing for each pool that is to have no way out."""
    done = {rule.backend_pool for rule in model.outbound_rules}
    for rule in model.rules:
        if rule.disable_outbound_snat and rule.backend_pool not in done:
            done.add(rule.backend_pool)
            pool = model.backend_pools[rule.backend_pool]
            yield SnatRule(rule.name, pool, (), {member.name: () for member in pool.members}, PRIVATE_PREFIXES)


def _demand(model: Model, rule: OutboundRule) -> Demand:
    members = tuple(member.name for member in model.backend_pools[rule.backend_pool].members)
    addresses = _addresses(model, rule)
    ports = rule.allocated_ports or default_ports(len(members), len(addresses))
    return Demand(rule.name, members, addresses, ports // BLOCK)


def _addresses(model: Model, rule: OutboundRule) -> tuple[Address, ...]:
    return tuple(model.frontends[name].address for name in rule.frontends)


def _blocks(rules: Collection[SnatRule]) -> Blocks:
    return {
        (rule.name, member): [(part.address, block) for part in slices for block in part.blocks]
        for rule in rules
        if not rule.shared
        for member, slices in rule.slices.items()
    }


def _ranges(model: Model, frontend: str) -> Iterator[tuple[int, int]]:
    """Yield the ports that rules have on a frontend."""
    for rule in model.rules:
        if rule.frontend == frontend and rule.frontend_port:
            yield rule.frontend_port, rule.frontend_port
    for nat in model.inbound_nat_rules:
        if nat.frontend == frontend:
            yield nat.first_port, nat.last_port
