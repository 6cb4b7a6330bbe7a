"""The prober: runs the checks of all targets on time, keeps their state, and tells who listens what changed.

One task decides when (schedule, gate) and one task per running check asks (kinds); what an answer means is decided
by the machine. A task for each check costs about 15 us more than hand-driven callbacks would, and buys checks that
read from top to bottom and end with their timeout.

Laws:
  1. Checks of one target never overlap, and at most `max_in_flight` of one probe run at a time.
  2. Transitions are told in the order they happened, in one batch for one turn of the event loop.
  3. A target keeps its state while its address and its question stay the same.
  4. Results of a target that was removed or replaced are thrown away.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from asynclb.events import Emit, Event
from asynclb.health.gate import Gate
from asynclb.health.kind import ProbeKind
from asynclb.health.machine import Damping, TargetState, initial, step
from asynclb.health.record import Check, Histogram, ProbeResults, Record, Results
from asynclb.health.schedule import Schedule, first_start, following, grid_after, place_of, spread, start_at
from asynclb.health.sockets import Sockets
from asynclb.health.target import Target, Transition, same_question
from asynclb.model import Health, HealthState, MemberHealth, Probe, ProbeProtocol, TargetId

_TURN_NS = 5_000_000
"""The scheduler wakes at most every 5 ms: a tenth of the shortest interval, and a batch of five at 1,000 checks/s."""
_DAMPED_INTERVALS = 60  # five minutes at the default interval

_BATCH = 64
"""Checks started in one turn: about 2 ms of work, so that a stall of the loop is not followed by another."""


class _Series:
    """The checks of one target, one after the other. Owner: the prober."""

    __slots__ = ("damping", "due_ns", "grid_ns", "record", "state", "stopped", "target", "task")

    def __init__(self, target: Target, state: TargetState, record: Record) -> None:
        self.target = target
        self.state = state
        self.record = record
        self.damping = _damping(target.probe)
        self.grid_ns = 0
        self.due_ns = 0
        self.stopped = False
        self.task: asyncio.Task[None] | None = None


class _Line:
    """What the targets of one probe share. Owner: the prober."""

    __slots__ = ("durations", "gate")

    def __init__(self, limit: int) -> None:
        self.gate: Gate[_Series] = Gate(limit)
        self.durations = Histogram()


class Prober:
    """Keeps the health of a set of targets. Owner of every state below: the task in `run`.

    Cost: 5,000 targets every 5 s take the share of one core that tests/bench/health_bench.py prints.
    """

    def __init__(
        self,
        kinds: Mapping[ProbeProtocol, ProbeKind],
        on_change: Callable[[tuple[Transition, ...]], None],
        emit: Emit,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._kinds = kinds
        self._on_change = on_change
        self._emit = emit
        self._clock_ns = clock_ns
        self._chance = chance
        self._series: dict[TargetId, _Series] = {}
        self._lines: dict[str, _Line] = {}
        self._schedule: Schedule[_Series] = Schedule()
        self._open_gates: dict[str, None] = {}  # probes that got a place back while others waited
        self._health: dict[TargetId, MemberHealth] = {}
        self._snapshot: Health | None = None
        self._changes: list[Transition] = []
        self._alarm: asyncio.Future[None] | None = None
        self._alarm_ns: int | None = None  # what the task sleeps towards; None: nothing is due

    # What others may ask at any time

    def set_targets(self, targets: Iterable[Target]) -> None:
        """Check exactly these from now on; what is known of those whose question is unchanged stays known.

        Cost: for 5,000 targets about 4 ms if none changed and 40 ms if all did.
        Raises: KeyError -> no kind for a target's protocol; nothing has changed.
        """
        wanted = {target.id: target for target in targets}
        for protocol in {target.probe.protocol for target in wanted.values()}:
            self._kinds[protocol]
        now_ns = self._clock_ns()
        for gone in self._series.keys() - wanted.keys():
            self._stop(self._series.pop(gone))
            del self._health[gone]
        for target in wanted.values():
            series = self._series.get(target.id)
            if series is None or series.target != target:
                self._follow(target, series, now_ns)
        self._keep_lines({target.probe.name: target.probe for target in wanted.values()})
        self._snapshot = None
        self._wake()

    def snapshot(self) -> Health:
        """Return what is known of every target. Cost: nothing while nothing has changed."""
        if self._snapshot is None:
            self._snapshot = Health(MappingProxyType(dict(self._health)))
        return self._snapshot

    def results(self) -> Results:
        """Return the counters, as they are now. Cost: 0.2 us for each target (tests/bench/scrape_bench.py)."""
        return Results(
            {key: series.record.counts[:] for key, series in self._series.items()},
            {name: _results_of(line) for name, line in self._lines.items()},
        )

    def history(self, target: TargetId) -> tuple[Check, ...]:
        """Return the last checks of a target, the oldest first; none for a target that is not checked."""
        series = self._series.get(target)
        return series.record.history() if series is not None else ()

    # The task

    async def run(self) -> None:
        """Check until cancelled.

        Cancel: every check has ended and every socket is closed.
        Raises: ExceptionGroup -> a bug in a probe kind or in `on_change`.
        """
        sockets = Sockets(asyncio.get_running_loop())
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._start_due(group, sockets)
                    self._tell()
                    await self._sleep()
        finally:
            sockets.close()

    def _start_due(self, group: asyncio.TaskGroup, sockets: Sockets) -> None:
        """Start what is due, as far as the gates allow and no more than a batch."""
        budget = _BATCH
        for name in tuple(self._open_gates):
            gate = self._lines[name].gate if name in self._lines else None
            while gate is not None and budget and (series := gate.next()) is not None:
                budget -= self._start(series, gate, group, sockets)
            if gate is None or budget:
                del self._open_gates[name]
        for series in self._schedule.pop_due(self._clock_ns(), budget):
            gate = self._lines[series.target.probe.name].gate if not series.stopped else None
            if gate is not None and gate.admit(series):
                self._start(series, gate, group, sockets)

    def _start(self, series: _Series, gate: Gate[_Series], group: asyncio.TaskGroup, sockets: Sockets) -> bool:
        """Start one check in the place that the gate gave it; return whether there was anything to start."""
        if series.stopped:
            gate.leave()
            return False
        probe = series.target.probe
        late_ns = self._clock_ns() - series.due_ns
        if gate.started(late_ns, _interval_ns(probe)):
            self._emit(Event.PROBE_STARVED, probe=probe.name, late_s=round(late_ns / 1e9, 3))
        series.task = group.create_task(self._check(series, sockets))
        series.task.add_done_callback(lambda _: self._leave(probe.name, gate))  # also if cancelled before it began
        return True

    def _leave(self, probe: str, gate: Gate[_Series]) -> None:
        gate.leave()
        if gate.waiting:
            self._open_gates[probe] = None
            self._wake()

    async def _check(self, series: _Series, sockets: Sockets) -> None:
        """Make one check, learn from it, and plan the next."""
        target = series.target
        started_ns = self._clock_ns()
        outcome = await self._kinds[target.probe.protocol].check(target.address, target.probe, sockets)
        if series.stopped:
            return
        now_ns = self._clock_ns()
        series.task = None
        duration_s = (now_ns - started_ns) / 1e9
        series.record.add(started_ns, duration_s, outcome.kind)
        self._lines[target.probe.name].durations.add(duration_s)
        probe = target.probe
        state = step(series.state, outcome, probe.rise, probe.fall, now_ns, series.damping)
        self._learn(series, state, now_ns)
        interval_ns = _interval_ns(target.probe)
        series.grid_ns = following(series.grid_ns, now_ns, interval_ns)
        self._plan(series, start_at(series.grid_ns, now_ns, interval_ns, self._chance()))

    def _learn(self, series: _Series, state: TargetState, now_ns: int) -> None:
        """Put a state in force, and keep its transition for the batch if it is one."""
        old, new = series.state.health, state.health
        series.state = state
        if new is old:
            return
        target = series.target.id
        self._health[target] = new
        self._snapshot = None
        if new.state is old.state:
            return
        self._changes.append(Transition(target, old, new))
        pool, member, probe = target
        self._emit(
            Event.MEMBER_UP if new.state is HealthState.UP else Event.MEMBER_DOWN,
            pool=pool,
            member=member,
            probe=probe,
            reason=new.reason,
            detail=new.detail,
            after_s=round((now_ns - old.since_ns) / 1e9, 3),
        )
        self._wake()

    def _tell(self) -> None:
        if self._changes:
            changes, self._changes = tuple(self._changes), []
            self._on_change(changes)

    async def _sleep(self) -> None:
        """Wait until something is due, or `_wake`."""
        loop = asyncio.get_running_loop()
        self._alarm = loop.create_future()
        due_ns = 0 if self._open_gates else self._schedule.next_ns
        timer = None
        if due_ns is not None:
            wait_ns = max(due_ns - self._clock_ns(), _TURN_NS)
            timer = loop.call_later(wait_ns / 1e9, self._wake)
        self._alarm_ns = due_ns
        try:
            await self._alarm
        finally:
            self._alarm = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(None)

    # Targets that come and go

    def _follow(self, target: Target, before: _Series | None, now_ns: int) -> None:
        """Begin to check a target, with what is known of it if the question is the same."""
        if before is None:
            series = _Series(target, initial(now_ns), Record())
        else:
            known = same_question(before.target, target)
            series = _Series(target, before.state if known else initial(now_ns), before.record)
            self._stop(before)
        interval_ns = _interval_ns(target.probe)
        place = place_of(target.id)
        first_ns = first_start(place, now_ns, interval_ns)
        # The instant before the first one on the grid, so that the first check leads over to the grid.
        series.grid_ns = grid_after(first_ns, spread(place, interval_ns), interval_ns) - interval_ns
        self._series[target.id] = series
        self._health[target.id] = series.state.health
        self._plan(series, first_ns)

    def _plan(self, series: _Series, due_ns: int) -> None:
        series.due_ns = due_ns
        self._schedule.push(due_ns, series)
        if self._alarm_ns is None or due_ns < self._alarm_ns:  # it would be slept through
            self._wake()

    def _stop(self, series: _Series) -> None:
        series.stopped = True  # whoever holds it, the schedule or a gate, drops it
        if series.task is not None:
            series.task.cancel()

    def _keep_lines(self, probes: Mapping[str, Probe]) -> None:
        for gone in self._lines.keys() - probes.keys():
            del self._lines[gone]
        for name, probe in probes.items():
            self._lines.setdefault(name, _Line(probe.max_in_flight)).gate.limit = probe.max_in_flight


def _interval_ns(probe: Probe) -> int:
    return int(probe.interval_s * 1e9)


def _damping(probe: Probe) -> Damping | None:
    return Damping(_DAMPED_INTERVALS * _interval_ns(probe)) if probe.flap_damping else None


def _results_of(line: _Line) -> ProbeResults:
    gate = line.gate
    return ProbeResults(
        tuple(line.durations.counts), line.durations.sum_s, gate.late, gate.in_flight, len(gate.waiting)
    )
