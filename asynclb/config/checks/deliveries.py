"""Where rules deliver to, in a form in which many of them are compared quickly.

A set of members is an integer with one bit per address, so that two sets overlap if `one & other`: 1,500 rules over
pools of 5,000 members are compared in milliseconds.
"""

from dataclasses import dataclass

from asynclb.config.checks.frontends import scope_of
from asynclb.config.draft import Draft
from asynclb.config.schema import RuleSpec
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
    """Return the delivery of every load-balancing rule whose frontend is sound. Order: as in the file."""
    masks = _masks(draft)
    return [
        _delivery(index, rule, draft, masks.get(rule.backend_pool, 0))
        for index, rule in draft.rules.items()
        if rule.frontend in draft.frontends
    ]


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


def _masks(draft: Draft) -> dict[str, int]:
    bits: dict[Address, int] = {}
    masks = {}
    for name, pool in draft.pools.items():
        field = bytearray((len(bits) + len(pool.members)) // 8 + 1)
        for member in pool.members.values():
            bit = bits.setdefault(member.address, len(bits))
            field[bit // 8] |= 1 << bit % 8
        masks[name] = int.from_bytes(field, "little")
    return masks
