"""What changes from one generation of the tables to the next."""

from dataclasses import dataclass

from asynclb.tables.row import Row
from asynclb.tables.tables import Entry, PoolTable, Tables


@dataclass(frozen=True, slots=True)
class Delta:
    """The change from `old` to `new`, by frontend key; an entry is in at most one of the three tuples."""

    old: Tables
    new: Tables
    added: tuple[Entry, ...]
    removed: tuple[Entry, ...]
    changed: tuple[tuple[Entry, Entry], ...]
    """(old entry, new entry) under the same key."""

    @property
    def empty(self) -> bool:
        """Whether nothing changes but the generation."""
        return not (self.added or self.removed or self.changed) and self.old.outbound == self.new.outbound


def diff(old: Tables, new: Tables) -> Delta:
    """Return the difference between two generations.

    Order: by the new tables' order, removed entries by the old ones'.
    Cost: linear in entries; a table that both share is compared by identity, any other pair of tables once.
    """
    added, changed = [], []
    compared: dict[tuple[int, int], bool] = {}
    for key, entry in new.entries.items():
        before = old.entries.get(key)
        if before is None:
            added.append(entry)
        elif not (_same_row(before.row, entry.row) and _same_table(before.table, entry.table, compared)):
            changed.append((before, entry))
    removed = [entry for key, entry in old.entries.items() if key not in new.entries]
    return Delta(old, new, tuple(added), tuple(removed), tuple(changed))


def _same_row(one: Row, other: Row) -> bool:
    return one is other or one == other


def _same_table(one: PoolTable, other: PoolTable, compared: dict[tuple[int, int], bool]) -> bool:
    """Compare two tables; `compared` remembers pairs by identity, as a thousand rules may share one table."""
    if one is other:
        return True
    pair = (id(one), id(other))
    if pair not in compared:
        compared[pair] = one == other
    return compared[pair]


def only_health_differs(old: Tables, new: Tables) -> bool:
    """Return whether two generations have the very same rules, over other tables: that is what health changes.

    Rows that are equal but other objects count as changed.
    """
    return (
        old.entries.keys() == new.entries.keys()
        and all(old.entries[key].row is entry.row for key, entry in new.entries.items())
        and any(old.entries[key].table is not entry.table for key, entry in new.entries.items())
        and (old.seed, old.elsewhere, old.outbound) == (new.seed, new.elsewhere, new.outbound)
    )
