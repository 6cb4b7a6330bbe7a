"""The controller: one task that carries out commands, one after the other.

Its state is one frozen `Active`, replaced by assignment when a command has succeeded; readers see the one before
or the one after. A command is a reload or "health has changed"; the second is never queued twice.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from asynclb.control.active import Active
from asynclb.control.announce import Announcer
from asynclb.control.assign import Candidate
from asynclb.control.bulk import in_bulk
from asynclb.control.commands import Command, HealthChanged, MemberCommand, ReloadCommand, answer
from asynclb.control.edges import (
    RuleState,
    restart_warnings,
    rule_notices,
    rule_states,
)
from asynclb.control.execution import Execution
from asynclb.control.nat_ports import FORGETFUL, PortMemory
from asynclb.control.overrides import (
    MemberChange,
    MemberId,
    Overrides,
    amend,
    find_member,
    same_changes,
    without,
)
from asynclb.control.prepare import Load, Parsed, Prepared, prepare
from asynclb.control.status import Change, Generation, Reload, Status
from asynclb.control.targets import still_true, targets_of
from asynclb.datapath.base import Counters, Datapath, FlowRecord
from asynclb.errors import ApplyError, ConfigError, Problem
from asynclb.events import Emit, Event
from asynclb.health.target import Target
from asynclb.model import Health, Model
from asynclb.tables.compile import TableCache, compile_tables
from asynclb.tables.diff import Delta, diff
from asynclb.tables.row import FrontendKey, Row
from asynclb.tables.snat import SnatRule
from asynclb.tables.tables import Tables

HISTORY = 100  # generations that are remembered: a night of flapping members, at 100 bytes each
RETRY_S = 1.0  # after a datapath failed to follow the members' health: soon enough for an outage, rare enough for a log


class Prober(Protocol):
    """What the controller asks of the prober."""

    def set_targets(self, targets: Iterable[Target]) -> None:
        """Probe exactly these from now on; what is known of those that stay is kept."""

    def snapshot(self) -> Health:
        """Return what is known now."""


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
        self._announcer = Announcer(emit, {name: datapath.mode for name, datapath in datapaths.items()})
        self._cache = TableCache()
        self._history: deque[Generation] = deque(maxlen=HISTORY)
        self._queue: asyncio.Queue[Command] = asyncio.Queue()
        self._health_queued = False
        self._active = Active()
        self._generation = 0
        self._kept_seed: int | None = None
        self._started_with: Model | None = None
        self._ready = False
        self._stopping = False
        self._started_s = clock()
        self._busy_since: float | None = None
        self._last_reload: Reload | None = None
        self._reloads: Counter[str] = Counter({"applied": 0, "unchanged": 0, "refused": 0})

    async def reload(self, trigger: str, parsed: Parsed | None = None, *, expected: int | None = None) -> Reload:
        """Read the configuration again (unless it is handed in) and make it active, or refuse it and change nothing.

        `expected`: the generation that must be active still; if another one is, the result is `stale`.
        Cancel: the reload goes on.
        """
        if self._stopping:
            return self._refused(trigger, (_STOPPING,), time.monotonic())
        done: asyncio.Future[Reload] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(ReloadCommand(trigger, done, parsed, expected))
        return await done

    async def change_member(
        self, name: MemberId, change: MemberChange | None, by: str, *, expected: int | None = None
    ) -> Change:
        """Lay a change over what the file says of a member; None takes back what was laid over it.

        `expected`: as for `reload`. Cancel: the change goes on.
        """
        if self._stopping:
            return Change("refused", self._active.tables.generation, (_STOPPING,))
        done: asyncio.Future[Change] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(MemberCommand(name, change, by, expected, done))
        return await done

    def health_changed(self, _transitions: object = None) -> None:
        """Have the tables follow the prober's findings. Transitions that arrive before that are joined."""
        if not self._health_queued:
            self._health_queued = True
            self._queue.put_nowait(HealthChanged())

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

    @property
    def stopping(self) -> bool:
        """Whether no more commands are taken."""
        return self._stopping

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
            datapaths=tuple(self._execution.statuses(active.choices)),
            last_reload=self._last_reload,
            reloads=dict(self._reloads),
            rule_states=active.states,
            nat_ports=active.nat_ports,
            overrides=active.overrides,
            history=tuple(self._history),
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
        return await self._execution.measure()

    def flows(self) -> Iterator[FlowRecord]:
        """Iterate over the open flows of every datapath."""
        for datapath in self._datapaths.values():
            yield from datapath.flows()

    async def _carry_out(self, command: Command) -> None:
        match command:
            case HealthChanged():
                self._health_queued = False
                await self._follow_health()
            case ReloadCommand():
                await answer(command.answer, self._reload(command))
            case MemberCommand():
                await answer(command.answer, self._change_member(command))

    def _refuse_waiting(self) -> None:
        while not self._queue.empty():
            command = self._queue.get_nowait()
            if isinstance(command, HealthChanged) or command.answer.done():
                continue
            if isinstance(command, ReloadCommand):
                command.answer.set_result(self._refused(command.trigger, (_STOPPING,), time.monotonic()))
            else:
                command.answer.set_result(Change("refused", self._active.tables.generation, (_STOPPING,)))

    async def _reload(self, command: ReloadCommand) -> Reload:
        started = time.monotonic()
        if self._is_stale(command.expected):
            return Reload("stale", command.trigger, self._clock(), 0.0, self._active.tables.generation)
        try:
            parsed = command.parsed
            if parsed is None:
                parsed = await in_bulk(self._load, self._config_path)
            if self._ready and parsed.digest == self._active.digest:
                self._emit(Event.CONFIG_UNCHANGED, trigger=command.trigger)
                return self._record("unchanged", command.trigger, started, warnings=parsed.warnings)
            before, delta = await self._activate(await self._prepare(parsed, self._active.overrides), command.trigger)
        except (ConfigError, ApplyError) as error:
            return self._refused(command.trigger, error.problems, started)
        self._started_with = self._started_with or self._active.model
        warnings = (*parsed.warnings, *restart_warnings(self._started_with, self._active.model))
        self._ready = True
        await self._announcer.loaded(command.trigger, before, self._active, delta, warnings, _ms_since(started))
        return self._record("applied", command.trigger, started, warnings=warnings)

    async def _change_member(self, command: MemberCommand) -> Change:
        """Make the same configuration active again, with other overrides."""
        active = self._active
        generation = active.tables.generation
        if self._is_stale(command.expected):
            return Change("stale", generation)
        filed = find_member(active.parsed.model, *command.name) if active.parsed is not None else None
        if active.parsed is None or filed is None:
            return Change("unknown", generation)
        if command.change is None:
            overrides = without(active.overrides, command.name)
        else:
            at_s = self._clock()
            overrides = amend(active.overrides, command.name, filed, command.change, command.by, at_s)
        if same_changes(overrides, active.overrides):
            return Change("unchanged", generation)
        try:
            before, _ = await self._activate(await self._prepare(active.parsed, overrides), "member")
        except (ConfigError, ApplyError) as error:
            return Change("refused", generation, error.problems)
        await self._announcer.states(before, self._active)
        return Change("applied", self._active.tables.generation)

    def _is_stale(self, expected: int | None) -> bool:
        return expected is not None and expected != self._active.tables.generation

    async def _prepare(self, parsed: Parsed, overrides: Overrides) -> Prepared:
        active = self._active
        known = active.nat_ports if self._ready else await asyncio.to_thread(self._port_memory.read)
        return await in_bulk(
            prepare, parsed, self._candidates, active.model, known, active.outbound, overrides=overrides
        )

    async def _activate(self, prepared: Prepared, cause: str) -> tuple[Active, Delta]:
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
        self._active = Active(
            model=prepared.model,
            parsed=prepared.parsed,
            overrides=prepared.overrides,
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
        self._remember(delta, cause)
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
            self._remember(delta, "health")
        failures = await self._execution.refresh(self._active.tables, active.choices)
        await self._announcer.tell(rule_notices(self._active.tables, active.states, states))
        if failures:
            asyncio.get_running_loop().call_later(RETRY_S, self.health_changed)

    def _remember(self, delta: Delta, cause: str) -> None:
        numbers = len(delta.added), len(delta.removed), len(delta.changed)
        self._history.append(Generation(delta.new.generation, self._clock(), cause, *numbers))

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


def _ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1e3, 1)
