"""What became of the attempts to load a configuration, and of the waiting ones when the process stops."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

from asynclb.control.commands import Command, HealthChanged, ReloadCommand
from asynclb.control.status import Change, Reload
from asynclb.errors import Problem
from asynclb.events import Emit, Event

STOPPING = Problem((), "", "the process is stopping", "send it to the next instance")


class Reloads:
    """Counts reloads and remembers the last one. Owner: the controller."""

    def __init__(self, emit: Emit, clock: Callable[[], float]) -> None:
        self._emit = emit
        self._clock = clock
        self._counts: Counter[str] = Counter({"applied": 0, "unchanged": 0, "refused": 0})
        self.last: Reload | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """Result -> how many."""
        return dict(self._counts)

    def refused(self, trigger: str, problems: tuple[Problem, ...], started: float, generation: int) -> Reload:
        """Record a refusal and say why. At the start there is no log to look into yet: the caller reports it."""
        if trigger != "start":
            self._emit(Event.CONFIG_REFUSED, trigger=trigger, problems=tuple(str(problem) for problem in problems))
        return self.record("refused", trigger, started, generation, problems=problems)

    def record(
        self,
        result: str,
        trigger: str,
        started: float,
        generation: int,
        *,
        problems: tuple[Problem, ...] = (),
        warnings: tuple[Problem, ...] = (),
    ) -> Reload:
        """Record what became of an attempt. Units: `started` is a monotonic time."""
        took_s = time.monotonic() - started
        self.last = Reload(result, trigger, self._clock(), took_s, generation, problems, warnings)
        self._counts[result] += 1
        return self.last

    def refuse_waiting(self, command: Command, generation: int) -> None:
        """Answer a command that will not be carried out as the process stops."""
        if isinstance(command, HealthChanged) or command.answer.done():
            return
        if isinstance(command, ReloadCommand):
            command.answer.set_result(self.refused(command.trigger, (STOPPING,), time.monotonic(), generation))
        else:
            command.answer.set_result(Change("refused", generation, (STOPPING,)))
