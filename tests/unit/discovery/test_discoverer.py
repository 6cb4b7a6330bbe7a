"""Feeds: what is told, what is passed on and how often, and what a reload leaves alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from asynclb.discovery import Answer, Discoverer, Failure, Feed, Say, SourceState
from asynclb.discovery.discoverer import STALE
from asynclb.discovery.state import Result, SourceStatus, heard, settled, warnings_of
from asynclb.errors import Problem
from asynclb.events import Event
from asynclb.lab import PATIENCE_S
from asynclb.model import FileSource, Member, MembersFrom, MemberSource
from tests.unit.control.fakes import Log
from tests.unit.discovery.fakes import FakeSource, answer

PROBLEM = Problem(("backend_pools", "web", "members_from"), "", "too many", "remove some")


class Bench:
    """A discoverer over fake sources, with a clock that stands, and a writer that remembers what it was given."""

    def __init__(self) -> None:
        self.sources: dict[str, FakeSource] = {}
        self.log = Log()
        self.given: list[tuple[str, list[str]]] = []
        self.result = "applied"
        self.now_s = 1000.0
        self.discoverer = Discoverer(self.make, self.log, clock=lambda: 1_800_000_000.0, monotonic=lambda: self.now_s)

    def make(self, source: MemberSource) -> FakeSource:
        assert isinstance(source, FileSource)
        return self.sources.setdefault(source.path, FakeSource())

    async def update(
        self, pool: str, _members_from: MembersFrom, members: tuple[Member, ...]
    ) -> tuple[str, tuple[Problem, ...]]:
        self.given.append((pool, [str(member.address) for member in members]))
        return self.result, (PROBLEM,) if self.result == "refused" else ()

    def feed(self, path: str, *ports: int) -> Feed:
        return Feed(MembersFrom(FileSource(path)), frozenset(ports))

    async def settle(self) -> None:
        """Let everything run that can run at once."""
        for _ in range(10):
            await asyncio.sleep(0)


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    """Run a discoverer."""
    bench = Bench()
    task = asyncio.create_task(bench.discoverer.run())
    await bench.settle()
    try:
        yield bench
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_the_first_answer_is_passed_on_at_once_and_the_last_of_many_a_second_later() -> None:
    """A source that changes its mind all the time costs one update a second, and that one is of its last word."""
    async with running() as bench:
        bench.discoverer.deliver(bench.update)
        bench.discoverer.set_feeds({"web": bench.feed("a")})
        await bench.settle()
        bench.sources["a"].say(answer("10.0.0.1"))
        await bench.settle()
        assert bench.given == [("web", ["10.0.0.1"])]
        bench.now_s += 0.9
        began = asyncio.get_running_loop().time()
        for number in range(2, 50):
            bench.sources["a"].say(answer(f"10.0.0.{number}"))
        await bench.settle()
        assert len(bench.given) == 1
        while len(bench.given) < 2:
            await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - began > 0.09
        assert bench.given[1:] == [("web", ["10.0.0.49"])]


async def test_failures_are_told_once_and_so_is_their_end() -> None:
    """The same failure over and over is one event; another reason is another one; then it is up again."""
    async with running() as bench:
        bench.discoverer.set_feeds({"web": bench.feed("a")})
        await bench.settle()
        words = (answer("10.0.0.1"), Failure("dead"), Failure("dead"), Failure("garbage"), answer("10.0.0.1"))
        bench.sources["a"].say(*words)
        await bench.settle()
        assert bench.log.names() == [
            *(Event.SOURCE_UP, Event.SOURCE_FAILED, Event.SOURCE_FAILED, Event.SOURCE_UP),
        ]
        assert [fields["error"] for fields in bench.log.of(Event.SOURCE_FAILED)] == ["dead", "garbage"]
        assert bench.discoverer.statuses()["web"].state is SourceState.UP


async def test_a_refusal_is_told_once_and_tried_again_after_a_reload() -> None:
    """What did not fit may fit into another configuration; until then it is told once."""
    async with running() as bench:
        bench.discoverer.deliver(bench.update)
        bench.result = "refused"
        bench.discoverer.set_feeds({"web": bench.feed("a")})
        await bench.settle()
        bench.sources["a"].say(answer("10.0.0.1"))
        await bench.settle()
        assert bench.discoverer.statuses()["web"].problems == (PROBLEM,)
        assert not bench.discoverer.statuses()["web"].well
        bench.result = "applied"
        bench.now_s += 1.0
        bench.discoverer.set_feeds({"web": bench.feed("a", 80)})
        async with asyncio.timeout(PATIENCE_S):
            while len(bench.given) < 2:
                await asyncio.sleep(0.01)
        await bench.settle()
        status = bench.discoverer.statuses()["web"]
        assert (status.result, dict(status.updates)) == (Result.APPLIED, {"applied": 1, "unchanged": 0, "refused": 1})
        assert len(bench.log.of(Event.SOURCE_REFUSED)) == 1


async def test_a_reload_ends_what_is_gone_and_leaves_the_others_alone() -> None:
    """A feed whose source stays the same runs on; one that is removed is closed; one with another source is new."""
    async with running() as bench:
        bench.discoverer.set_feeds({"one": bench.feed("a"), "two": bench.feed("b"), "three": bench.feed("c")})
        await bench.settle()
        bench.sources["a"].say(answer("10.0.0.1"))
        await bench.settle()
        bench.discoverer.set_feeds({"one": bench.feed("a", 443), "three": bench.feed("d")})
        await bench.settle()
        assert {path: source.closed for path, source in bench.sources.items()} == {
            "a": False,
            "b": True,
            "c": True,
            "d": False,
        }
        states = {pool: status.state for pool, status in bench.discoverer.statuses().items()}
        assert states == {"one": SourceState.UP, "three": SourceState.WAITING}


async def test_the_start_waits_for_first_words_but_not_for_ever() -> None:
    """Answers that come in time are returned, a failure ends the wait as well, and silence ends with the time."""
    async with running() as bench:
        bench.discoverer.set_feeds({"one": bench.feed("a"), "two": bench.feed("b")})
        await bench.settle()
        bench.sources["a"].say(answer("10.0.0.1"))
        bench.sources["b"].say(Failure("dead"))
        async with asyncio.timeout(PATIENCE_S):
            found = await bench.discoverer.first_answers({"one", "two"}, 2 * PATIENCE_S)
        assert {pool: [m.name for m in members] for pool, members in found.items()} == {"one": ["10.0.0.1"]}
        bench.discoverer.set_feeds({"three": bench.feed("c")})
        assert await bench.discoverer.first_answers({"three"}, 0.05) == {}


async def test_stale_answers_count_for_nothing() -> None:
    """An answer for a source that the pool no longer has is dropped without a word."""
    async with running() as bench:
        bench.discoverer.deliver(bench.update)
        bench.result = STALE
        bench.discoverer.set_feeds({"web": bench.feed("a")})
        await bench.settle()
        bench.sources["a"].say(answer("10.0.0.1"))
        await bench.settle()
        assert bench.discoverer.statuses()["web"].result is None


async def test_a_bug_of_a_source_ends_the_process() -> None:
    """What is no failure of the world outside is not swallowed."""

    class Broken(FakeSource):
        async def run(self, say: Say) -> None:
            say(answer())
            raise ZeroDivisionError

    bench = Bench()
    bench.sources["a"] = Broken()
    bench.discoverer.set_feeds({"web": bench.feed("a")})
    with pytest.raises(ExceptionGroup):
        async with asyncio.timeout(PATIENCE_S):
            await bench.discoverer.run()


STATUS = SourceStatus(MembersFrom(FileSource("a")), 1.0)


@pytest.mark.parametrize("before", list(SourceState))
@pytest.mark.parametrize(("finding", "after"), [(answer(), SourceState.UP), (Failure("x"), SourceState.FAILED)])
def test_states(before: SourceState, finding: Answer | Failure, after: SourceState) -> None:
    """The table of states: an answer means up and a failure failed; `since` is of the change."""
    status = SourceStatus(MembersFrom(FileSource("a")), 1.0, before)
    found = heard(status, finding, 9.0)
    assert found.state is after
    assert found.since_s == (1.0 if before is after else 9.0)
    assert found.answered_s == (9.0 if after is SourceState.UP else 0.0)


def test_ports_of_the_source_that_no_rule_has_are_warned_of() -> None:
    """SRV ports are ignored; one that rules do not deliver to is probably a mistake."""
    told = Answer((), frozenset({80, 8080}), ("a note",))
    assert warnings_of(told, frozenset({80, 8080})) == ("a note",)
    assert warnings_of(told, frozenset({80})) == (
        "a note",
        "the source names port 8080, which is ignored: rules of the pool deliver to 80",
    )


def test_results_are_counted() -> None:
    """Every answer is one update with its result."""
    status = settled(settled(STATUS, Result.APPLIED, (), ()), Result.REFUSED, (PROBLEM,), ())
    assert dict(status.updates) == {"applied": 1, "unchanged": 0, "refused": 1}
