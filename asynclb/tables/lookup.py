"""The one answer that every datapath must give: which member takes a flow.

This is the oracle. Datapaths may be faster, never different.
"""

from collections.abc import Collection
from dataclasses import dataclass

from asynclb.model import Member
from asynclb.net.drop import Drop
from asynclb.net.flow import Flow, Protocol
from asynclb.net.flowhash import flow_hash, slot_of
from asynclb.tables.row import FrontendKey
from asynclb.tables.tables import Entry, PoolTable, Tables

_PROTOCOLS = {6: Protocol.TCP, 17: Protocol.UDP}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A flow's way: the entry that matched, the hash, the slot and the member."""

    entry: Entry
    flow_hash: int
    slot: int
    member: Member


def lookup(tables: Tables, flow: Flow) -> Verdict | Drop:
    """Return where a new flow goes, or why it goes nowhere."""
    protocol = _PROTOCOLS.get(flow.protocol, Protocol.ALL)
    entry = tables.find(FrontendKey(flow.destination, flow.destination_port, protocol))
    if entry is None:
        return Drop.NO_RULE
    if not any(flow.source in prefix for prefix in entry.row.frontend.allow):
        return Drop.SOURCE_NOT_ALLOWED
    return choose(tables.seed, entry, flow)


def choose(seed: int, entry: Entry, flow: Flow) -> Verdict | Drop:
    """Return the member that the entry's table gives a flow."""
    table = entry.table
    if not table.size:
        return Drop.NO_ELIGIBLE_MEMBER
    row = entry.row
    hashed = flow_hash(seed, flow, row.rule.distribution, symmetric=row.symmetric)
    slot = slot_of(hashed, table.size)
    return Verdict(entry, hashed, slot, table.members[table.slots[slot]])


def next_member(table: PoolTable, slot: int, tried: Collection[str]) -> Member | None:
    """Return the member that a flow falls to when the members named in `tried` did not take it.

    The slots behind the flow's own are walked, so that the flows of a lost member spread over all others by weight.
    Cost: a few slots; at most the whole table when a member owns very little of it.
    """
    members, slots, size = table.members, table.slots, table.size
    if len(tried) >= len(members):
        return None
    for step in range(1, size):
        member = members[slots[(slot + step) % size]]
        if member.name not in tried:
            return member
    return None
