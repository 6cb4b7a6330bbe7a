"""What every datapath is: something that executes entries of the forwarding tables.

Laws:
  1. `refusal` is asked before anything is applied; an entry that was refused never reaches `apply`.
  2. `apply` takes a delta whole or raises `ApplyError` and goes on executing what it executed before.
  3. At every point during `apply` a new flow meets the old entry or the new one, never a third.
  4. Counters only ever grow while the process lives, also when the rule they belong to is gone.
"""

from collections.abc import Collection, Container, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from asynclb.datapath.ask import LiveVerdict
from asynclb.net.address import Address
from asynclb.net.drop import Drop
from asynclb.net.flow import Flow
from asynclb.tables.diff import Delta
from asynclb.tables.row import FrontendKey, Row
from asynclb.tables.snat import SnatRule


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a datapath cannot carry a row, and what the operator can do about it."""

    why: str
    remedy: str
    absent: bool = False
    """Whether this version has only the datapath's name."""
    mend: str = ""
    """What the host lacks, as a command or a step, where that is why; the start tells it even if another is chosen."""


@dataclass(frozen=True, slots=True)
class RuleCounters:
    """What passed through a rule since the process started.

    Units: bytes of payload where sockets carry it, of whole frames where frames are counted.
    `in` is from clients, `out` is to clients.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    packets_in: int = 0
    packets_out: int = 0
    syn: int = 0
    new_flows: int = 0
    flows: int = 0


@dataclass(frozen=True, slots=True)
class MemberCounters:
    """What passed to and from a member since the process started; `flows` are open now.

    `failed` are connections of the member's own that found no port.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    new_flows: int = 0
    flows: int = 0
    failed: int = 0


Counted = TypeVar("Counted", RuleCounters, MemberCounters)
Name = TypeVar("Name", bound=Hashable)


def added(one: Counted, other: Counted) -> Counted:
    """Return both sets of counters as one."""
    return type(one)(*(getattr(one, name) + getattr(other, name) for name in one.__dataclass_fields__))


def summed(parts: Iterable[tuple[Name, Counted]]) -> dict[Name, Counted]:
    """Add up what was counted under one name: by several datapaths, engines, or numbers."""
    found: dict[Name, Counted] = {}
    for name, counted in parts:
        found[name] = added(found[name], counted) if name in found else counted
    return found


@dataclass(frozen=True, slots=True)
class SnatPorts:
    """A member's ports of one frontend address by an outbound rule, and how many are in use by protocol.

    `shared`: every member of the pool has these same ports, and what is in use is in use by all of them together.
    """

    frontend: str
    allocated: int
    used: Mapping[str, int]
    rule: str = ""
    shared: bool = False


@dataclass(frozen=True, slots=True)
class SnatCounters:
    """A member's own connections: attempts since the process started, those that found no port, and its ports now."""

    attempted: int = 0
    failed: int = 0
    ports: tuple[SnatPorts, ...] = ()


@dataclass(frozen=True, slots=True)
class Counters:
    """A datapath's counters: by rule, by (pool, member), and drops by reason.

    `capacity` is how many flows the table has room for; 0 where nothing but memory limits them. `stateless`
    packets were balanced by the tables alone, because it was full.
    """

    rules: Mapping[str, RuleCounters] = field(default_factory=dict)
    members: Mapping[tuple[str, str], MemberCounters] = field(default_factory=dict)
    drops: Mapping[Drop, int] = field(default_factory=dict)
    flows: int = 0
    evictions: int = 0
    capacity: int = 0
    stateless: int = 0
    snat: Mapping[tuple[str, str], SnatCounters] = field(default_factory=dict)
    """By (pool, member), for members of outbound rules."""


@dataclass(frozen=True, slots=True)
class FlowRecord:
    """One open flow, as `show flows` prints it. Units: `age_s` and `idle_s` seconds."""

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


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What the configuration says of this host besides the rules.

    `interfaces`: name -> where programs are attached. `leave`: what can forward without the process goes on when it
    stops.
    """

    interfaces: Mapping[str, str] = field(default_factory=dict)
    leave: bool = False


@runtime_checkable
class Measurable(Protocol):
    """A datapath that can be asked, with a packet, whether a frontend reaches a member."""

    judge: str
    """Who gives its verdicts, in words; empty: the tables themselves, by sockets."""

    async def reaches(self, rows: Collection[Row]) -> Mapping[FrontendKey, bool]:
        """Send one packet through the datapath for each row and return whether it was given to a member.

        Leaves no flow and counts nothing; members do not see it. Rows that cannot be asked about are left out.
        """

    async def verdict(self, flow: Flow, interface: str | None = None) -> LiveVerdict | None:
        """Return where a packet that begins a flow would go now; None where that cannot be asked.

        `interface` is where it comes in, which matters for next hops.
        """


@runtime_checkable
class Configurable(Protocol):
    """A datapath that asks for settings of the host."""

    def configure(self, settings: HostSettings) -> None:
        """Use these settings from the next `apply` on, and at the end."""


@runtime_checkable
class Translator(Protocol):
    """A datapath that translates what members open themselves."""

    def outbound_refusal(self, rule: SnatRule) -> Refusal | None:
        """Return why this datapath cannot carry the outbound rule, or None."""


@dataclass(frozen=True, slots=True)
class Wire:
    """Who is where: the host's own addresses and VIPs, and members and gateways by their link address."""

    own: Container[Address] = ()
    links: Mapping[bytes, Address] = field(default_factory=dict)


@runtime_checkable
class Wired(Protocol):
    """A datapath that knows link addresses."""

    def wire(self) -> Wire:
        """Return who is where now. Cost: nothing until something changes."""


@dataclass(frozen=True, slots=True, order=True)
class Attachment:
    """How programs are attached to an interface; `instead` says why not as the configuration has it, '' where so."""

    interface: str
    mode: str
    instead: str = ""


@runtime_checkable
class Attaching(Protocol):
    """A datapath whose programs are attached to interfaces."""

    def attachments(self) -> tuple[Attachment, ...]:
        """Return how they are attached now, by the interface's name."""


@runtime_checkable
class Watchable(Protocol):
    """A datapath whose frames take other ways while packet sockets are to see them."""

    def watch(self, *, begin: bool) -> None:
        """Let packet sockets see all frames from here on, or no longer; calls are counted. Raises: HostError."""


class Datapath(Protocol):
    """Executes entries of the tables. Owner: the controller, which is the only caller of `apply`."""

    name: str

    def mode(self, row: Row) -> str:
        """Return how this datapath carries the row on this host, for `asynclb_datapath_info`: as `transparent`."""

    @property
    def generation(self) -> int:
        """The generation of the tables that new flows meet."""

    def refusal(self, row: Row) -> Refusal | None:
        """Return why this datapath cannot carry the row, or None."""

    async def apply(self, delta: Delta) -> None:
        """Execute the delta's new tables from here on.

        Raises: ApplyError -> something could not be done (a port is taken); nothing has changed.
        Cancel: nothing has changed, or everything has.
        """

    def counters(self) -> Counters:
        """Return a snapshot of the counters. Cost: no more than 5 ms for 1,500 rules and 5,000 members."""

    def flows(self) -> Iterable[FlowRecord]:
        """Iterate over the open flows; may be stale by the time it is read."""

    async def close(self, drain_s: float) -> int:
        """Stop taking flows at once, let open ones go on for `drain_s`, then reset them and undo all that was set up.

        Returns the number of flows that were reset.
        """
