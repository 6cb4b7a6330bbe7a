"""Tells what a command has changed: the events of a reload, of overrides and of rules that crossed an edge."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from asynclb.control.active import Active
from asynclb.control.changes import source_notices
from asynclb.control.edges import Notice, admin_state_notices, choice_notices, override_notices, rule_notices
from asynclb.errors import Problem
from asynclb.events import Emit, Event
from asynclb.tables.diff import Delta
from asynclb.tables.row import Row

TELL_BATCH = 64  # events written in one go: about 2 ms


class Announcer:
    """Writes the events of what has changed. Owner: the controller's task."""

    def __init__(self, emit: Emit, modes: Mapping[str, Callable[[Row], str]]) -> None:
        """Take where events go, and each datapath's way of saying how it carries a row."""
        self._emit = emit
        self._modes = modes

    async def loaded(
        self, trigger: str, before: Active, after: Active, delta: Delta, warnings: Iterable[Problem], took_ms: float
    ) -> None:
        """Tell of a configuration that became active."""
        self._emit(
            Event.CONFIG_LOADED,
            generation=after.tables.generation,
            trigger=trigger,
            added=len(delta.added),
            removed=len(delta.removed),
            changed=len(delta.changed),
            took_ms=took_ms,
        )
        for warning in warnings:
            self._emit(Event.CONFIG_WARNING, problem=str(warning))
        was = {row.key: row for row in before.rows}
        await self.tell(choice_notices(was, before.choices, after.rows, after.choices, self._modes))
        await self.states(before, after)

    async def states(self, before: Active, after: Active) -> None:
        """Tell what operators said of members, and which rules crossed an edge."""
        await self.tell(source_notices(before, after))
        await self.tell(admin_state_notices(before.model, after.model))
        await self.tell(override_notices(before.overrides, after.overrides))
        await self.tell(rule_notices(after.tables, before.states, after.states))

    async def tell(self, notices: Iterable[Notice]) -> None:
        """Emit notices, letting the loop go on in between: a big reload has thousands."""
        for number, notice in enumerate(notices, 1):
            self._emit(notice.event, **notice.fields)
            if number % TELL_BATCH == 0:
                await asyncio.sleep(0)
