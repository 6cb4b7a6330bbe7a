"""What the controller shows: a read-only snapshot for the admin API, the metrics and the command line."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from asynclb.control.overrides import MemberChange, MemberId, Overrides
from asynclb.datapath.ask import LiveVerdict
from asynclb.datapath.base import Attachment, Counters, FlowRecord
from asynclb.discovery import SourceStatus
from asynclb.errors import Problem
from asynclb.model import Health, Member, Model
from asynclb.net.flow import Flow
from asynclb.rules import NatPorts
from asynclb.tables.tables import Tables

STUCK_S = 30.0  # a big configuration compiles in seconds; a command that takes longer than this will not end


@dataclass(frozen=True, slots=True)
class Reload:
    """What became of one attempt to load a configuration.

    `result` is `applied`, `unchanged`, `refused`, or `stale` if another generation was expected; `trigger` is `start`,
    `signal`, `watch` or `api`.
    `problems` say why it was refused; `warnings` are what an applied one should mend.
    Units: `at_s` seconds since the epoch (for people), `took_s` seconds.
    """

    result: str
    trigger: str
    at_s: float
    took_s: float
    generation: int
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a change to a member.

    `result` is `applied`, `unchanged`, `refused` (`problems` say why), `unknown` if there is no such member, or
    `stale` if it was for another generation; `generation` is the one that is active now.
    """

    result: str
    generation: int
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation of the tables: how many entries came, went and changed with it, and by what.

    `cause` is a reload's trigger, `member` (an operator said something of one), `source` (a source did) or `health`.
    Units: `at_s` seconds since the epoch, for people.
    """

    number: int
    at_s: float
    cause: str
    added: int
    removed: int
    changed: int


@dataclass(frozen=True, slots=True)
class DatapathStatus:
    """What is active in one datapath, and since when (`since_s` seconds since the epoch)."""

    name: str
    generation: int
    since_s: float
    rules: Mapping[str, str]
    """Rule name -> why this datapath carries it."""
    modes: Mapping[str, str]
    """Rule name -> how this datapath carries it, as `transparent` or `sockets`."""
    outbound: tuple[str, ...] = ()
    """The outbound rules that it carries."""
    attachments: tuple[Attachment, ...] = ()
    """The interfaces that its programs are attached to."""

    @property
    def mode(self) -> str:
        """How it carries its rules: each mode once, '' where it has no rules."""
        return ", ".join(sorted(set(self.modes.values())))


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that is active at one instant. `ready`: the first tables are applied in every datapath."""

    ready: bool
    config_path: str
    config_digest: str
    started_s: float
    generation: int
    generation_since_s: float
    model: Model
    health: Health
    tables: Tables
    datapaths: tuple[DatapathStatus, ...]
    last_reload: Reload | None
    reloads: Mapping[str, int]
    """Result -> how many."""
    rule_states: Mapping[str, str] = field(default_factory=dict)
    """Rule name -> `waiting`, `serving`, `silent` or `all_down`."""
    nat_ports: NatPorts = field(default_factory=dict)
    """Inbound NAT rule -> member -> frontend port."""
    overrides: Overrides = field(default_factory=dict)
    """What operators have laid over the file's word on members; `model` has it already."""
    discovered: Mapping[str, tuple[Member, ...]] = field(default_factory=dict)
    """Pool -> the members that its source told of; `model` has them already."""
    sources: Mapping[str, SourceStatus] = field(default_factory=dict)
    """Pool -> what is known of its source."""
    history: tuple[Generation, ...] = ()
    """The last generations, the oldest first."""
    stopping: bool = False
    busy_s: float = 0.0
    """How long the controller has been carrying out its present command; 0 when it waits for one."""


class StateSource(Protocol):
    """What readers see of the controller. Every call answers from memory and never blocks."""

    @property
    def stopping(self) -> bool:
        """Whether datapaths are about to be closed."""

    def status(self) -> Status:
        """Return what is active now."""

    def counters(self) -> Mapping[str, Counters]:
        """Return each datapath's counters by its name."""

    def flows(self) -> Iterable[FlowRecord]:
        """Iterate over the open flows of every datapath."""

    async def ask(self, datapath: str, flow: Flow, interface: str | None) -> tuple[str, LiveVerdict | None]:
        """Return who gives a datapath's verdicts ('' where nobody but the tables does), and his on a new flow.

        `interface` is where it comes in. No packet leaves and nothing is counted. Cost: some 20 us.
        """


class Commands(Protocol):
    """What writers may ask of the controller; each is carried out by its one task."""

    async def reload(self, trigger: str, *, expected: int | None = None) -> Reload:
        """Read the configuration again and make it active, or refuse it and change nothing.

        `expected`: the generation that must be active still; if another one is, the result is `stale`.
        """

    async def change_member(
        self, name: MemberId, change: MemberChange | None, by: str, *, expected: int | None = None
    ) -> Change:
        """Lay a change over what the file says of a member; None takes back what was laid over it."""
