"""What each datapath executes: changed like a database.

Build aside (the controller compiled the tables), verify (the datapath accepts the delta), swap (`apply` returned),
roll back (the inverse delta) when another datapath could not follow.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from asynclb.control.assign import Choices, restrict
from asynclb.control.status import DatapathStatus
from asynclb.datapath.ask import LiveVerdict
from asynclb.datapath.base import Attaching, Datapath, Measurable
from asynclb.errors import ApplyError
from asynclb.events import Emit, Event
from asynclb.net.flow import Flow
from asynclb.tables.diff import Delta, diff
from asynclb.tables.row import FrontendKey
from asynclb.tables.tables import EMPTY_TABLES, Tables


@dataclass(frozen=True, slots=True)
class Applied:
    """The tables that a datapath executes, since when (`since_s` seconds since the epoch)."""

    tables: Tables = EMPTY_TABLES
    since_s: float = 0.0


Deltas = Mapping[str, Delta]
"""Datapath -> what changes for it, in the order in which changes are applied."""


class Execution:
    """Knows what every datapath executes, and changes it. Owner: the controller's task."""

    def __init__(self, datapaths: Mapping[str, Datapath], *, emit: Emit, clock: Callable[[], float]) -> None:
        """Order: `datapaths` in the order in which changes are applied."""
        self._datapaths = datapaths
        self._applied = dict.fromkeys(datapaths, Applied())
        self._emit = emit
        self._clock = clock

    @property
    def applied(self) -> Mapping[str, Applied]:
        """What each datapath executes."""
        return self._applied

    def statuses(self, choices: Choices) -> Iterator[DatapathStatus]:
        """Yield what each datapath carries, and why."""
        for name, applied in self._applied.items():
            entries = applied.tables.entries
            rules = {
                entry.row.rule.name: choice.why if (choice := choices.get(key)) else "being moved"
                for key, entry in entries.items()
            }
            datapath = self._datapaths[name]
            modes = {entry.row.rule.name: datapath.mode(entry.row) for entry in entries.values()}
            outbound = tuple(rule.name for rule in applied.tables.outbound)
            attached = datapath.attachments() if isinstance(datapath, Attaching) else ()
            yield DatapathStatus(name, applied.tables.generation, applied.since_s, rules, modes, outbound, attached)

    async def measure(self) -> Mapping[FrontendKey, bool]:
        """Return whether a packet for each rule's frontend is given to a member, as its datapath finds by trying.

        Where a datapath cannot try, its tables answer. Rules over empty pools are left out: there is nobody to reach.
        """
        found: dict[FrontendKey, bool] = {}
        for name, applied in self._applied.items():
            entries = {key: entry for key, entry in applied.tables.entries.items() if entry.row.pool.members}
            found |= {key: entry.table.size > 0 for key, entry in entries.items()}
            datapath = self._datapaths[name]
            if isinstance(datapath, Measurable) and entries:
                found |= await datapath.reaches(tuple(entry.row for entry in entries.values()))
        return found

    async def ask(self, name: str, flow: Flow, interface: str | None) -> tuple[str, LiveVerdict | None]:
        """Return who gives a datapath's verdicts ('' where nobody but the tables does), and his on a new flow."""
        asked: object = self._datapaths.get(name)
        if isinstance(asked, Measurable) and asked.judge:
            return asked.judge, await asked.verdict(flow, interface)
        return "", None

    def deltas(self, tables: Tables, choices: Choices) -> Deltas:
        """Return what new tables change for each datapath. Pure: a thread may call it while nothing is changed."""
        return {name: diff(applied.tables, restrict(tables, choices, name)) for name, applied in self._applied.items()}

    async def replace(self, deltas: Deltas) -> None:
        """Make new tables active in every datapath, or in none.

        Raises: ApplyError -> a datapath could not take them; those before it were put back to what they executed.
        Cancel: each datapath executes its old tables or its new ones.
        """
        before = dict(self._applied)
        changed: list[str] = []
        for name, delta in deltas.items():
            try:
                await self._apply(name, delta)
            except ApplyError:
                for done in reversed(changed):
                    await self._put_back(done, before[done])
                raise
            changed.append(name)

    async def refresh(self, deltas: Deltas) -> tuple[ApplyError, ...]:
        """Bring each datapath to tables that differ in health only; return the failures.

        A datapath that fails keeps what it executed, and the others go on: health must not wait for the slowest.
        """
        failures = []
        for name, delta in deltas.items():
            if delta.empty:
                continue
            try:
                await self._apply(name, delta)
            except ApplyError as error:
                self._emit(Event.DATAPATH_FAILED, datapath=name, error=str(error))
                failures.append(error)
        return tuple(failures)

    async def _apply(self, name: str, delta: Delta) -> None:
        started = time.monotonic()
        await self._datapaths[name].apply(delta)
        self._applied[name] = Applied(delta.new, self._clock())
        took_ms = round((time.monotonic() - started) * 1e3, 1)
        if delta.old.vacant and delta.new.vacant:
            return  # a datapath without rules has nothing to say
        self._emit(Event.DATAPATH_APPLIED, datapath=name, generation=delta.new.generation, took_ms=took_ms)

    async def _put_back(self, name: str, before: Applied) -> None:
        """Apply the inverse delta; a datapath that cannot go back keeps the new tables, and we keep knowing that."""
        try:
            await self._datapaths[name].apply(diff(self._applied[name].tables, before.tables))
        except ApplyError as error:
            self._emit(Event.DATAPATH_FAILED, datapath=name, error=f"could not be rolled back: {error}")
            return
        self._applied[name] = before
