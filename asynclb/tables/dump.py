"""A generation of the tables as text: for golden tests, for `plan`, for bug reports.

The text depends on the tables' values alone: rules stand in the order of their frontends, members in that of their
names, and a digest stands for the slots of a table. Nodes that agree print the same text. The seed, which clients
must not know, is not in it.
"""

import sys
from collections import Counter
from hashlib import blake2b

from asynclb.tables.tables import Entry, PoolTable, Tables

_CHUNK = 16_384  # slots counted in one go: the interpreter lock is held for about half a millisecond


def dump(tables: Tables) -> str:
    """Write a generation: each rule with its frontend, then each table with its members' slots and shares.

    Shape: lines that end in a line feed. Order: tables are numbered as the rules first name them.
    """
    entries = sorted(tables.entries.values(), key=lambda entry: entry.row.key.order)
    texts: dict[tuple[str, int], str] = {}
    numbers: dict[str, int] = {}
    rules = []
    for entry in entries:
        if (place := (entry.row.pool.name, id(entry.table))) not in texts:
            texts[place] = _table_text(entry)
        text = texts[place]
        number = numbers.setdefault(text, len(numbers) + 1)
        rules.append(_rule_text(entry, number))
    head = f"generation {tables.generation}, rules: {len(entries)}, tables: {len(numbers)}\n"
    return "\n".join([head, *rules, *(f"table {number}: {text}" for text, number in numbers.items())])


def digest(table: PoolTable) -> str:
    """Return 16 hexadecimal digits that name the table's slots on any machine."""
    slots = table.slots[:]
    if sys.byteorder == "big":
        slots.byteswap()
    return blake2b(slots.tobytes(), digest_size=8).hexdigest()


def slot_counts(table: PoolTable) -> tuple[int, ...]:
    """Return how many slots each member owns. Order: as `table.members`."""
    counts: Counter[int] = Counter()
    for start in range(0, table.size, _CHUNK):
        counts.update(table.slots[start : start + _CHUNK])
    return tuple(counts[index] for index in range(len(table.members)))


def _rule_text(entry: Entry, number: int) -> str:
    row, rule = entry.row, entry.row.rule
    spread = f"{rule.distribution}, symmetric" if row.symmetric else str(rule.distribution)
    probe = f"{rule.probe}, no healthy members: {rule.no_healthy_members}" if rule.probe else "none"
    lines = (
        f"rule {rule.name}: {row.key}",
        f"  deliver  pool {row.pool.name}, port {rule.backend_port or 'same'}, {row.delivery}",
        f"  spread   {spread}",
        f"  probe    {probe}",
        f"  table    {number}",
    )
    return "\n".join(lines) + "\n"


def _table_text(entry: Entry) -> str:
    pool, table = entry.row.pool.name, entry.table
    if not table.size:
        return f"pool {pool}, no eligible member\n"
    lines = [f"pool {pool}, {table.size} slots, digest {digest(table)}"]
    width = max(len(member.name) for member in table.members)
    for member, count in zip(table.members, slot_counts(table), strict=True):
        share = f"{100 * count / table.size:6.2f} %"
        lines.append(f"  {member.name:<{width}}  {share}  {count:>6} slots  weight {member.weight}  {member.address}")
    return "\n".join(lines) + "\n"
