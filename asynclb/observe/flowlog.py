"""The flow log: a line of JSON for each flow that ends, and starts if wanted, in a file.

    datapaths --a few values--> what waits --a batch, in a thread--> words --> the file

Laws:
  1. The loop is never held: telling is one append, making words and writing happen in a thread.
  2. What waits is bounded; what does not fit is lost and counted (`overflow`), and so is what the disk does not take
     (`failed`), of which one event tells when it begins and one when it is over.
  3. Nothing that happens to the file concerns a flow or the process.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from asynclb.datapath.lifetimes import NOBODY, Describe, Listeners
from asynclb.events import Emit, Event
from asynclb.model import FlowLogSettings
from asynclb.observe.flowlog_file import LogFile
from asynclb.observe.flowlog_line import is_sampled, line_of

MAX_WAITING = 100_000
"""Lines; some 40 MB at most."""
_EVERY_S = 0.25
_CHUNK = 1_000  # lines made at a time: 3 ms, and half of the smallest file

_Waiting = tuple[str, int, Describe]


class LineResult(StrEnum):
    """What became of a line."""

    WRITTEN = "written"
    OVERFLOW = "overflow"
    FAILED = "failed"


class FlowLog:
    """Owner: the process; all but `_write` is for the loop's thread. Ended by `close`, after the datapaths."""

    def __init__(self, emit: Emit, most: int = MAX_WAITING) -> None:
        self._emit = emit
        self._most = most
        self._settings: FlowLogSettings | None = None
        self._file: LogFile | None = None
        self._written_as: FlowLogSettings | None = None
        self._waiting: list[_Waiting] = []
        self._count = 0
        self._lines = dict.fromkeys(LineResult, 0)
        self._lost = 0  # since the file failed
        self._failing = False
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def lines(self) -> Mapping[LineResult, int]:
        """How many lines there have been, by what became of them."""
        return self._lines

    def configure(self, settings: FlowLogSettings | None) -> None:
        """Write as these settings say from here on; what waits is written as well."""
        if settings == self._settings:
            return
        self._settings = settings
        if settings is not None:
            self._emit(Event.FLOW_LOG_OPENED, path=settings.path, sample=settings.sample, start=settings.start)
            if self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._run(), name="flow-log")

    def listeners(self, datapath: str) -> Listeners:
        """Return whom a datapath is to tell."""
        if self._settings is None:
            return NOBODY

        def tell(count: int, describe: Describe) -> None:
            if self._count + count > self._most:
                self._lines[LineResult.OVERFLOW] += count
                return
            self._count += count
            self._waiting.append((datapath, count, describe))

        def lose(count: int) -> None:
            self._lines[LineResult.OVERFLOW] += count

        return Listeners(tell, tell if self._settings.start else None, lose)

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

    async def _flush(self) -> None:
        async with self._writing:
            waiting, self._waiting = self._waiting, []
            self._follow(self._settings)
            if waiting and self._file is not None and self._written_as is not None:
                found = await asyncio.to_thread(_write, self._file, self._written_as.sample, waiting)
                self._count -= sum(count for _, count, _ in waiting)
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


def _write(file: LogFile, sample: int, waiting: list[_Waiting]) -> _Written:
    """Make the words and write them, in a thread."""
    found, lines = _Written(), []
    for datapath, _, describe in waiting:
        for flow in describe():
            if is_sampled(flow, sample):
                lines.append(line_of(flow, datapath))
            if len(lines) == _CHUNK:
                _append(file, lines, found)
                lines = []
    if lines:
        _append(file, lines, found)
    return found


def _append(file: LogFile, lines: list[str], found: _Written) -> None:
    try:
        file.append("".join(lines).encode())
    except OSError as error:
        found.failed += len(lines)
        found.error = str(error)
    else:
        found.written += len(lines)
