"""The controller: one task that carries out commands, one after the other.

Its state is one frozen `_Active`, replaced by assignment when a command has succeeded; readers see the one before
or the one after. A command is a reload or "health has changed"; the second is never queued twice.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from asynclb.control.assign import Candidate, Choices
from asynclb.control.bulk import in_bulk
from asynclb.control.edges import Notice, RuleState, admin_state_notices, rule_notices, rule_states
from asynclb.control.execution import Execution
from asynclb.control.nat_ports import FORGETFUL, PortMemory
from asynclb.control.prepare import Load, Parsed, Prepared, prepare
from asynclb.control.status import DatapathStatus, Reload, Status
from asynclb.control.targets import still_true, targets_of
from asynclb.datapath.base import Counters, Datapath, FlowRecord, Measurable
from asynclb.errors import ApplyError, ConfigError, Problem
from asynclb.events import Emit, Event
from asynclb.health.target import Target
from asynclb.model import Health, Model, TargetId
from asynclb.rules import NatPorts
from asynclb.tables.compile import TableCache, compile_tables
from asynclb.tables.diff import Delta, diff
from asynclb.tables.row import FrontendKey, Row
from asynclb.tables.snat import SnatRule
from asynclb.tables.tables import EMPTY_TABLES, Tables

TELL_BATCH = 64  # events written in one go: about 2 ms
FIXED = ("admin", "workers")
"""What is set up once, before there is a controller; a reload that changes it is applied without it, with a warning."""

RETRY_S = 1.0  # after a datapath failed to follow the members' health: soon enough for an outage, rare enough for a log


class Prober(Protocol):
    """What the controller asks of the prober."""

    def set_targets(self, targets: Iterable[Target]) -> None:
        """Probe exactly these from now on; what is known of those that stay is kept."""

    def snapshot(self) -> Health:
        """Return what is known now."""


@dataclass(frozen=True, slots=True)
class _Active:
    """What the last successful reload made active, with the tables as health has changed them since."""

    model: Model = field(default_factory=Model)
    digest: str = ""
    rows: tuple[Row, ...] = ()
    choices: Choices = field(default_factory=dict)
    targets: Mapping[TargetId, Target] = field(default_factory=dict)
    seed: int = 0
    tables: Tables = EMPTY_TABLES
    since_s: float = 0.0
    states: Mapping[str, RuleState] = field(default_factory=dict)
    nat_ports: NatPorts = field(default_factory=dict)
    outbound: tuple[SnatRule, ...] = ()


@dataclass(frozen=True, slots=True)
class _ReloadCommand:
    trigger: str
    answer: "asyncio.Future[Reload]"
    parsed: Parsed | None


@dataclass(frozen=True, slots=True)
class _HealthChanged:
    pass


def _nothing_to_configure(_model: Model) -> None:
    """Tell nobody: no datapath here asks for settings."""


class Controller:
    """Implements `StateSource` and `Commands`. Owner: the task in `run`; other methods are for the loop's thread."""

    def __init__(
        self,
        config_path: str,
        *,
        load: Load,
        candidates: Sequence[Candidate],
        datapaths: Mapping[str, Datapath],
        prober: Prober,
        installation_seed: Callable[[], int],
        emit: Emit,
        clock: Callable[[], float] = time.time,
        port_memory: PortMemory = FORGETFUL,
        configure: Callable[[Model], None] = _nothing_to_configure,
    ) -> None:
        """Order: `candidates` from the most to the least preferred; those without a datapath always refuse.

        `configure` tells datapaths what a model says of the host, before tables of it are applied.
        """
        self._config_path = config_path
        self._load = load
        self._candidates = candidates
        self._datapaths = datapaths
        self._prober = prober
        self._installation_seed = installation_seed
        self._emit = emit
        self._clock = clock
        self._port_memory = port_memory
        self._configure = configure
        self._execution = Execution(datapaths, emit=emit, clock=clock)
        self._cache = TableCache()
        self._queue: asyncio.Queue[_ReloadCommand | _HealthChanged] = asyncio.Queue()
        self._health_queued = False
        self._active = _Active()
        self._generation = 0
        self._kept_seed: int | None = None
        self._started_with: Model | None = None
        self._ready = False
        self._stopping = False
        self._started_s = clock()
        self._busy_since: float | None = None
        self._last_reload: Reload | None = None
        self._reloads: Counter[str] = Counter({"applied": 0, "unchanged": 0, "refused": 0})

    async def reload(self, trigger: str, parsed: Parsed | None = None) -> Reload:
        """Read the configuration again (unless it is handed in) and make it active, or refuse it and change nothing.

        Cancel: the reload goes on.
        """
        if self._stopping:
            return self._refused(trigger, (_STOPPING,), time.monotonic())
        answer: asyncio.Future[Reload] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_ReloadCommand(trigger, answer, parsed))
        return await answer

    def health_changed(self, _transitions: object = None) -> None:
        """Have the tables follow the prober's findings. Transitions that arrive before that are joined."""
        if not self._health_queued:
            self._health_queued = True
            self._queue.put_nowait(_HealthChanged())

    async def run(self) -> None:
        """Carry out commands until cancelled; commands that still wait are then refused."""
        try:
            while True:
                command = await self._queue.get()
                self._busy_since = time.monotonic()
                await self._carry_out(command)
                self._busy_since = None
        finally:
            self._stopping = True
            self._refuse_waiting()

    def stop(self) -> None:
        """Take no more commands; `status` says `stopping` from here on."""
        self._stopping = True

    async def close(self, drain_s: float) -> int:
        """Close every datapath at once and return how many flows were reset. Call it when `run` has ended."""
        self._stopping = True
        return sum(await asyncio.gather(*(datapath.close(drain_s) for datapath in self._datapaths.values())))

    def status(self) -> Status:
        """Return what is active now."""
        active = self._active
        return Status(
            ready=self._ready and not self._stopping,
            config_path=self._config_path,
            config_digest=active.digest,
            started_s=self._started_s,
            generation=active.tables.generation,
            generation_since_s=active.since_s,
            model=active.model,
            health=self._prober.snapshot(),
            tables=active.tables,
            datapaths=tuple(self._datapath_statuses(active)),
            last_reload=self._last_reload,
            reloads=dict(self._reloads),
            rule_states=active.states,
            nat_ports=active.nat_ports,
            stopping=self._stopping,
            busy_s=0.0 if self._busy_since is None else time.monotonic() - self._busy_since,
        )

    def counters(self) -> Mapping[str, Counters]:
        """Return each datapath's counters by its name."""
        return {name: datapath.counters() for name, datapath in self._datapaths.items()}

    async def measure(self) -> Mapping[FrontendKey, bool]:
        """Return whether a packet for each rule's frontend is given to a member, as its datapath finds by trying.

        Where a datapath cannot try, its tables answer. Rules over empty pools are left out: there is nobody to reach.
        """
        found: dict[FrontendKey, bool] = {}
        for name, applied in self._execution.applied.items():
            entries = {key: entry for key, entry in applied.tables.entries.items() if entry.row.pool.members}
            found |= {key: entry.table.size > 0 for key, entry in entries.items()}
            datapath = self._datapaths[name]
            if isinstance(datapath, Measurable) and entries:
                found |= await datapath.reaches(tuple(entry.row for entry in entries.values()))
        return found

    def flows(self) -> Iterator[FlowRecord]:
        """Iterate over the open flows of every datapath."""
        for datapath in self._datapaths.values():
            yield from datapath.flows()

    def _datapath_statuses(self, active: _Active) -> Iterator[DatapathStatus]:
        for name, applied in self._execution.applied.items():
            entries = applied.tables.entries
            rules = {
                entry.row.rule.name: choice.why if (choice := active.choices.get(key)) else "being moved"
                for key, entry in entries.items()
            }
            mode_of = self._datapaths[name].mode
            modes = {entry.row.rule.name: mode_of(entry.row) for entry in entries.values()}
            yield DatapathStatus(name, applied.tables.generation, applied.since_s, rules, modes)

    async def _carry_out(self, command: _ReloadCommand | _HealthChanged) -> None:
        if isinstance(command, _HealthChanged):
            self._health_queued = False
            await self._follow_health()
            return
        try:
            result = await self._reload(command)
        except BaseException:
            command.answer.cancel()
            raise
        if not command.answer.done():
            command.answer.set_result(result)

    def _refuse_waiting(self) -> None:
        while not self._queue.empty():
            command = self._queue.get_nowait()
            if isinstance(command, _ReloadCommand) and not command.answer.done():
                command.answer.set_result(self._refused(command.trigger, (_STOPPING,), time.monotonic()))

    async def _reload(self, command: _ReloadCommand) -> Reload:
        started = time.monotonic()
        try:
            parsed = command.parsed
            if parsed is None:
                parsed = await in_bulk(self._load, self._config_path)
            if self._ready and parsed.digest == self._active.digest:
                self._emit(Event.CONFIG_UNCHANGED, trigger=command.trigger)
                return self._record("unchanged", command.trigger, started, warnings=parsed.warnings)
            known = self._active.nat_ports if self._ready else await asyncio.to_thread(self._port_memory.read)
            prepared = await in_bulk(
                prepare, parsed, self._candidates, self._active.model, known, self._active.outbound
            )
            before, delta = await self._activate(prepared)
        except (ConfigError, ApplyError) as error:
            return self._refused(command.trigger, error.problems, started)
        self._started_with = self._started_with or prepared.model
        warnings = (*parsed.warnings, *_restart_warnings(self._started_with, prepared.model))
        self._ready = True
        await self._announce(command.trigger, before, delta, started, warnings)
        return self._record("applied", command.trigger, started, warnings=warnings)

    async def _activate(self, prepared: Prepared) -> tuple[_Active, Delta]:
        """Compile, apply and commit; return what was active before and the difference.

        Raises: ApplyError -> nothing has changed; its problems have their places in the file.
        """
        before = self._active
        seed = await self._seed_of(prepared.model)
        targets = await in_bulk(targets_of, prepared.model, prepared.rows)
        health = await in_bulk(still_true, self._prober.snapshot(), before.targets, targets)
        tables, states = await self._compile(prepared.rows, prepared.outbound, health, seed)
        delta = await in_bulk(diff, before.tables, tables)
        self._configure(prepared.model)
        try:
            await self._execution.replace(tables, prepared.choices)
        except ApplyError as error:
            self._configure(before.model)
            placed = sorted(map(prepared.place, error.problems), key=lambda problem: (problem.line, problem.column))
            raise ApplyError(placed) from error
        self._active = _Active(
            model=prepared.model,
            digest=prepared.parsed.digest,
            rows=prepared.rows,
            choices=prepared.choices,
            targets=targets,
            seed=seed,
            tables=tables,
            since_s=self._clock(),
            states=states,
            nat_ports=prepared.nat_ports,
            outbound=prepared.outbound,
        )
        self._prober.set_targets(targets.values())
        if prepared.nat_ports != before.nat_ports:
            await asyncio.to_thread(self._port_memory.keep, prepared.nat_ports)
        return before, delta

    async def _follow_health(self) -> None:
        """Compile with the present health; a datapath that cannot follow is tried again."""
        active = self._active
        tables, states = await self._compile(active.rows, active.outbound, self._prober.snapshot(), active.seed)
        delta = await in_bulk(diff, active.tables, tables)
        if delta.empty:
            self._active = replace(active, states=states)
        else:
            self._active = replace(active, states=states, tables=tables, since_s=self._clock())
        failures = await self._execution.refresh(self._active.tables, active.choices)
        await self._tell(rule_notices(self._active.tables, active.states, states))
        if failures:
            asyncio.get_running_loop().call_later(RETRY_S, self.health_changed)

    async def _compile(
        self, rows: tuple[Row, ...], outbound: tuple[SnatRule, ...], health: Health, seed: int
    ) -> tuple[Tables, Mapping[str, RuleState]]:
        """Compile the next generation in a thread. A generation's number is never used twice."""
        self._generation += 1
        generation = self._generation

        def work() -> tuple[Tables, Mapping[str, RuleState]]:
            tables = compile_tables(
                rows, health, seed=seed, generation=generation, cache=self._cache, outbound=outbound
            )
            return tables, rule_states(tables, health)

        return await in_bulk(work)

    async def _seed_of(self, model: Model) -> int:
        if model.hash_seed is not None:
            return model.hash_seed
        if self._kept_seed is None:
            self._kept_seed = await asyncio.to_thread(self._installation_seed)
        return self._kept_seed

    async def _announce(
        self, trigger: str, before: _Active, delta: Delta, started: float, warnings: Iterable[Problem]
    ) -> None:
        active = self._active
        self._emit(
            Event.CONFIG_LOADED,
            generation=active.tables.generation,
            trigger=trigger,
            added=len(delta.added),
            removed=len(delta.removed),
            changed=len(delta.changed),
            took_ms=_ms_since(started),
        )
        for warning in warnings:
            self._emit(Event.CONFIG_WARNING, problem=str(warning))
        await self._tell(self._choice_notices(before, active))
        await self._tell(admin_state_notices(before.model, active.model))
        await self._tell(rule_notices(active.tables, before.states, active.states))

    def _choice_notices(self, before: _Active, active: _Active) -> Iterator[Notice]:
        former = {row.key: row for row in before.rows}
        for row in active.rows:
            choice, was = active.choices[row.key], former.get(row.key)
            mode_of = self._datapaths[choice.datapath].mode
            mode = mode_of(row)
            if was is None or before.choices.get(row.key) != choice or mode_of(was) != mode:
                where = {"rule": row.rule.name, "datapath": choice.datapath, "mode": mode, "why": choice.why}
                yield Notice(Event.DATAPATH_CHOSEN, where)

    async def _tell(self, notices: Iterable[Notice]) -> None:
        """Emit notices, letting the loop go on in between: a big reload has thousands."""
        for number, notice in enumerate(notices, 1):
            self._emit(notice.event, **notice.fields)
            if number % TELL_BATCH == 0:
                await asyncio.sleep(0)

    def _refused(self, trigger: str, problems: tuple[Problem, ...], started: float) -> Reload:
        """Record a refusal and say why. At the start there is no log to look into yet: the caller reports it."""
        if trigger != "start":
            self._emit(Event.CONFIG_REFUSED, trigger=trigger, problems=tuple(str(problem) for problem in problems))
        return self._record("refused", trigger, started, problems=problems)

    def _record(
        self,
        result: str,
        trigger: str,
        started: float,
        *,
        problems: tuple[Problem, ...] = (),
        warnings: tuple[Problem, ...] = (),
    ) -> Reload:
        took_s = time.monotonic() - started
        generation = self._active.tables.generation
        self._last_reload = Reload(result, trigger, self._clock(), took_s, generation, problems, warnings)
        self._reloads[result] += 1
        return self._last_reload


_STOPPING = Problem((), "", "the process is stopping", "send it to the next instance")


def _restart_warnings(started_with: Model, wanted: Model) -> tuple[Problem, ...]:
    """Return what a reload cannot change while the process runs."""
    changed = [key for key in FIXED if getattr(started_with, key) != getattr(wanted, key)]
    rule = "a changed `{}` takes effect when the process starts; the old one stays active"
    return tuple(Problem((key,), "", rule.format(key), "restart asynclb", code="NEEDS_RESTART") for key in changed)


def _ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1e3, 1)
