"""The configuration as the operator writes it: every key, its type, its default and what it means.

The text under each field is what editors show; durations and addresses appear as they are written. These classes
know single values only. What keys mean together is in `checks`, what absent ones become is in `build`.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from asynclb.config import spelling as t
from asynclb.config import values
from asynclb.config.sources import SOURCE_PARTS, MembersFromSpec
from asynclb.config.spec import Spec
from asynclb.model import (
    AdminState,
    Allocation,
    Compat,
    DatapathName,
    NoHealthyMembers,
    OnStop,
    Persistence,
    ProxyProtocol,
    StatusRange,
)
from asynclb.net.flow import Protocol
from asynclb.net.flowhash import Distribution

DAY_S = 86_400.0
MINUTE_S = 60.0


class Attach(StrEnum):
    """Where the kernel datapath attaches to an interface."""

    AUTO = "auto"
    XDP = "xdp"
    TC = "tc"


IdleTimeout = Annotated[float, t.duration(1, 100 * MINUTE_S)]
OutboundIdleTimeout = Annotated[float, t.duration(1, 120 * MINUTE_S)]
Interval = Annotated[float, t.duration(0.01, 3600)]
DrainPeriod = Annotated[float, t.duration(0, DAY_S)]
ShutdownDrain = Annotated[float, t.duration(0, 3600)]
ConnectTimeout = Annotated[float, t.duration(0.01, 2 * MINUTE_S)]
FileSize = Annotated[int, t.size(1_000_000, 100_000_000_000)]
AttachWord = Annotated[Attach, t.Written(values.choice(Attach), {"enum": [str(word) for word in Attach]}, str)]


class AdminTlsSpec(Spec):
    """The certificate of the API. Files that are replaced are taken up by the next connection."""

    certificate_file: t.FilePath
    """PEM file of the certificate, followed by its chain."""
    key_file: t.FilePath
    """PEM file of the certificate's key, without a passphrase."""


class AdminSpec(Spec):
    """Where the API, the pages and /metrics are served."""

    listen: t.ListenAddress | None = values.Listen("127.0.0.1", 9180)
    """`host:port`, `[v6]:port` or `unix:/path`; null turns the API off. Other than loopback needs `token_file`."""
    token_file: t.FilePath | None = None
    """File with a token a line, each with the name of its holder behind it if wanted, that clients send as bearer."""
    tls: AdminTlsSpec | None = None
    """Serve https with these files. Null: http."""
    hosts: tuple[t.HostName, ...] = ()
    """Names by which clients call it (Prometheus, a browser), without port. Addresses and localhost need no naming."""


class FlowLogSpec(Spec):
    """A file with a line of JSON for each flow that ends."""

    path: t.FilePath
    """The file, in a directory that exists. It is opened anew when somebody else has moved it away."""
    start: t.Flag = False
    """Write a line when a flow starts as well."""
    sample: t.Sample = 1
    """Of how many flows one is written, the same ones on every node; 1: all. Coarser by itself above 1 % of a CPU."""
    max_size: FileSize = 100_000_000
    """The file's size at which it is moved away and begun anew, 1MB to 100GB."""
    keep: t.Kept = 5
    """How many files that were moved away are kept, as `path.1`, the youngest, to `path.N`."""


class LimitsSpec(Spec):
    """How much a configuration may hold; the defaults are Azure's limits."""

    frontends: t.Limit = 600
    """Frontends."""
    rules: t.Limit = 1500
    """Load-balancing and inbound NAT rules together."""
    outbound_rules: t.Limit = 600
    """Outbound rules."""
    pool_members: t.PoolLimit = 5000
    """Members of one pool, up to 65,535."""
    rules_per_member: t.Limit = 300
    """Rules of every kind that reach one member's address."""
    members_per_frontend: t.Limit = 10_000
    """Members of the pools of one frontend's load-balancing rules, counted once for each rule."""
    members_of_all_frontends: t.Limit = 500_000
    """Members of the pools of all load-balancing rules, counted once for each rule."""


