"""Rows and health become forwarding tables.

Laws:
  1. Tables depend only on the set of rows, the health and the seed: not on the order of the rows, nor on what was
     compiled before. A cache changes the time that it takes, and which objects are the same, never a value.
  2. Rules over one pool that find the same members eligible share one table object, across generations too.

The work is pure and may run in a worker thread: the fill of a table, its longest part, lets go of the interpreter
lock, and the rest never holds it for more than a few milliseconds (tests/bench/tables_bench.py measures the loop).
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from asynclb.model import (
    BackendPool,
    Health,
    Member,
    NoHealthyMembers,
    eligible_members,
    in_zones,
    preferred_zones,
)
from asynclb.tables.maglev import make_slots, table_size
from asynclb.tables.row import FrontendKey, Row, RuleKind
from asynclb.tables.snat import SnatRule
from asynclb.tables.tables import EMPTY_POOL_TABLE, Entry, PoolTable, Tables

ONE_SLOT = array("H", [0])
"""The table of an inbound NAT rule's port: it has one member, and there may be thousands of such tables."""

SlotsKey = tuple[int, int, tuple[tuple[str, int], ...]]
"""All that the slots of a table depend on: seed, size, and (name, weight) of the members by name."""


Question = tuple[str, str | None, NoHealthyMembers, tuple[str, ...]]
"""What rules over a pool can ask differently: (pool, probe, what if nobody is healthy, zones preferred)."""


class _Answer(NamedTuple):
    """Who was eligible in a pool, and the table over them under its key."""

    pool: BackendPool
    eligible: tuple[Member, ...]
    key: SlotsKey
    table: PoolTable


@dataclass(slots=True)
class TableCache:
    """What the last compilation made, for the next one to use again.

    Owner: the caller of `compile_tables`, one compilation at a time.
    Cancel: a compilation that did not end leaves the cache as it was.
    """

    slots: dict[SlotsKey, "array[int]"] = field(default_factory=dict, repr=False)
    tables: dict[tuple[str, SlotsKey], PoolTable] = field(default_factory=dict, repr=False)
    """By pool and slots: two pools may have members of the same names and weights at other addresses."""
    answers: dict[Question, _Answer] = field(default_factory=dict, repr=False)


def compile_tables(
    rows: Iterable[Row],
    health: Health,
    *,
    seed: int,
    generation: int,
    cache: TableCache | None = None,
    outbound: tuple[SnatRule, ...] = (),
) -> Tables:
    """Return the tables in which every row meets the members that may take its flows now.

    Order: entries by frontend address, port and protocol.
    Cost: 1,500 rules and 5,000 members in 30 ms (one pool) to 300 ms (1,500 pools), and one member's change in a
    pool of 5,000 in 30 ms (tests/bench/tables_bench.py). `cache` afterwards holds what this generation uses.
    Raises: ValueError -> two rows have the same frontend key.
    """
    compilation = _Compilation(health, seed, cache or TableCache())
    entries: dict[FrontendKey, Entry] = {}
    for row in sorted(rows, key=lambda row: row.key.order):
        if row.key in entries:
            raise ValueError(f"rules {entries[row.key].row.rule.name} and {row.rule.name} both claim {row.key}")
        entries[row.key] = Entry(row, compilation.table_for(row))
    if cache is not None:
        used = compilation.used
        cache.slots, cache.tables, cache.answers = used.slots, used.tables, used.answers
    return Tables(generation, seed, entries, outbound=outbound)


@dataclass(slots=True)
class _Compilation:
    """One run of `compile_tables`: what it asks about a pool, it asks once."""

    health: Health
    seed: int
    before: TableCache
    used: TableCache = field(default_factory=TableCache)
    sizes: dict[str, int] = field(default_factory=dict)

    def table_for(self, row: Row) -> PoolTable:
        question = (row.pool.name, row.rule.probe, row.rule.no_healthy_members, preferred_zones(row.frontend))
        answer = self.used.answers.get(question)
        if answer is None:
            answer = self.used.answers[question] = self._answer(row, self.before.answers.get(question))
            if answer.table.size:
                self.used.tables[row.pool.name, answer.key] = answer.table
                self.used.slots[answer.key] = answer.table.slots
        return answer.table

    def _answer(self, row: Row, before: _Answer | None) -> _Answer:
        """Return who is eligible with the table over them; the one before if nothing that it depends on has changed."""
        pool, rule = row.pool, row.rule
        alone = row.kind is RuleKind.INBOUND_NAT  # the port is its member's, whatever the health
        if before is not None and (before.pool is not pool or before.key[0] != self.seed):
            before = None
        if before is not None and (rule.probe is None or alone):
            return before
        if alone:
            members = pool.members
        else:
            members = eligible_members(pool, rule.probe, self.health, rule.no_healthy_members)
            members = in_zones(members, preferred_zones(row.frontend))
        if before is not None and before.eligible == members:
            return before
        return self._table_over(pool, members, alone=alone)

    def _table_over(self, pool: BackendPool, eligible: tuple[Member, ...], *, alone: bool) -> _Answer:
        members = tuple(sorted(eligible, key=lambda member: member.name))
        key = (self.seed, 1 if alone else self._size(pool), tuple((member.name, member.weight) for member in members))
        if not eligible:
            return _Answer(pool, eligible, key, EMPTY_POOL_TABLE)
        place = (pool.name, key)
        table = self.used.tables.get(place) or self.before.tables.get(place)
        if table is None or table.members != members:
            table = PoolTable(members, self._slots(key))
        return _Answer(pool, eligible, key, table)

    def _slots(self, key: SlotsKey) -> "array[int]":
        slots = self.used.slots.get(key) or self.before.slots.get(key)
        if slots is None:
            seed, size, members = key
            slots = make_slots(members, size, seed) if size > 1 else ONE_SLOT
        return slots

    def _size(self, pool: BackendPool) -> int:
        size = self.sizes.get(pool.name)
        if size is None:
            size = self.sizes[pool.name] = table_size(pool.members)
        return size
