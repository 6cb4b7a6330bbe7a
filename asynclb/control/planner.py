"""Plans: between two configurations, or from what is active to a new one. Reads, and changes nothing."""

from collections.abc import Callable, Sequence

from asynclb.control.assign import Candidate
from asynclb.control.bulk import in_bulk
from asynclb.control.changes import with_discovered
from asynclb.control.plan import Plan, Side, assumed_health, make_plan
from asynclb.control.prepare import Parsed, prepare
from asynclb.control.status import StateSource, Status
from asynclb.control.walk import examined
from asynclb.datapath.base import FlowRecord
from asynclb.model import Health, Model
from asynclb.rules import NatPorts
from asynclb.tables.compile import compile_tables
from asynclb.tables.tables import Tables

EXAMINED = 20_000  # flows whose fate is looked up: a third of a second of work, and an error below one per cent

Parse = Callable[[bytes, str], Parsed]
"""Read a configuration from its text and what to call it. Raises: ConfigError -> with every problem."""


def plan_files(
    old: Parsed, new: Parsed, candidates: Sequence[Candidate], seed_of: Callable[[Model], int], ports: NatPorts
) -> Plan:
    """Compare two configurations as if every member were up. Raises: ConfigError -> one could not be executed."""
    was = prepare(old, candidates, Model(), ports)
    now = prepare(new, candidates, was.model, was.nat_ports, was.outbound)
    nothing = Health({})
    before = compile_tables(was.rows, assumed_health(was.model, nothing), seed=seed_of(was.model), generation=0)
    after = compile_tables(now.rows, assumed_health(now.model, nothing), seed=seed_of(now.model), generation=1)
    return make_plan(Side(was.model, before), Side(now.model, after), warnings=new.warnings)


class Planner:
    """Plans a reload of the running process. Owner: nobody; it has no state of its own."""

    def __init__(
        self, state: StateSource, parse: Parse, candidates: Sequence[Candidate], seed_of: Callable[[Model], int]
    ) -> None:
        """Take where to read what is active, and how a configuration is read and assigned on this host."""
        self._state = state
        self._parse = parse
        self._candidates = candidates
        self._seed_of = seed_of

    async def plan(self, text: bytes, name: str) -> Plan:
        """Return what loading this text would change; members that no probe has asked yet are assumed up.

        Raises: ConfigError -> it would be refused.
        """
        parsed = await in_bulk(self._parse, text, name)
        status = self._state.status()
        flows = await examined(self._state, EXAMINED)
        return await in_bulk(self._against, status, parsed, flows)

    def _against(self, status: Status, parsed: Parsed, flows: tuple[int, list[FlowRecord]]) -> Plan:
        tables = status.tables
        parsed, _ = with_discovered(parsed, status.discovered)
        now = prepare(
            parsed, self._candidates, status.model, status.nat_ports, tables.outbound, overrides=status.overrides
        )
        health = assumed_health(now.model, status.health)
        seed = self._seed_for(status.model, tables, now.model)
        after = compile_tables(now.rows, health, seed=seed, generation=tables.generation + 1)
        return make_plan(Side(status.model, tables), Side(now.model, after), flows, parsed.warnings)

    def _seed_for(self, active: Model, tables: Tables, wanted: Model) -> int:
        """Return the seed that the process would use: one that the configuration does not name stays as it is."""
        return tables.seed if active.hash_seed == wanted.hash_seed else self._seed_of(wanted)
