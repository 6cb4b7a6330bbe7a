"""All that the oracle knows between two frames."""

from dataclasses import dataclass, field

from asynclb.datapath.core.oracle.state import Key, State
from asynclb.datapath.core.plan import Plan
from asynclb.datapath.core.values import NextHop
from asynclb.model import Member
from asynclb.net.address import Address
from asynclb.net.flow import Flow
from asynclb.tables.row import FrontendKey, Row
from asynclb.tables.tables import EMPTY_POOL_TABLE, Entry, Tables


@dataclass(slots=True)
class Memory:
    """The tables, and what was learnt from frames. Owner: a test."""

    tables: Tables
    plan: Plan
    hops: dict[int, NextHop]
    interfaces: dict[int, bytes] = field(default_factory=dict)
    flows: dict[Key, State] = field(default_factory=dict)
    fragments: dict[tuple[Address, Address, int, int], tuple[Flow, int]] = field(default_factory=dict)
    mtus: dict[int, int] = field(default_factory=dict)
    """Of interfaces, as far as they are known."""
    icmp_tokens: int = 0
    icmp_ms: int = 0

    def alive(self, key: Key, now_ms: int) -> State | None:
        """Return the flow of a key unless it is over and forgotten."""
        state = self.flows.get(key)
        return state if state is not None and (not state.is_late(now_ms) or state.is_remembered(now_ms)) else None

    def closed(self) -> dict[FrontendKey, Entry]:
        """Return entries that take nothing new for the rules that the tables have no more."""
        rows = [leaver.row for leaver in self.plan.leaving if leaver.row.key not in self.tables.entries]
        return {row.key: Entry(row, EMPTY_POOL_TABLE) for row in reversed(rows)}

    def leavers(self, key: FrontendKey) -> list[tuple[str, Member]]:
        """Return who leaves the entry with a key: established TCP connections may stay with them."""
        found = []
        for leaver in self.plan.leaving:
            entry = self.tables.find(leaver.row.key)
            if (entry.row.key if entry else leaver.row.key) == key:
                found += [(leaver.row.pool.name, member) for member in leaver.row.pool.members]
        return found

    def rows(self) -> list[Row]:
        """Return what the tables are made of."""
        return [entry.row for entry in self.tables.entries.values()]