class InterfaceSpec(Spec):
    """How the kernel datapath uses an interface."""

    attach: AttachWord = Attach.AUTO
    """Where programs are attached: `xdp`, `tc`, or the better one that works (`auto`)."""


class FrontendSpec(Spec):
    """An address that clients reach."""

    address: t.HostAddress
    """The IPv4 or IPv6 address; this host need not own it."""
    allow: tuple[t.AddressPrefix, ...] | None = None
    """Source prefixes that may connect. Null: private ranges (scope `internal`), nobody (scope `public`)."""
    scope: t.ScopeWord | None = None
    """Whether the frontend faces the inside or the world. Null: `internal` for a private address, else `public`."""
    interface: t.InterfaceName | None = None
    """The interface on which traffic arrives. Null: any."""
    routed: t.Flag = False
    """The frontend is a next hop: traffic for other addresses that arrives on its interface is balanced too."""
    zones: tuple[t.Zone, ...] = ()
    """Zones of the frontend, in quotes. Empty: zone-redundant."""
    zone_affinity: t.Flag = False
    """Prefer members in the frontend's zones while any of them is eligible; false spreads over all zones."""
    connection_tracking: t.Flag | None = None
    """That of every rule of the frontend, whatever the rule says. Null: the rule's."""


class MemberSpec(Spec):
    """A member of a backend pool."""

    name: t.Name
    """The member's name, once in its pool."""
    address: t.HostAddress
    """The member's own address."""
    weight: t.Weight = 1
    """Share of new flows relative to the other members, 0 to 1000; 0 takes none."""
    priority: t.Priority = 0
    """0 is active; members of a higher number stand by until no member of a lower one is eligible."""
    admin_state: t.AdminStateWord = AdminState.NONE
    """`none`: the probe decides; `up`: always eligible; `down`: no new flows; `drain`: down, and reset at the end."""
    zone: t.Zone | None = None
    """The zone that the member is in, in quotes. Null: none."""


class PoolSpec(Spec):
    """A set of members that take the same traffic."""

    members: tuple[MemberSpec, ...] = ()
    """The members; at most `limits.pool_members`. Required unless there is `members_from`."""
    members_from: MembersFromSpec | None = None
    """Where further members are asked for while asynclb runs. Null: nowhere."""
    drain_period: DrainPeriod = 300.0
    """How long the flows of a removed or draining member may go on, up to 24h."""


class TlsSpec(Spec):
    """How an https probe checks the member's certificate."""

    verify: t.Flag = False
    """Whether the certificate must be valid; false accepts any, as members are often self-signed."""
    server_name: t.Host | None = None
    """Name sent as SNI and checked if `verify`. Null: the probe's `host`, or none."""
    ca_file: t.FilePath | None = None
    """PEM file of the authorities to trust. Null: the system's."""


class ProbeSpec(Spec):
    """How a member's health is asked for."""

    protocol: t.ProbeProtocolWord
    """`tcp`: the handshake succeeds; `http`, `https`: a GET is answered; `udp`: a datagram is answered."""
    port: t.Port
    """The member's port that is asked."""
    interval: Interval = 5.0
    """Time from one check to the next, 10ms to 1h."""
    timeout: Interval | None = None
    """How long a check may take, at most the interval. Null: the interval, at most 30s."""
    threshold: t.Threshold = 1
    """Consecutive checks that change a member's state; sets `rise` and `fall`."""
    rise: t.Threshold | None = None
    """Consecutive successes until a member is up. Null: `threshold`."""
    fall: t.Threshold | None = None
    """Consecutive failures until a member is down. Null: `threshold`."""
    flap_damping: t.Flag = True
    """Whether a member that fell more than 3 times within 60 intervals returns more slowly each time."""
    max_in_flight: t.InFlight = 256
    """Checks of this probe that may run at once."""
    source_address: t.SourceAddresses | None = None
    """Address that checks come from; a list of one IPv4 and one IPv6 for both families. Null: the kernel chooses."""
    path: t.UrlPath | None = None
    """http, https: the path to GET; required there."""
    host: t.Host | None = None
    """http, https: the Host header. Null: the member's address."""
    expected_status: t.StatusRanges = (StatusRange(200, 200),)
    """http, https: statuses that mean healthy: `200`, `200-299`, or a list of these."""
    tls: TlsSpec = TlsSpec()
    """https: how the certificate is checked."""
    send: t.TextBytes | None = None
    """udp: text to send. Null: an empty datagram."""
    send_hex: t.HexBytes | None = None
    """udp: bytes to send, in hexadecimal, instead of `send`."""
    expect: t.TextBytes = b"any"
    """udp: text that the answer begins with; `any` accepts every answer."""
    expect_hex: t.HexBytes | None = None
    """udp: bytes that the answer begins with, in hexadecimal, instead of `expect`."""
    number_of_probes: t.AnyNumber | None = None
    """Accepted and ignored, as Azure does; use `threshold`."""


