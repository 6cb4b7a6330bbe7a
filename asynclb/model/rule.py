"""Rules: which traffic goes where."""

from dataclasses import dataclass
from enum import StrEnum

from asynclb.net.address import Prefix
from asynclb.net.flow import Protocol
from asynclb.net.flowhash import Distribution


class NoHealthyMembers(StrEnum):
    """What a rule does while no probed member is healthy."""

    DROP = "drop"
    """New flows are dropped silently (Azure: AllProbedDown)."""
    ALL = "all"
    """New flows go to all members as if they were healthy (Azure: AllProbedUp)."""


class Persistence(StrEnum):
    """What becomes of a member's flows when it goes down: by its probe, or because the operator puts it down."""

    DEFAULT = "default"
    """TCP connections stay with it, flows of other protocols move."""
    ALWAYS = "always"
    """All stay with it, for as long as they last."""
    NEVER = "never"
    """All move: the next packet goes to another member. Relayed connections cannot, and are reset."""

    @property
    def keeps_tcp(self) -> bool:
        """Whether TCP connections stay."""
        return self is not Persistence.NEVER

    @property
    def keeps_others(self) -> bool:
        """Whether flows of other protocols stay."""
        return self is Persistence.ALWAYS


class ProxyProtocol(StrEnum):
    """Whether the proxy tells members the client's address ahead of the bytes."""

    NONE = "none"
    V2 = "v2"


class Allocation(StrEnum):
    """How an outbound rule gives out the ports of its frontends."""

    MEMBER = "member"
    """Each member has ports of its own."""
    SHARED = "shared"
    """Every member may use every port of the rule's frontends that no other rule has."""


@dataclass(frozen=True, slots=True)
class LoadBalancingRule:
    """A load-balancing rule; with protocol `all` and ports 0 it is an HA-ports rule.

    `backend_port` is resolved: an absent one has become the frontend port. `datapath` is None for the model's own.
    """

    name: str
    frontend: str
    protocol: Protocol
    frontend_port: int
    backend_port: int
    backend_pool: str
    probe: str | None = None
    distribution: Distribution = Distribution.FIVE_TUPLE
    floating_ip: bool = False
    idle_timeout_s: float = 240.0
    tcp_reset: bool = False
    no_healthy_members: NoHealthyMembers = NoHealthyMembers.DROP
    datapath: str | None = None
    transparent: bool = True
    proxy_protocol: ProxyProtocol = ProxyProtocol.NONE
    connect_timeout_s: float = 3.0
    persistence_on_unhealthy: Persistence = Persistence.DEFAULT
    connection_tracking: bool = True
    """Whether a UDP flow keeps its member while that one may take flows; else the tables decide each time they change.

    Resolved: the frontend's word has outweighed the rule's.
    """
    disable_outbound_snat: bool = False
    """Whether the pool's own connections go nowhere unless an outbound rule translates them."""


@dataclass(frozen=True, slots=True)
class InboundNatRule:
    """One frontend port per member of a pool, or one port to one member (`member` set)."""

    name: str
    frontend: str
    protocol: Protocol
    first_port: int
    last_port: int
    backend_pool: str
    backend_port: int
    member: str | None = None
    floating_ip: bool = False
    idle_timeout_s: float = 240.0
    tcp_reset: bool = False
    transparent: bool = True


@dataclass(frozen=True, slots=True)
class OutboundRule:
    """Members' own connections leave from the frontends' addresses. `allocated_ports` 0 is the default allocation.

    `direct` is resolved: destinations that members reach with their own address.
    """

    name: str
    frontends: tuple[str, ...]
    backend_pool: str
    protocol: Protocol
    allocated_ports: int = 0
    idle_timeout_s: float = 240.0
    tcp_reset: bool = False
    allocation: Allocation = Allocation.MEMBER
    direct: tuple[Prefix, ...] = ()


Rule = LoadBalancingRule | InboundNatRule | OutboundRule
