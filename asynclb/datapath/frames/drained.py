"""Tables of a datapath that drains: the same rules, and nobody takes new flows. Pure."""

from dataclasses import replace

from asynclb.model import AdminState
from asynclb.tables.row import Row
from asynclb.tables.tables import EMPTY_POOL_TABLE, Entry, Tables


def drained(tables: Tables) -> Tables:
    """Return the next generation: every member drains, so flows go on, and new ones are dropped with a reason.

    Connections that members open themselves go on beginning: they may be what an open flow waits for.
    """
    entries = {key: Entry(_draining(entry.row), EMPTY_POOL_TABLE) for key, entry in tables.entries.items()}
    return replace(tables, generation=tables.generation + 1, entries=entries)


def _draining(row: Row) -> Row:
    members = tuple(replace(member, admin_state=AdminState.DRAIN) for member in row.pool.members)
    return replace(row, pool=replace(row.pool, members=members))
