"""Stand-ins with behaviour: a datapath that records and can refuse and fail, a prober that is told, a loader."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network

from asynclb.control.assign import Candidate
from asynclb.control.controller import Controller
from asynclb.control.nat_ports import FORGETFUL, PortMemory
from asynclb.datapath.base import Counters, FlowRecord, Refusal
from asynclb.errors import ApplyError, ConfigError, Problem
from asynclb.events import Event
from asynclb.health.target import Target
from asynclb.model import (
    BackendPool,
    Frontend,
    Health,
    HealthState,
    LoadBalancingRule,
    Member,
    MemberHealth,
    Model,
    Probe,
    ProbeProtocol,
    Reason,
    Scope,
    TargetId,
)
from asynclb.net.flow import Protocol
from asynclb.tables.diff import Delta
from asynclb.tables.row import Row
from asynclb.tables.tables import EMPTY_TABLES, Tables

PROBE = Probe("tcp", ProbeProtocol.TCP, 80)


def web_model(
    *names: str, weight: int = 1, probe: Probe | None = PROBE, rules: int = 1, datapath: str | None = None
) -> Model:
    """Make a model with a pool `web` of these members and rules `web-0`, `web-1`, ... on ports 80, 81, ..."""
    members = tuple(Member(name, IPv4Address(f"10.1.0.{i}"), weight) for i, name in enumerate(names, 11))
    frontend = Frontend("vip", IPv4Address("203.0.113.10"), Scope.PUBLIC, (IPv4Network("0.0.0.0/0"),))
    return Model(
        hash_seed=7,
        frontends={"vip": frontend},
        backend_pools={"web": BackendPool("web", members)},
        probes={probe.name: probe} if probe else {},
        rules=tuple(
            LoadBalancingRule(
                f"web-{i}",
                "vip",
                Protocol.TCP,
                80 + i,
                8080,
                "web",
                probe=probe.name if probe else None,
                datapath=datapath,
            )
            for i in range(rules)
        ),
    )


@dataclass
class Log:
    """Records events; an `Emit`."""

    events: list[tuple[Event, dict[str, object]]] = field(default_factory=list)

    def __call__(self, event: Event, /, **fields: object) -> None:
        self.events.append((event, fields))

    def names(self) -> list[Event]:
        """Return the names in order."""
        return [event for event, _ in self.events]

    def of(self, event: Event) -> list[dict[str, object]]:
        """Return the fields of every event of a name."""
        return [fields for found, fields in self.events if found is event]


class FakeDatapath:
    """Executes tables in memory and remembers every delta. `fail_next` makes the next applies fail."""

    def __init__(
        self,
        name: str,
        *,
        refuses: Refusal | None = None,
        refuses_port: Callable[[int], bool] = lambda _port: True,
        journal: list[str] | None = None,
    ) -> None:
        self.name = name
        self.refuses = refuses
        self.refuses_port = refuses_port
        self.deltas: list[Delta] = []
        self.executes: Tables = EMPTY_TABLES
        self.fail_next = 0
        self.closed: list[float] = []
        self.journal = journal if journal is not None else []
        self.numbers = Counters()
        self.records: list[FlowRecord] = []

    def mode(self, row: Row) -> str:
        return "memory" if row.rule.transparent else "borrowed memory"

    @property
    def generation(self) -> int:
        return self.executes.generation

    def refusal(self, row: Row) -> Refusal | None:
        return self.refuses if self.refuses_port(row.key.port) else None

    async def apply(self, delta: Delta) -> None:
        if self.fail_next:
            self.fail_next -= 1
            self.journal.append(f"{self.name} fails")
            raise ApplyError([Problem(("rules", 0), "80", "the port is taken", "stop what holds it")])
        assert delta.old.entries == self.executes.entries, "a delta must start from what is executed"
        self.deltas.append(delta)
        self.executes = delta.new
        self.journal.append(f"{self.name} applies {len(delta.new.entries)} entries")

    def counters(self) -> Counters:
        return self.numbers

    def flows(self) -> Iterable[FlowRecord]:
        return tuple(self.records)

    async def close(self, drain_s: float) -> int:
        self.closed.append(drain_s)
        return 3


class FakeProber:
    """Holds what it was told. `say` is a member's probe answering."""

    def __init__(self) -> None:
        self.targets: dict[TargetId, Target] = {}
        self.health: dict[TargetId, MemberHealth] = {}

    def set_targets(self, targets: Iterable[Target]) -> None:
        self.targets = {target.id: target for target in targets}
        self.health = {key: found for key, found in self.health.items() if key in self.targets}

    def snapshot(self) -> Health:
        return Health(dict(self.health))

    def say(self, member: str, state: HealthState, pool: str = "web", probe: str = "tcp") -> None:
        reason = Reason.UP_PROBE_SUCCESS if state is HealthState.UP else Reason.DOWN_PROBE_TCP_TIMEOUT
        self.health[pool, member, probe] = MemberHealth(state, reason, 1)


class FakeSource:
    """Puts every problem on line 7 of the file."""

    def locate(self, problem: Problem) -> Problem:
        return replace(problem, file="asynclb.yaml", line=7, column=3)


@dataclass(frozen=True)
class FakeParsed:
    """A configuration that parsed."""

    model: Model
    digest: str
    warnings: tuple[Problem, ...] = ()
    source: FakeSource = field(default_factory=FakeSource)
    most: int = 3

    def with_members(self, discovered: Mapping[str, tuple[Member, ...]]) -> "FakeParsed":
        """Put the members into the pools that have a source; a pool holds at most `most` of them."""
        pools = dict(self.model.backend_pools)
        for name, members in discovered.items():
            if len(members) > self.most:
                raise ConfigError([Problem(("backend_pools", name), "", "too many members", "remove some")])
            pools[name] = replace(pools[name], members=members)
        return replace(self, model=replace(self.model, backend_pools=pools))


class FakeLoader:
    """Hands out whatever configuration is put into it, as a file would."""

    def __init__(self, model: Model) -> None:
        self.put(model)

    def put(self, model: Model, *warnings: Problem) -> None:
        self.content: FakeParsed | Problem = FakeParsed(model, f"digest-{hash(repr(model))}", warnings)

    def break_it(self) -> None:
        self.content = Problem(("rules", 0, "protocl"), "tcp", "is not a key", "write protocol")

    def __call__(self, _path: str) -> FakeParsed:
        if isinstance(self.content, Problem):
            raise ConfigError([self.content])
        return self.content


@dataclass
class Bench:
    """A controller with everything around it."""

    loader: FakeLoader
    datapaths: list[FakeDatapath]
    prober: FakeProber = field(default_factory=FakeProber)
    log: Log = field(default_factory=Log)
    now_s: float = 1_800_000_000.0

    def controller(self, port_memory: PortMemory = FORGETFUL) -> Controller:
        return Controller(
            "asynclb.yaml",
            load=self.loader,
            candidates=[Candidate(datapath.name, datapath.refusal) for datapath in self.datapaths],
            datapaths={datapath.name: datapath for datapath in self.datapaths},
            prober=self.prober,
            installation_seed=lambda: 99,
            emit=self.log,
            clock=lambda: self.now_s,
            port_memory=port_memory,
        )
