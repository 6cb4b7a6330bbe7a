"""Rows: what a rule asks of the forwarding tables, before health is known."""

from dataclasses import dataclass
from enum import StrEnum

from asynclb.model import BackendPool, Frontend, LoadBalancingRule
from asynclb.net.address import Address
from asynclb.net.flow import Protocol


class Delivery(StrEnum):
    """How a flow reaches its member."""

    NAT = "nat"
    """The destination is rewritten; replies pass the balancer and are rewritten back."""
    FLOATING = "floating"
    """The destination stays the frontend; replies go straight to the client, unless the port is another one."""
    ROUTED = "routed"
    """Nothing is rewritten but the link address."""


class RuleKind(StrEnum):
    """What kind of rule a row is from."""

    LOAD_BALANCING = "load_balancing"
    HA_PORTS = "ha_ports"
    INBOUND_NAT = "inbound_nat"


@dataclass(frozen=True, slots=True)
class FrontendKey:
    """What the frontend lookup matches: port 0 with protocol `all` is HA ports."""

    address: Address
    port: int
    protocol: Protocol

    @property
    def order(self) -> tuple[int, int, int, str]:
        """What keys are sorted by: IPv4 before IPv6, then address, port, protocol."""
        return self.address.version, int(self.address), self.port, self.protocol

    def __str__(self) -> str:
        return f"{self.protocol} {self.address} port {self.port or 'any'}"


@dataclass(frozen=True, slots=True)
class Row:
    """One rule on one frontend with everything it refers to.

    `nat_rule` names the inbound NAT rule of which this row is one port: `rule` is then made for the port and is called
    `nat_rule/member`, and `pool` is that one member, which takes the port's flows whatever its health is.
    """

    key: FrontendKey
    rule: LoadBalancingRule
    frontend: Frontend
    pool: BackendPool
    delivery: Delivery
    symmetric: bool = False
    nat_rule: str | None = None

    @property
    def kind(self) -> RuleKind:
        """What kind of rule the row is from."""
        if self.nat_rule is not None:
            return RuleKind.INBOUND_NAT
        return RuleKind.HA_PORTS if self.key.protocol is Protocol.ALL else RuleKind.LOAD_BALANCING

    @property
    def member_port(self) -> int:
        """The port that members see; 0 with HA ports: the client's."""
        return self.rule.backend_port or self.key.port

    @property
    def changes_port(self) -> bool:
        """Whether members see the frontend's address with another port than clients ask for."""
        return self.delivery is Delivery.FLOATING and self.member_port != self.key.port

    @property
    def answers_from(self) -> tuple[Address, ...]:
        """Where answers come from, on `member_port`, that are written back on their way; none: they stay so."""
        if self.delivery is Delivery.NAT:
            return tuple(member.address for member in self.pool.members)
        return (self.key.address,) if self.changes_port else ()
