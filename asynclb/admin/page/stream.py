"""Server-sent events: one frame a second for everybody who listens, at `/api/v1/stream`.

A browser's EventSource cannot send a token, so the page reads the stream with `fetch`; `curl -N` reads it as well.
`/api/v1/checks` answers with the last checks of one member, for pools that are too large to be sent whole.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from asynclb.admin.page.frame import (
    Moment,
    carded,
    check_document,
    encode,
    same_objects,
    state_frame,
    tick_frame,
    total_row,
)
from asynclb.admin.page.picture import Document, Picture, draw
from asynclb.admin.page.rates import Rates, Reading, rates, read
from asynclb.admin.page.situation import of_picture
from asynclb.admin.verdict import Verdict, judge
from asynclb.control.bulk import in_bulk
from asynclb.control.status import StateSource
from asynclb.events import Emit, Event
from asynclb.health.record import Check
from asynclb.model import TargetId, probes_by_pool

MOST = 64  # listeners: a browser tab each
PERIOD_S = 1.0
SLOW_S = 5.0  # a listener that has not taken a frame after this is dropped; the page asks again after a second
WAITING = 8  # frames for one listener, reached only by one that is about to be dropped
PAST_S = 180  # of totals, so that the charts of a page that is opened beside another one are full at once
AGAIN_S = 10.0  # after a failure of ours


@dataclass(frozen=True, slots=True)
class LiveSources:
    """Where frames come from. Each is called on the event loop and answers from memory."""

    state: StateSource
    checks: Callable[[TargetId], Sequence[Check]]
    events: Callable[[int], Sequence[Mapping[str, Any]]]
    """Return the events after the one of a number."""


class _Listener:
    """Frames on their way to one listener. Owner: the stream."""

    def __init__(self) -> None:
        self._frames: asyncio.Queue[bytes] = asyncio.Queue(WAITING)
        self._gone = asyncio.Event()
        self.new = True

    def put(self, frame: bytes) -> None:
        """Hand over a frame; a listener that has too many of them is let go."""
        try:
            self._frames.put_nowait(frame)
        except asyncio.QueueFull:
            self._gone.set()
        self.new = False

    def end(self) -> None:
        """Let it go once it has what it was handed."""
        self._gone.set()

    async def next(self) -> bytes | None:
        """Return the next frame, None when there will be no more."""
        if self._frames.empty() and not self._gone.is_set():
            frame = asyncio.ensure_future(self._frames.get())
            gone = asyncio.ensure_future(self._gone.wait())
            try:
                await asyncio.wait((frame, gone), return_when=asyncio.FIRST_COMPLETED)
                if frame.done():
                    return frame.result()
            finally:
                frame.cancel()
                gone.cancel()
        return None if self._frames.empty() else self._frames.get_nowait()


class Stream:
    """Makes frames while somebody listens. Owner: the task in `run`."""

    def __init__(
        self,
        sources: LiveSources,
        emit: Emit,
        *,
        most: int = MOST,
        period_s: float = PERIOD_S,
        slow_s: float = SLOW_S,
    ) -> None:
        self._sources = sources
        self._emit = emit
        self._most = most
        self._period_s = period_s
        self._slow_s = slow_s
        self._listeners: set[_Listener] = set()
        self._somebody = asyncio.Event()
        self._open = True
        self._epoch_offset_s = time.time() - time.monotonic_ns() / 1e9
        self._picture = Picture()
        self._past: deque[tuple[float, ...]] = deque(maxlen=round(PAST_S / period_s))

    def routes(self) -> list[web.RouteDef]:
        """Return what is served; the guard of `/api/` stands before both."""
        return [
            web.get("/api/v1/stream", self.listen, allow_head=False),
            web.get("/api/v1/checks", self.checks, allow_head=False),
        ]

    async def run(self) -> None:
        """Make frames until cancelled.

        Cancel: listeners are told that this is the end, and no more are taken.
        """
        try:
            while True:
                await self._somebody.wait()
                try:
                    await self._while_somebody_listens()
                except Exception as error:  # noqa: BLE001  the page ends, the forwarding does not
                    self._emit(Event.TASK_FAILED, task="status page", error=repr(error), traceback="")
                    self._dismiss()
                    await asyncio.sleep(AGAIN_S)
        finally:
            self._open = False
            for listener in self._listeners:
                listener.put(encode("bye", {"at": time.time()}))
            self._dismiss()

    async def listen(self, request: web.Request) -> web.StreamResponse:
        """Send frames until the listener goes, is too slow, or the process stops."""
        if not self._open or len(self._listeners) >= self._most:
            why = f"{self._most} listeners are there already" if self._open else "the process is stopping"
            return _refusal(503, why, "come back in five seconds", {"Retry-After": "5"})
        listener = _Listener()
        self._listeners.add(listener)
        self._somebody.set()
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        try:
            async with asyncio.timeout(self._slow_s):
                await response.prepare(request)
            while (frame := await listener.next()) is not None:
                async with asyncio.timeout(self._slow_s):
                    await response.write(frame)
            async with asyncio.timeout(self._slow_s):
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # the listener has gone, as they do
        finally:
            self._leave(listener)
        return response

    async def checks(self, request: web.Request) -> web.Response:
        """Answer with the last checks of one member."""
        pool, member = request.query.get("pool", ""), request.query.get("member", "")
        status = self._sources.state.status()
        if pool not in status.model.backend_pools:
            return _refusal(404, f"there is no pool {pool[:100]!r}", "pass ?pool=...&member=..., URL-encoded")
        found = self._checks_of((pool, member), probes_by_pool(status.model).get(pool, ()))
        return web.json_response({"checks": list(found.values())}, headers={"Cache-Control": "no-store"})

    def _leave(self, listener: _Listener) -> None:
        self._listeners.discard(listener)
        if not self._listeners:
            self._somebody.clear()

    def _dismiss(self) -> None:
        for listener in self._listeners:
            listener.end()
        self._listeners.clear()
        self._somebody.clear()

    async def _while_somebody_listens(self) -> None:
        """Send a frame every second; the first one at once."""
        self._past.clear()
        before: Moment | None = None
        number = 0  # of the last event that was sent
        due_s = time.monotonic()
        while self._listeners:
            now = await self._take(before)
            self._past.append(total_row(now))
            events = self._sources.events(0)
            fresh = [event for event in events if event["number"] > number]
            number = events[-1]["number"] if events else number
            await self._send(before, now, events, fresh)
            before = now
            due_s = max(due_s + self._period_s, time.monotonic())
            await asyncio.sleep(due_s - time.monotonic())

    async def _take(self, before: Moment | None) -> Moment:
        """Look at everything once. What is read on the loop is in memory; what takes long is worked out in a thread."""
        status = self._sources.state.status()
        counters = self._sources.state.counters()
        at_ns, at_s = time.monotonic_ns(), time.time()
        known = self._picture

        def work() -> tuple[Picture, Reading, Rates, Verdict]:
            picture = draw(status, known, self._epoch_offset_s)
            reading = read(counters, lambda name: picture.shown.get(name, name), at_ns)
            passed = rates(before.reading if before else Reading(), reading)
            verdict = judge(of_picture(status, picture, passed, reading, at_s))
            return picture, reading, passed, verdict

        self._picture, reading, passed, verdict = await in_bulk(work)
        checks: dict[TargetId, Document] = {}
        for place in carded(self._picture):
            checks |= self._checks_of(place, self._picture.probes.get(place[0], ()))
        return Moment(at_s, status, self._picture, reading, passed, verdict, checks)

    def _checks_of(self, place: tuple[str, str], probes: Sequence[str]) -> dict[TargetId, Document]:
        targets = [(*place, probe) for probe in probes]
        return {
            target: check_document(target, self._sources.checks(target), self._epoch_offset_s) for target in targets
        }

    async def _send(
        self, before: Moment | None, now: Moment, events: Sequence[Document], fresh: Sequence[Document]
    ) -> None:
        """Give everything to those who are new, or to all if objects came or went, and the changes to the others."""
        afresh = before is None or not same_objects(before.picture, now.picture)
        chosen = [*self._listeners]
        full = tick = b""
        if afresh or any(listener.new for listener in chosen):
            full = await in_bulk(state_frame, now, [*self._past], events)
        if before is not None and not afresh:
            tick = await in_bulk(tick_frame, before, now, fresh)
        for listener in chosen:
            listener.put(full if afresh or listener.new else tick)


def _refusal(status: int, error: str, remedy: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body = json.dumps({"error": error, "remedy": remedy})
    return web.Response(text=body, status=status, content_type="application/json", headers=headers)
