"""What changes from one generation of the tables to the next."""

from dataclasses import dataclass

from asynclb.tables.tables import Entry, Tables


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
        return not (self.added or self.removed or self.changed)


def diff(old: Tables, new: Tables) -> Delta:
    """Return the difference between two generations.

    Order: by the new tables' order, removed entries by the old ones'.
    Cost: linear in entries; a pool table that both share is compared by identity first.
    """
    added, changed = [], []
    for key, entry in new.entries.items():
        before = old.entries.get(key)
        if before is None:
            added.append(entry)
        elif not _same(before, entry):
            changed.append((before, entry))
    removed = [entry for key, entry in old.entries.items() if key not in new.entries]
    return Delta(old, new, tuple(added), tuple(removed), tuple(changed))


def _same(one: Entry, other: Entry) -> bool:
    same_table = one.table is other.table or one.table == other.table
    return same_table and (one.row is other.row or one.row == other.row)
