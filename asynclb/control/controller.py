"""The controller: one task that carries out commands, one after the other.

Its state is one frozen `Active`, replaced by assignment when a command has succeeded; readers see the one before
or the one after. A command is a reload or "health has changed"; the second is never queued twice.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Protocol

from asynclb.control.active import Active
from asynclb.control.announce import Announcer
from asynclb.control.assign import Candidate
from asynclb.control.bulk import collector_held_off, in_bulk
from asynclb.control.changes import Wanted, member_change, source_change, what_fits, with_discovered
from asynclb.control.commands import Command, HealthChanged, MemberCommand, ReloadCommand, SourceCommand, answer
from asynclb.control.compiled import Compiler, is_quick
from asynclb.control.edges import restart_warnings, rule_notices
from asynclb.control.execution import Execution
from asynclb.control.member_memory import NO_MEMORY, MemberMemory
from asynclb.control.nat_ports import FORGETFUL, PortMemory
from asynclb.control.overrides import MemberChange, MemberId, Overrides
from asynclb.control.prepare import Discovered, Load, Parsed, Prepared, prepare
from asynclb.control.reloads import STOPPING, Reloads
from asynclb.control.status import Change, Generation, Reload, Status
from asynclb.control.targets import feeds_of
from asynclb.datapath.ask import LiveVerdict
from asynclb.datapath.base import Counters, Datapath, FlowRecord
from asynclb.discovery import Feed, SourceStatus
from asynclb.errors import ApplyError, ConfigError
from asynclb.events import Emit, Event
from asynclb.health.target import Target
from asynclb.model import Health, Member, MembersFrom, Model
from asynclb.net.flow import Flow
from asynclb.tables.compile import TableCache
from asynclb.tables.diff import Delta
from asynclb.tables.row import FrontendKey

HISTORY = 100  # generations that are remembered: a night of flapping members, at 100 bytes each
RETRY_S = 1.0  # after a datapath failed to follow the members' health: soon enough for an outage, rare enough for a log


class Prober(Protocol):
    """What the controller asks of the prober."""

    def set_targets(self, targets: Iterable[Target]) -> None:
        """Probe exactly these from now on; what is known of those that stay is kept."""

    def snapshot(self) -> Health:
        """Return what is known now."""


class Discovery(Protocol):
    """What the controller asks of whoever runs the sources of members."""

    def set_feeds(self, feeds: Mapping[str, Feed]) -> None:
        """Ask exactly these from now on."""

    def statuses(self) -> Mapping[str, SourceStatus]:
        """Return what is known of the source of each pool that has one."""


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
        discovery: Discovery | None = None,
        member_memory: MemberMemory = NO_MEMORY,
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
        self._discovery = discovery
        self._member_memory = member_memory
        self._execution = Execution(datapaths, emit=emit, clock=clock)
        self._announcer = Announcer(emit, {name: datapath.mode for name, datapath in datapaths.items()})
        self._compiler = Compiler(TableCache(), self._execution.deltas)
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
        self._reloads = Reloads(emit, clock)

    async def reload(
        self,
        trigger: str,
        parsed: Parsed | None = None,
        *,
        expected: int | None = None,
        discovered: Discovered = MappingProxyType({}),
    ) -> Reload:
        """Read the configuration again (unless it is handed in) and make it active, or refuse it and change nothing.

        `expected`: the generation that must be active still; if another one is, the result is `stale`. `discovered`:
        at the start, what sources have told of; what does not fit is left out.
        Cancel: the reload goes on.
        """
        if self._stopping:
            generation = self._active.tables.generation
            return self._reloads.refused(trigger, (STOPPING,), time.monotonic(), generation)
        done: asyncio.Future[Reload] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(ReloadCommand(trigger, done, parsed, expected, discovered))
        return await done

    async def change_member(
        self, name: MemberId, change: MemberChange | None, by: str, *, expected: int | None = None
    ) -> Change:
        """Lay a change over what the file says of a member; None takes back what was laid over it.

        `expected`: as for `reload`. Cancel: the change goes on.
        """
        if self._stopping:
            return Change("refused", self._active.tables.generation, (STOPPING,))
        done: asyncio.Future[Change] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(MemberCommand(name, change, by, expected, done))
        return await done

    async def take_members(self, pool: str, members_from: MembersFrom, members: tuple[Member, ...]) -> Change:
        """Have the members that a source told of, or refuse them and keep those before.

        The result is `stale` where the pool has another source meanwhile. Cancel: the change goes on.
        """
        if self._stopping:
            return Change("stale", self._active.tables.generation)
        done: asyncio.Future[Change] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(SourceCommand(pool, members_from, members, done))
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
                with collector_held_off():
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
            last_reload=self._reloads.last,
            reloads=self._reloads.counts,
            rule_states=active.states,
            nat_ports=active.nat_ports,
            overrides=active.overrides,
            discovered=active.discovered,
            sources=self._discovery.statuses() if self._discovery is not None else {},
            history=tuple(self._history),
            stopping=self._stopping,
            busy_s=0.0 if self._busy_since is None else time.monotonic() - self._busy_since,
        )

    def counters(self) -> Mapping[str, Counters]:
        """Return each datapath's counters by its name."""
        return {name: datapath.counters() for name, datapath in self._datapaths.items()}

    async def measure(self) -> Mapping[FrontendKey, bool]:
        """Return whether each frontend's packets are given to a member; see `Execution.measure`."""
        return await self._execution.measure()

    async def ask(self, datapath: str, flow: Flow, interface: str | None) -> tuple[str, LiveVerdict | None]:
        """Return who gives a datapath's verdicts, and his on a new flow; see `StateSource.ask`."""
        return await self._execution.ask(datapath, flow, interface)

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
                at_s = self._clock()
                await answer(command.answer, self._change(partial(member_change, command=command, at_s=at_s)))
            case SourceCommand():
                await answer(command.answer, self._change(partial(source_change, command=command)))

    def _refuse_waiting(self) -> None:
        while not self._queue.empty():
            self._reloads.refuse_waiting(self._queue.get_nowait(), self._active.tables.generation)

    async def _reload(self, command: ReloadCommand) -> Reload:
        started = time.monotonic()
        generation = self._active.tables.generation
        if command.expected not in (None, generation):
            return Reload("stale", command.trigger, self._clock(), 0.0, generation)
        try:
            parsed = command.parsed
            if parsed is None:
                parsed = await in_bulk(self._load, self._config_path)
            if self._ready and parsed.digest == self._active.digest:
                self._emit(Event.CONFIG_UNCHANGED, trigger=command.trigger)
                return self._reloads.record("unchanged", command.trigger, started, generation, warnings=parsed.warnings)
            parsed, discovered = await self._join(command, parsed)
            prepared = await self._prepare(parsed, self._active.overrides, discovered)
            before, delta = await self._activate(prepared, command.trigger)
        except (ConfigError, ApplyError) as error:
            return self._reloads.refused(command.trigger, error.problems, started, generation)
        self._started_with = self._started_with or self._active.model
        warnings = (*parsed.warnings, *restart_warnings(self._started_with, self._active.model))
        self._ready = True
        await self._announcer.loaded(command.trigger, before, self._active, delta, warnings, _ms_since(started))
        generation = self._active.tables.generation
        return self._reloads.record("applied", command.trigger, started, generation, warnings=warnings)

    async def _join(self, command: ReloadCommand, parsed: Parsed) -> tuple[Parsed, Discovered]:
        """Return the configuration with what sources told of: at the start as far as it fits, later all of it."""
        if self._ready and not self._active.discovered:
            return parsed, {}
        if self._ready:
            return await in_bulk(with_discovered, parsed, self._active.discovered)
        joined, kept, problems = await in_bulk(what_fits, parsed, command.discovered)
        for problem in problems:
            self._emit(Event.CONFIG_WARNING, problem=str(problem))
        return joined, kept

    async def _change(self, decide: Callable[[Active], Wanted | Change]) -> Change:
        """Make the same configuration active again with what a command asks for beside it, unless that is nothing."""
        try:
            wanted = await in_bulk(decide, self._active)
            if isinstance(wanted, Change):
                return wanted
            prepared = await self._prepare(wanted.parsed, wanted.overrides, wanted.discovered)
            before, _ = await self._activate(prepared, wanted.cause)
        except (ConfigError, ApplyError) as error:
            return Change("refused", self._active.tables.generation, error.problems)
        await self._announcer.states(before, self._active)
        return Change("applied", self._active.tables.generation)

    async def _prepare(self, parsed: Parsed, overrides: Overrides, discovered: Discovered) -> Prepared:
        active = self._active
        known = active.nat_ports if self._ready else await asyncio.to_thread(self._port_memory.read)
        work = partial(prepare, overrides=overrides, discovered=discovered)
        return await in_bulk(work, parsed, self._candidates, active.model, known, active.outbound)

    async def _activate(self, prepared: Prepared, cause: str) -> tuple[Active, Delta]:
        """Compile, apply and commit; return what was active before and the difference.

        Raises: ApplyError -> nothing has changed; its problems have their places in the file.
        """
        before = self._active
        after = replace(
            before,
            model=prepared.model,
            parsed=prepared.parsed,
            overrides=prepared.overrides,
            digest=prepared.parsed.digest,
            rows=prepared.rows,
            choices=prepared.choices,
            seed=await self._seed_of(prepared.model),
            nat_ports=prepared.nat_ports,
            outbound=prepared.outbound,
            discovered=prepared.discovered,
        )
        compile_anew = self._compiler.configured
        made = await in_bulk(compile_anew, before, after, self._next_generation(), self._prober.snapshot())
        self._configure(prepared.model)
        try:
            await self._execution.replace(made.deltas)
        except ApplyError as error:
            self._configure(before.model)
            placed = sorted(map(prepared.place, error.problems), key=lambda problem: (problem.line, problem.column))
            raise ApplyError(placed) from error
        self._active = replace(made.active, since_s=self._clock())
        self._remember(made.delta, cause)
        self._prober.set_targets(self._active.targets.values())
        if self._discovery is not None:
            self._discovery.set_feeds(feeds_of(prepared.model))
        if prepared.discovered != before.discovered:
            await asyncio.to_thread(self._member_memory.keep, prepared.model, prepared.discovered)
        if prepared.nat_ports != before.nat_ports:
            await asyncio.to_thread(self._port_memory.keep, prepared.nat_ports)
        return before, made.delta

    async def _follow_health(self) -> None:
        """Compile with the present health; a datapath that cannot follow is tried again."""
        active = self._active
        work = partial(self._compiler.followed, active, self._next_generation(), self._prober.snapshot())
        made = work() if is_quick(active) else await in_bulk(work)
        self._active = made.active
        if not made.delta.empty:
            self._active = replace(made.active, since_s=self._clock())
            self._remember(made.delta, "health")
        failures = await self._execution.refresh(made.deltas)
        await self._announcer.tell(rule_notices(self._active.tables, active.states, self._active.states))
        if failures:
            asyncio.get_running_loop().call_later(RETRY_S, self.health_changed)

    def _remember(self, delta: Delta, cause: str) -> None:
        numbers = len(delta.added), len(delta.removed), len(delta.changed)
        self._history.append(Generation(delta.new.generation, self._clock(), cause, *numbers))

    def _next_generation(self) -> int:
        """Return a number for tables that nothing else had or will have."""
        self._generation += 1
        return self._generation

    async def _seed_of(self, model: Model) -> int:
        if model.hash_seed is not None:
            return model.hash_seed
        if self._kept_seed is None:
            self._kept_seed = await asyncio.to_thread(self._installation_seed)
        return self._kept_seed


def _ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1e3, 1)
