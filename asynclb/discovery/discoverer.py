"""Runs the sources of all pools, and passes on what they say.

Each pool with a source has a feed: one task that listens to the source, and one that passes answers on to the writer,
the last one only and at most one a second. A reload starts the feeds that are new, ends those that are gone, and
leaves the others alone.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from asynclb.discovery.schedule import settle_after_s
from asynclb.discovery.source import Answer, Finding, Source
from asynclb.discovery.state import Result, SourceState, SourceStatus, heard, settled, warnings_of
from asynclb.errors import Problem
from asynclb.events import Emit, Event
from asynclb.model import Member, MembersFrom, MemberSource

STALE = "stale"
Update = Callable[[str, MembersFrom, tuple[Member, ...]], Awaitable[tuple[str, tuple[Problem, ...]]]]
"""Tell the one writer who a pool's members are; it answers with a `Result`, or `STALE`, and the problems."""


@dataclass(frozen=True, slots=True)
class Feed:
    """What is asked for one pool: the source, and the ports that rules of the pool deliver to."""

    members_from: MembersFrom
    backend_ports: frozenset[int] = frozenset()


class _Running:
    """A feed that runs. Owner: the discoverer."""

    __slots__ = ("answer", "feed", "pool", "status", "task", "told", "updated_s", "wake")

    def __init__(self, pool: str, feed: Feed, now_s: float) -> None:
        self.pool = pool
        self.feed = feed
        self.status = SourceStatus(feed.members_from, now_s)
        self.answer: Answer | None = None
        self.wake = asyncio.Event()
        self.updated_s: float | None = None
        self.told: tuple[object, ...] = ()  # the refusal and the warnings that were told last
        self.task: asyncio.Task[None] | None = None


class Discoverer:
    """Keeps the sources of all pools running. Owner: the task in `run`; the rest is for the loop's thread."""

    def __init__(
        self,
        make: Callable[[MemberSource], Source],
        emit: Emit,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._emit = emit
        self._clock = clock
        self._monotonic = monotonic
        self._feeds: dict[str, _Running] = {}
        self._changed = asyncio.Event()
        self._heard = asyncio.Event()
        self._update: Update | None = None
        self._may_update = asyncio.Event()

    # What others may ask at any time

    def set_feeds(self, feeds: Mapping[str, Feed]) -> None:
        """Ask exactly these from now on. Answers that were refused are tried again, as the configuration changed."""
        for pool, running in list(self._feeds.items()):
            if pool not in feeds or feeds[pool].members_from != running.feed.members_from:
                self._end(self._feeds.pop(pool))
        for pool, feed in feeds.items():
            if pool not in self._feeds:
                self._feeds[pool] = _Running(pool, feed, self._clock())
            self._feeds[pool].feed = feed
            if self._feeds[pool].status.result is Result.REFUSED:
                self._feeds[pool].wake.set()
        self._changed.set()

    def statuses(self) -> Mapping[str, SourceStatus]:
        """Return what is known of the source of each pool that has one."""
        return {pool: running.status for pool, running in self._feeds.items()}

    async def first_answers(self, pools: set[str], wait_s: float) -> Mapping[str, tuple[Member, ...]]:
        """Wait until these pools' sources have said something, but no longer than that, and return their answers."""
        with suppress(TimeoutError):  # whoever has not answered by now is taken when it does
            async with asyncio.timeout(wait_s):
                while any(self._feeds[pool].status.state is SourceState.WAITING for pool in pools):
                    self._heard.clear()
                    await self._heard.wait()
        answers = {pool: self._feeds[pool].answer for pool in pools}
        return {pool: answer.members for pool, answer in answers.items() if answer is not None}

    def deliver(self, update: Update) -> None:
        """Pass answers on from now on, beginning with those that have come already."""
        self._update = update
        self._may_update.set()

    # The task

    async def run(self) -> None:
        """Listen until cancelled. Raises: ExceptionGroup -> a bug in a source, or in whoever is told."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                for running in self._feeds.values():
                    if running.task is None:
                        running.task = group.create_task(self._follow(running))
                await self._changed.wait()

    async def _follow(self, running: _Running) -> None:
        source = self._make(running.feed.members_from.source)
        async with asyncio.TaskGroup() as group:
            group.create_task(source.run(partial(self._take, running)))
            group.create_task(self._pass_on(running))

    def _end(self, running: _Running) -> None:
        if running.task is not None:
            running.task.cancel()
        running.task = None

    def _take(self, running: _Running, finding: Finding) -> None:
        """Note what a source says, and tell of it if that is another state than before."""
        before = running.status
        running.status = after = heard(before, finding, self._clock())
        what = {"pool": running.pool, "source": str(after.members_from.source)}
        if isinstance(finding, Answer):
            running.answer = finding
            running.wake.set()
            if before.state is not SourceState.UP:
                self._emit(Event.SOURCE_UP, **what, members=len(finding.members))
        elif before.state is not SourceState.FAILED or before.error != after.error:
            self._emit(Event.SOURCE_FAILED, **what, error=after.error)
        self._heard.set()

    async def _pass_on(self, running: _Running) -> None:
        """Pass the last answer on whenever there is a new one, and not more often than pools may change."""
        await self._may_update.wait()
        while True:
            await running.wake.wait()
            await asyncio.sleep(settle_after_s(running.updated_s, self._monotonic()))
            running.wake.clear()
            if running.answer is not None and self._update is not None:
                await self._pass(running, running.answer, self._update)

    async def _pass(self, running: _Running, answer: Answer, update: Update) -> None:
        source = running.feed.members_from
        result, problems = await update(running.pool, source, answer.members)
        if result == STALE:  # a reload has another source for the pool; this feed ends
            return
        running.updated_s = self._monotonic() if result != Result.UNCHANGED else running.updated_s
        warnings = warnings_of(answer, running.feed.backend_ports)
        running.status = settled(running.status, Result(result), problems, warnings)
        told = (problems and answer.members, problems, warnings)
        if told != running.told:
            running.told = told
            self._tell(running.pool, str(source.source), problems, warnings)

    def _tell(self, pool: str, source: str, problems: tuple[Problem, ...], warnings: tuple[str, ...]) -> None:
        if problems:
            texts = tuple(str(problem) for problem in problems)
            self._emit(Event.SOURCE_REFUSED, pool=pool, source=source, problems=texts)
        for warning in warnings:
            self._emit(Event.SOURCE_WARNING, pool=pool, source=source, warning=warning)