class RuleSpec(Spec):
    """A load-balancing rule; with protocol `all` and ports 0 an HA-ports rule."""

    name: t.Name
    """The rule's name, once among all rules."""
    frontend: t.Name
    """The frontend that clients reach."""
    protocol: t.ProtocolWord
    """`tcp`, `udp`, or `all` for HA ports."""
    frontend_port: t.PortOrAny
    """The port that clients reach; 0 with `all`."""
    backend_port: t.PortOrAny | None = None
    """The members' port. Null: the frontend port. With `floating_ip`, answers on another one must pass this host."""
    backend_pool: t.Name
    """The pool whose members take the traffic."""
    probe: t.Name | None = None
    """The probe that decides on eligibility. Null: members are always eligible."""
    distribution: t.DistributionWord = Distribution.FIVE_TUPLE
    """Which fields of a flow choose its member."""
    floating_ip: t.Flag = False
    """Keep the frontend's address as destination at the member (direct server return)."""
    idle_timeout: IdleTimeout = 240.0
    """Flows that are silent for so long end, 1s to 100m."""
    tcp_reset: t.Flag = False
    """Tell both ends with a reset when a TCP flow ends by idle timeout."""
    no_healthy_members: t.NoHealthyMembersWord = NoHealthyMembers.DROP
    """When no member is healthy: `drop` new flows, or spread them over `all` members."""
    persistence_on_unhealthy: t.PersistenceWord = Persistence.DEFAULT
    """A member that goes down keeps its TCP connections (`default`), all its flows (`always`), or none (`never`)."""
    connection_tracking: t.Flag | None = None
    """UDP flows keep their member; false: the hash decides anew with each change. Null: true, false in compat azure."""
    datapath: t.DatapathWord | None = None
    """The datapath of this rule. Null: the configuration's."""
    transparent: t.Flag | None = None
    """proxy: members see the client's address as source. Null: the configuration's."""
    proxy_protocol: t.ProxyProtocolWord = ProxyProtocol.NONE
    """proxy: tell members the client's address with PROXY protocol v2; needs `transparent: false`."""
    connect_timeout: ConnectTimeout = 3.0
    """proxy: how long one member may take to accept before another one is tried, 10ms to 2m."""
    disable_outbound_snat: t.Flag = False
    """Let the members' own connections go nowhere unless an outbound rule translates them; private ranges excepted."""


class InboundNatRuleSpec(Spec):
    """A frontend port for each member of a pool, or for one of them."""

    name: t.Name
    """The rule's name, once among all rules."""
    frontend: t.Name
    """The frontend that clients reach."""
    protocol: t.ProtocolWord
    """`tcp`, `udp`, or `all` for both."""
    frontend_port: t.Port | None = None
    """The one port that leads to `member`; either this or `frontend_port_range`."""
    frontend_port_range: t.PortRange | None = None
    """First and last port, as in `50000-50099`: one for each member, which keeps it while it is in the pool."""
    backend_pool: t.Name
    """The pool of the members."""
    member: t.Name | None = None
    """The one member that `frontend_port` leads to."""
    backend_port: t.Port
    """The members' port."""
    floating_ip: t.Flag = False
    """Keep the frontend's address as destination at the member; answers from another port must pass this host."""
    idle_timeout: IdleTimeout = 240.0
    """Flows that are silent for so long end, 1s to 100m."""
    tcp_reset: t.Flag = False
    """Tell both ends with a reset when a TCP flow ends by idle timeout."""


