"""What passes: flows, clients, counters, drops, and where a flow would go."""

from typing import Annotated, TypedDict


class Flow(TypedDict):
    """One open flow."""

    rule: str
    protocol: str
    client: str
    frontend: str
    pool: str
    member: str
    target: str
    state: str
    bytes_in: int
    bytes_out: int
    age_s: float
    idle_s: float


class Flows(TypedDict):
    """One page of open flows, in the order of rule, protocol, client."""

    flows: list[Flow]
    next: Annotated[str | None, "the cursor of the next page; null on the last one"]
    matching: Annotated[int, "open flows from this page on that pass the filter"]
    open: Annotated[int, "all open flows"]


class Client(TypedDict):
    """What one client address has open."""

    client: str
    flows: int
    bytes_in: int
    bytes_out: int
    rules: Annotated[list[str], "at most ten"]


class Clients(TypedDict):
    """The clients with the most open flows."""

    clients: list[Client]
    addresses: Annotated[int, "different client addresses"]
    open: Annotated[int, "all open flows"]


class Drop(TypedDict):
    """How much was dropped for one reason since the process started."""

    datapath: str
    reason: str
    count: int
    meaning: str


class Drops(TypedDict):
    """Every reason for which something was dropped."""

    drops: list[Drop]


class DatapathCounters(TypedDict):
    """The counters of one datapath since the process started."""

    name: str
    flows: int
    capacity: Annotated[int, "room in the flow table; 0: memory alone limits it"]
    evictions: int
    stateless: int
    drops: Annotated[dict[str, int], "reason -> how many"]


class RuleCounters(TypedDict):
    """What passed through a rule since the process started; `in` is from clients."""

    name: str
    bytes_in: int
    bytes_out: int
    packets_in: int
    packets_out: int
    syn: int
    new_flows: int
    flows: Annotated[int, "open now"]


class MemberCounters(TypedDict):
    """What passed to and from a member since the process started."""

    pool: str
    name: str
    bytes_in: int
    bytes_out: int
    new_flows: int
    flows: Annotated[int, "open now"]


class SnatPortsUsed(TypedDict):
    """A member's ports of one frontend address by an outbound rule."""

    rule: str
    frontend: str
    allocated: Annotated[int, "how many ports"]
    used: Annotated[dict[str, int], "protocol -> ports in use now"]
    shared: Annotated[bool, "all members of the pool have these ports, and use them together"]


class SnatUse(TypedDict):
    """A member's own connections since the process started, and its ports now."""

    pool: str
    name: str
    attempted: int
    failed: Annotated[int, "found no port that was free towards their destination"]
    ports: list[SnatPortsUsed]


class Counters(TypedDict):
    """Every counter at one instant; rates are the differences of two."""

    clock_s: Annotated[float, "monotonic; differences are seconds"]
    pid: Annotated[int, "counters begin at 0 with a new process"]
    datapaths: list[DatapathCounters]
    rules: list[RuleCounters]
    members: list[MemberCounters]
    snat: Annotated[list[SnatUse], "members of outbound rules"]


class Live(TypedDict):
    """What the datapath itself says of a flow, beside the tables. What does not apply is empty."""

    asked: Annotated[str, "who was asked, as the loaded program; empty: nobody, for the reason in `why`"]
    verdict: Annotated[str, "member, passed, or the reason for the drop"]
    pool: str
    member: str
    agrees: Annotated[bool, "false: it says something else than the tables"]
    why: str


class Explanation(TypedDict):
    """Why a flow goes where it goes. What does not apply is empty or -1."""

    flow: str
    verdict: Annotated[str, "member; translated or direct: a member's own connection; or the drop's reason"]
    why: str
    rule: str
    frontend: str
    matched: str
    distribution: str
    flow_hash: str
    slot: int
    slots: int
    pool: str
    member: str
    target: str
    share: float
    delivery: str
    datapath: str
    datapath_why: str
    live: Live
