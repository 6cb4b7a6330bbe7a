"""What is active: configuration, rules, pools, tables, generations."""

from typing import Annotated, Literal, NotRequired, TypedDict

Instant = Annotated[str | None, "RFC 3339, in UTC; null where it has not happened"]
ProtocolWord = Literal["tcp", "udp", "all"]
AdminStateWord = Literal["none", "up", "down", "drain"]
HealthWord = Literal["unknown", "up", "down"]


class Problem(TypedDict):
    """One thing that is wrong with a configuration, with its remedy."""

    path: list[str | int]
    names: Annotated[list[str], "beside each step of the path the name of what stands at that position, or ''"]
    where: Annotated[str, "the path in one word: rules[0].protocol"]
    value: str
    rule: str
    remedy: str
    file: str
    line: Annotated[int, "counts from 1; 0 where the place is not known"]
    column: int
    code: str
    text: Annotated[str, "the line that `asynclb check` prints"]


class Error(TypedDict):
    """Why a request was turned away, and what would be right. Every error has this shape."""

    error: str
    remedy: str
    generation: NotRequired[Annotated[int, "with 412: the generation that is active"]]
    problems: NotRequired[Annotated[list[Problem], "with 422: everything that is wrong"]]


class Reload(TypedDict):
    """What became of a reload."""

    result: Annotated[str, "applied, unchanged or refused"]
    trigger: str
    at: Instant
    took_s: float
    generation: int
    problems: list[Problem]
    warnings: list[Problem]


class Config(TypedDict):
    """The configuration that is active."""

    path: str
    digest: Annotated[str, "SHA-256 of the file's content"]


class Attachment(TypedDict):
    """How a datapath's programs are attached to an interface."""

    name: str
    mode: Annotated[str, "tcx, clsact, xdp or xdp-generic"]
    instead: Annotated[str, "why it is not native XDP where that is wished for, or ''"]


class Datapath(TypedDict):
    """What is active in one datapath."""

    name: str
    mode: str
    generation: int
    since: Instant
    rules: Annotated[int, "how many it carries"]
    interfaces: Annotated[list[Attachment], "those that its programs are attached to"]


class Rule(TypedDict):
    """A rule with what a new flow meets at it now."""

    name: str
    kind: Literal["load_balancing", "ha_ports", "inbound_nat"]
    frontend: str
    address: str
    port: Annotated[int, "0: every port"]
    protocol: ProtocolWord
    pool: str
    backend_port: Annotated[int, "0: the port that the client asked for"]
    probe: str | None
    distribution: str
    delivery: Literal["nat", "floating", "routed"]
    datapath: str | None
    mode: str
    why: Annotated[str, "why this datapath carries it"]
    state: Annotated[str, "waiting, serving, silent or all_down"]
    silent: bool
    eligible: Annotated[int, "members that take new flows"]
    members: int
    table: Annotated[int, "position of its table in the list of tables"]


class SnatPorts(TypedDict):
    """A member's ports of one frontend address."""

    frontend: str
    address: str
    allocated: Annotated[int, "how many ports"]
    ranges: Annotated[list[str], "first and last port of each run, as 1024-2047"]


class OutboundMember(TypedDict):
    """A member of an outbound rule."""

    name: str
    address: str
    allocated: Annotated[int, "ports on all addresses together"]
    ports: Annotated[list[SnatPorts], "in the order in which they are used"]


class OutboundRule(TypedDict):
    """An outbound rule with the ports of each member."""

    name: str
    pool: str
    protocols: Annotated[list[ProtocolWord], "none: members have no way out"]
    allocation: Literal["member", "shared"]
    idle_timeout_s: float
    tcp_reset: bool
    direct: Annotated[list[str], "destinations that members reach with their own address"]
    datapath: str | None
    members: list[OutboundMember]


class Mapping(TypedDict):
    """One port of an inbound NAT rule."""

    member: str
    frontend_port: int


class NatRule(TypedDict):
    """An inbound NAT rule with the port of each member."""

    name: str
    frontend: str
    protocol: ProtocolWord
    first_port: int
    last_port: int
    pool: str
    backend_port: int
    mappings: list[Mapping]


class Frontend(TypedDict):
    """An address that clients reach."""

    name: str
    address: str
    scope: str
    allow: list[str]
    zones: list[str]
    zone_affinity: bool


class TableMember(TypedDict):
    """A member's part of a table."""

    name: str
    slots: int
    share: Annotated[float, "of new flows, 0 to 1"]


class Table(TypedDict):
    """The members that take new flows, each with its share of the slots."""

    pool: str
    size: int
    digest: NotRequired[Annotated[str, "equal on nodes whose tables are equal"]]
    rules: NotRequired[Annotated[list[str], "the rules that use it"]]
    members: list[TableMember]


class Health(TypedDict):
    """What one probe says of a member, with the admin state laid over it."""

    probe: str
    state: HealthWord
    reason: str
    probed: Annotated[HealthWord, "what the probe alone says"]
    since: Instant
    detail: str


class Override(TypedDict):
    """What an operator has laid over the file's word on a member."""

    admin_state: AdminStateWord | None
    weight: int | None
    by: str
    at: Instant


class Member(TypedDict):
    """A member as it is in force: the file's word with any override laid over it."""

    name: str
    address: str
    weight: int
    priority: int
    admin_state: AdminStateWord
    zone: str | None
    from_source: Annotated[bool, "whether the pool's source told of it, rather than the configuration"]
    override: Override | None
    health: list[Health]


class Source(TypedDict):
    """Where a pool's members are asked for, and how that goes."""

    kind: Literal["file", "dns", "etcd"]
    name: str
    allow_empty: bool
    state: Literal["waiting", "up", "failed"]
    since: Instant
    error: Annotated[str, "why it does not answer"]
    answered: Annotated[Instant, "when it answered last"]
    members: Annotated[int, "that it told of and that are in force"]
    result: Annotated[str | None, "what became of its last answer: applied, unchanged or refused"]
    problems: Annotated[list[str], "why its last answer was refused"]
    warnings: Annotated[list[str], "what was taken otherwise than it was said"]
    updates: Annotated[dict[str, int], "result -> how many answers"]


class Pool(TypedDict):
    """A backend pool."""

    name: str
    drain_period_s: float
    source: Source | None
    members: list[Member]


class State(TypedDict):
    """Everything that is active."""

    version: str
    pid: int
    started: Instant
    uptime_s: float
    ready: bool
    stopping: bool
    config: Config
    generation: int
    since: Instant
    last_reload: Reload | None
    reloads: Annotated[dict[str, int], "result -> how many"]
    datapaths: list[Datapath]
    rules: list[Rule]
    inbound_nat_rules: list[NatRule]
    outbound_rules: list[OutboundRule]
    frontends: list[Frontend]
    tables: list[Table]
    pools: list[Pool]


class Rules(TypedDict):
    """Every rule."""

    generation: int
    rules: list[Rule]


class Pools(TypedDict):
    """Every pool."""

    generation: int
    pools: list[Pool]


class Tables(TypedDict):
    """Every table that a rule uses."""

    generation: int
    tables: list[Table]


class Generation(TypedDict):
    """One generation of the tables: how many rules' entries came, went and changed, and what made it."""

    generation: int
    at: Instant
    cause: Annotated[str, "start, signal, watch, api, member, source or health"]
    added: int
    removed: int
    changed: int


class Generations(TypedDict):
    """The generation of each datapath, and the last ones of the tables, the newest first."""

    generation: int
    since: Instant
    datapaths: list[Datapath]
    history: list[Generation]