class OutboundRuleSpec(Spec):
    """Members' own connections leave from the frontends' addresses."""

    name: t.Name
    """The rule's name, once among all rules."""
    frontends: Annotated[tuple[t.Name, ...], Field(min_length=1)]
    """The frontends whose addresses are used, in order."""
    backend_pool: t.Name
    """The pool whose members' connections are translated."""
    protocol: t.ProtocolWord = Protocol.ALL
    """`tcp`, `udp`, or `all` for both."""
    allocated_ports: t.AllocatedPorts = 0
    """Ports for each member, a multiple of 8; 0 for the default allocation by pool size."""
    allocation: t.AllocationWord = Allocation.MEMBER
    """`member`: each has ports of its own; `shared`: each may use all that the frontends have."""
    direct: tuple[t.AddressPrefix, ...] | None = None
    """Destinations that members reach with their own address. Null: private ranges for public frontends, else none."""
    idle_timeout: OutboundIdleTimeout = 240.0
    """Flows that are silent for so long end, 1s to 120m."""
    tcp_reset: t.Flag = False
    """Tell both ends with a reset when a TCP flow ends by idle timeout."""


class Settings(Spec):
    """The keys that concern the whole."""

    version: t.Version
    """Version of the configuration's format."""
    datapath: t.DatapathWord = DatapathName.AUTO
    """What moves the traffic; `auto` takes the best that this host allows, per rule."""
    hash_seed: t.Seed | None = None
    """64 bits in hexadecimal, in quotes, the same on every node of a cluster. Null: random per installation."""
    compat: t.CompatWord = Compat.EXTENDED
    """`azure` refuses what Azure refuses; `extended` allows all that asynclb can do."""
    transparent: t.Flag = True
    """proxy: members see the client's address as source; needs CAP_NET_ADMIN. Rules may override it."""
    workers: t.Workers = 1
    """packet: processes that move frames, 1 to 64; each flow stays with one. Changed by a restart only."""
    shutdown_drain: ShutdownDrain = 10.0
    """How long open flows may go on after SIGTERM, up to 1h."""
    on_stop: t.OnStopWord = OnStop.DRAIN
    """kernel: after SIGTERM, `drain` and detach, or `leave` the programs to forward until the next start."""
    admin: AdminSpec = AdminSpec()
    """The API, the pages and /metrics: where, and for whom."""
    flow_log: FlowLogSpec | None = None
    """Write a line of JSON for each flow that ends. Null: none."""
    limits: LimitsSpec = LimitsSpec()
    """How much the configuration may hold."""


class Document(Settings):
    """Configuration of asynclb."""

    interfaces: dict[t.InterfaceName, InterfaceSpec] = Field(default={})
    """Interfaces by name, for the kernel datapath."""
    frontends: dict[t.Name, FrontendSpec] = Field(default={})
    """Frontends by name; at most `limits.frontends`."""
    backend_pools: dict[t.Name, PoolSpec] = Field(default={})
    """Backend pools by name."""
    probes: dict[t.Name, ProbeSpec] = Field(default={})
    """Probes by name."""
    rules: tuple[RuleSpec, ...] = ()
    """Load-balancing rules; with inbound NAT rules at most `limits.rules`."""
    inbound_nat_rules: tuple[InboundNatRuleSpec, ...] = ()
    """Inbound NAT rules."""
    outbound_rules: tuple[OutboundRuleSpec, ...] = ()
    """Outbound rules; at most `limits.outbound_rules`."""


PARTS: tuple[type[Spec], ...] = (
    AdminSpec,
    AdminTlsSpec,
    FlowLogSpec,
    LimitsSpec,
    InterfaceSpec,
    FrontendSpec,
    MemberSpec,
    PoolSpec,
    TlsSpec,
    ProbeSpec,
    RuleSpec,
    InboundNatRuleSpec,
    OutboundRuleSpec,
    *SOURCE_PARTS,
)
"""Every part that a document is made of."""
