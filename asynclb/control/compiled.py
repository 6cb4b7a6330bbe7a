"""The next generation of what is active: tables, what rules say of them, and what changes for each datapath. Pure.

It is one piece of work, so that it is handed to a thread once: on a busy host a thread begins, and the loop goes on
after it, only when a processor is free for them, and a member that has failed gets new flows until then.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from asynclb.control.active import Active
from asynclb.control.assign import Choices
from asynclb.control.edges import rule_states
from asynclb.control.execution import Deltas
from asynclb.control.targets import still_true, targets_of
from asynclb.model import Health
from asynclb.tables.compile import TableCache, compile_tables
from asynclb.tables.diff import Delta, diff
from asynclb.tables.tables import Tables

AT_ONCE = 128
"""Rules and probed members up to which the loop follows health itself: 2 ms, most of it the fill of 65,537 slots."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What would be active, and the way there."""

    active: Active
    delta: Delta
    deltas: Deltas


@dataclass(frozen=True, slots=True)
class Compiler:
    """Compiles for one controller. Owner: its task; a thread may call it while that waits."""

    cache: TableCache
    deltas: Callable[[Tables, Choices], Deltas]

    def configured(self, before: Active, after: Active, generation: int, health: Health) -> Compiled:
        """Compile another configuration, with what is known of the members that it leaves as they are."""
        targets = targets_of(after.model, after.rows)
        after = replace(after, targets=targets)
        return self._compile(before, after, generation, still_true(health, before.targets, targets))

    def followed(self, active: Active, generation: int, health: Health) -> Compiled:
        """Compile the same configuration by another health. Tables that come out equal keep their generation."""
        return self._compile(active, active, generation, health)

    def _compile(self, before: Active, after: Active, generation: int, health: Health) -> Compiled:
        tables = compile_tables(
            after.rows,
            health,
            seed=after.seed,
            generation=generation,
            cache=self.cache,
            outbound=after.outbound,
        )
        states = rule_states(tables, health)
        delta = diff(before.tables, tables)
        if delta.empty and after is before:
            tables = before.tables
        return Compiled(replace(after, tables=tables, states=states), delta, self.deltas(tables, after.choices))


def is_quick(active: Active) -> bool:
    """Return whether the loop may follow the health of this configuration itself."""
    return len(active.rows) + len(active.targets) <= AT_ONCE
