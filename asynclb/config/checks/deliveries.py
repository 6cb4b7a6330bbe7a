"""Where rules deliver to, in a form in which many of them are compared quickly.

A set of members is an integer with one bit per address, so that two sets overlap if `one & other`: 1,500 rules over
pools of 5,000 members are compared in milliseconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from asynclb.config.checks.frontends import scope_of
from asynclb.config.draft import Draft
from asynclb.config.schema import InboundNatRuleSpec, RuleSpec
from asynclb.errors import Path
from asynclb.model import DatapathName, Scope
from asynclb.net.address import Address
from asynclb.net.flow import Protocol

BACKEND_PORT_CLASH = "RulesOfSameLoadBalancerTypeUseSameBackendPortProtocolAndIPConfig"
"""Azure's name for two rules whose replies look alike. Source: the common deployment errors of Azure Load Balancer."""

_FRAMES = frozenset({DatapathName.PACKET, DatapathName.KERNEL})


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where a rule delivers to: members as bits, and the port, 0 for HA ports.

    `translated`: members see their own address as destination. `by_frames`: no sockets of this host stand between, so
    a reply says no more than which member and port it comes from.
    """

    name: str
    path: Path
    scope: Scope
    protocol: Protocol
    port: int
    members: int
    floating: bool
    translated: bool
    by_frames: bool

    @property
    def ha_ports(self) -> bool:
        """Whether the rule takes every protocol and port."""
        return self.protocol is Protocol.ALL

    def meets(self, other: "Delivery") -> bool:
        """Return whether both reach a member."""
        return self.members & other.members != 0


def deliveries(draft: Draft) -> list[Delivery]:
    """Return the deliveries of every inbound rule whose frontend is sound.

    Order: load-balancing rules as in the file, then inbound NAT rules, which have one for each protocol.
    """
    bits: dict[Address, int] = {}
    masks = _masks(draft, bits)
    found = [
        _delivery(index, rule, draft, masks.get(rule.backend_pool, 0))
        for index, rule in draft.rules.items()
        if rule.frontend in draft.frontends
    ]
    for index, nat in draft.nat_rules.items():
        if nat.frontend in draft.frontends:
            members = _nat_members(nat, draft, masks.get(nat.backend_pool, 0), bits)
            protocols = (Protocol.TCP, Protocol.UDP) if nat.protocol is Protocol.ALL else (nat.protocol,)
            found += [_nat_delivery(index, nat, protocol, draft, members) for protocol in protocols]
    return found


def _delivery(index: int, rule: RuleSpec, draft: Draft, members: int) -> Delivery:
    frontend = draft.frontends[rule.frontend]
    ha_ports = rule.protocol is Protocol.ALL
    return Delivery(
        name=rule.name,
        path=("rules", index),
        scope=scope_of(frontend),
        protocol=rule.protocol,
        port=rule.frontend_port if rule.backend_port is None else rule.backend_port,
        members=members,
        floating=rule.floating_ip,
        translated=not (rule.floating_ip or (ha_ports and frontend.routed)),
        by_frames=ha_ports or (rule.datapath or draft.settings.datapath) in _FRAMES,
    )


def _nat_delivery(index: int, nat: InboundNatRuleSpec, protocol: Protocol, draft: Draft, members: int) -> Delivery:
    return Delivery(
        name=nat.name,
        path=("inbound_nat_rules", index),
        scope=scope_of(draft.frontends[nat.frontend]),
        protocol=protocol,
        port=nat.backend_port,
        members=members,
        floating=nat.floating_ip,
        translated=not nat.floating_ip,
        by_frames=draft.settings.datapath in _FRAMES,
    )


def _nat_members(nat: InboundNatRuleSpec, draft: Draft, whole_pool: int, bits: Mapping[Address, int]) -> int:
    pool = draft.pools.get(nat.backend_pool)
    if nat.member is None or pool is None:
        return whole_pool
    return sum(1 << bits[member.address] for member in pool.members.values() if member.name == nat.member)


def _masks(draft: Draft, bits: dict[Address, int]) -> dict[str, int]:
    """Return each pool's members as bits; `bits` gets the bit of each address."""
    masks = {}
    for name, pool in draft.pools.items():
        field = bytearray((len(bits) + len(pool.members)) // 8 + 1)
        for member in pool.members.values():
            bit = bits.setdefault(member.address, len(bits))
            field[bit // 8] |= 1 << bit % 8
        masks[name] = int.from_bytes(field, "little")
    return masks
