"""The flow log: a line of JSON for each flow that ends, and starts if wanted, in a file.

    datapaths --a few values--> what waits --a batch, in a thread--> words --> the file

Laws:
  1. The loop is never held: telling is one append, making words and writing happen in a thread.
  2. What waits is bounded; what does not fit is lost and counted (`overflow`), and so is what the disk does not take
     (`failed`), of which one event tells when it begins and one when it is over.
  3. Nothing that happens to the file concerns a flow or the process.
  4. What it takes of a processor is measured, but for what datapaths do on the loop, which is bounded (`TellingCost`).
     The rate follows from that (`Budget`): it does not cost more than 1 % for longer than a second.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum

from asynclb.datapath.lifetimes import NOBODY, Describe, Listeners, TellingCost
from asynclb.events import Emit, Event
from asynclb.model import FlowLogSettings
from asynclb.observe.flowlog_budget import Budget, Reading
from asynclb.observe.flowlog_file import LogFile
from asynclb.observe.flowlog_line import Lines

MAX_WAITING = 100_000
"""Lines; some 40 MB at most."""
_EVERY_S = 0.25
_CHUNK = 200  # lines made at a time: 0.5 ms, after which the loop has its turn, and a tenth of the smallest file
_KEEPING_S = 0.5e-6
"""What the log does on the loop when it is told something: an append."""

_Waiting = tuple[str, int, int, Describe]
"""The datapath, the rate that it told at, how many flows, and their words."""


class LineResult(StrEnum):
    """What became of a line."""

    WRITTEN = "written"
    OVERFLOW = "overflow"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class FlowLogReport:
    """What the flow log has done. Units: `spent_s` seconds of processor time; `sample` 0 without a log."""

    lines: Mapping[LineResult, int] = field(default_factory=dict)
    sample: int = 0
    spent_s: float = 0.0


class FlowLog:
    """Owner: the process; all but `_write` is for the loop's thread. Ended by `close`, after the datapaths."""

    def __init__(self, emit: Emit, changed: Callable[[], None] = lambda: None, most: int = MAX_WAITING) -> None:
        """`changed` is called when datapaths are to ask for their `listeners` anew."""
        self._emit, self._changed = emit, changed
        self._most = most
        self._settings: FlowLogSettings | None = None
        self._file: LogFile | None = None
        self._written_as: FlowLogSettings | None = None
        self._waiting: list[_Waiting] = []
        self._count = 0
        self._lines = dict.fromkeys(LineResult, 0)
        self._spent_s = 0.0
        self._budget: Budget | None = None
        self._lost = 0  # since the file failed
        self._failing = False
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def lines(self) -> Mapping[LineResult, int]:
        """How many lines there have been, by what became of them."""
        return self._lines

    @property
    def report(self) -> FlowLogReport:
        """What it has done so far, and at which rate it does it now."""
        return FlowLogReport(dict(self._lines), 0 if self._budget is None else self._budget.sample, self._spent_s)

    def configure(self, settings: FlowLogSettings | None) -> None:
        """Write as these settings say from here on; what waits is written as well."""
        if settings == self._settings:
            return
        if settings is None or self._settings is None or settings.sample != self._settings.sample:
            self._budget = None if settings is None else Budget(settings.sample, self._read())
        self._settings = settings
        if settings is not None:
            self._emit(Event.FLOW_LOG_OPENED, path=settings.path, sample=settings.sample, start=settings.start)
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._run(), name="flow-log")

    def listeners(self, datapath: str, cost: TellingCost) -> Listeners:
        """Return whom a datapath is to tell, for as long as the rate is what it is."""
        if self._settings is None or self._budget is None:
            return NOBODY
        sample = self._budget.sample
        each_s = cost.told_s + (sample - 1) * cost.passed_over_s  # so many were passed over for each, on the whole

        def tell(count: int, describe: Describe) -> None:
            self._spent_s += count * each_s + _KEEPING_S
            if self._count + count > self._most:
                self._lines[LineResult.OVERFLOW] += count
                return
            self._count += count
            self._waiting.append((datapath, sample, count, describe))

        def lose(count: int) -> None:
            self._lines[LineResult.OVERFLOW] += count

        return Listeners(tell, tell if self._settings.start else None, lose, sample)

    async def close(self) -> None:
        """Write what waits and end."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            await self._flush()
        if self._file is not None:
            self._file.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await asyncio.shield(self._flush())
            self._follow_budget()

    def _follow_budget(self) -> None:
        """Have datapaths tell at the rate that the budget allows, and say so when it is another one."""
        if self._budget is None or self._settings is None:
            return
        at = self._read()
        if self._budget.look(at):
            self._changed()
        sample = self._budget.news(at.now_s)
        if sample is not None:
            self._emit(Event.FLOW_LOG_SAMPLED, path=self._settings.path, sample=sample, finest=self._settings.sample)

    def _read(self) -> Reading:
        return Reading(time.monotonic(), time.process_time(), self._spent_s)

    async def _flush(self) -> None:
        async with self._writing:
            waiting, self._waiting = self._waiting, []
            self._follow(self._settings)
            if waiting and self._file is not None and self._written_as is not None:
                found = await asyncio.to_thread(_write, self._file, waiting)
                self._count -= sum(count for _, _, count, _ in waiting)
                self._spent_s += found.spent_s
                self._judge(self._file.path, found.written, found.failed, found.error)

    def _follow(self, settings: FlowLogSettings | None) -> None:
        """Have the file that the settings name; without any, what still waits goes where the lines before it went."""
        if settings is None or settings == self._written_as:
            return
        if self._file is not None:
            self._file.close()
        self._file, self._written_as = LogFile(settings.path, settings.max_bytes, settings.keep), settings

    def _judge(self, path: str, written: int, failed: int, error: str) -> None:
        """Count, and tell when the trouble begins and when it is over."""
        self._lines[LineResult.WRITTEN] += written
        self._lines[LineResult.FAILED] += failed
        self._lost += failed
        if failed and not self._failing:
            remedy = "make room on the disk, or mend what the error names; lines are lost and counted until then"
            self._emit(Event.FLOW_LOG_FAILED, path=path, error=error, remedy=remedy)
        elif written and not failed and self._failing:
            self._emit(Event.FLOW_LOG_RESUMED, path=path, lost=self._lost)
            self._lost = 0
        self._failing = bool(failed) or (self._failing and not written)


@dataclass(slots=True)
class _Written:
    """What became of a batch."""

    written: int = 0
    failed: int = 0
    error: str = ""
    spent_s: float = 0.0
    """Processor time."""


def _write(file: LogFile, waiting: list[_Waiting]) -> _Written:
    """Make the words and write them, in a thread."""
    began_s, found = time.thread_time(), _Written()
    makers: dict[tuple[str, int], Lines] = {}
    lines: list[str] = []
    for datapath, sample, _, describe in waiting:
        maker = makers.get((datapath, sample)) or makers.setdefault((datapath, sample), Lines(datapath, sample))
        for flow in describe():
            lines.append(maker.line(flow))
            if len(lines) == _CHUNK:
                _append(file, lines, found)
                lines = []
    if lines:
        _append(file, lines, found)
    found.spent_s = time.thread_time() - began_s
    return found


def _append(file: LogFile, lines: list[str], found: _Written) -> None:
    try:
        file.append("".join(lines).encode())
    except OSError as error:
        found.failed += len(lines)
        found.error = str(error)
    else:
        found.written += len(lines)
