"""All that the oracle knows between two frames."""

from dataclasses import dataclass, field

from asynclb.datapath.core.image import Plan
from asynclb.datapath.core.oracle.state import Key, State
from asynclb.datapath.core.values import NextHop
from asynclb.net.address import Address
from asynclb.net.flow import Flow
from asynclb.tables.row import Row
from asynclb.tables.tables import Tables


@dataclass(slots=True)
class Memory:
    """The tables, and what was learnt from frames. Owner: a test."""

    tables: Tables
    plan: Plan
    hops: dict[int, NextHop]
    interfaces: dict[int, bytes] = field(default_factory=dict)
    flows: dict[Key, State] = field(default_factory=dict)
    fragments: dict[tuple[Address, Address, int, int], tuple[Flow, int]] = field(default_factory=dict)

    def alive(self, key: Key, now_ms: int) -> State | None:
        """Return the flow of a key unless it is past its deadline."""
        state = self.flows.get(key)
        return state if state is not None and now_ms < state.deadline_ms else None

    def rows(self) -> list[Row]:
        """Return what the tables are made of."""
        return [entry.row for entry in self.tables.entries.values()]
