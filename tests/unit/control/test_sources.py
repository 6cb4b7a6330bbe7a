"""The one writer and the sources of members: what is taken, refused, kept over reloads and over a restart."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from asynclb.config import check_members
from asynclb.control.changes import what_fits
from asynclb.control.controller import Controller
from asynclb.control.member_memory import MemberFile
from asynclb.control.targets import feeds_of
from asynclb.discovery import Feed
from asynclb.events import Event
from asynclb.model import AdminState, FileSource, Member, MembersFrom, Model
from tests.unit.control.fakes import Bench, FakeDatapath, FakeLoader, FakeParsed, Log, web_model

SOURCE = MembersFrom(FileSource("members.yaml"))


def sourced(source: MembersFrom | None = SOURCE, rules: int = 1) -> Model:
    """Make a model whose pool `web` has a source and no members of its own."""
    model = web_model(probe=None, rules=rules)
    pool = replace(model.backend_pools["web"], members_from=source)
    return replace(model, backend_pools={"web": pool})


def told(*names: str) -> tuple[Member, ...]:
    """Make members `a1`, `a2`, ... as a source would tell of them."""
    return tuple(Member(name, ip_address(f"10.2.0.{name[1:]}")) for name in names)


@asynccontextmanager
async def running(model: Model) -> AsyncIterator[tuple[Controller, Bench]]:
    """Run a controller that has started with a model."""
    bench = Bench(FakeLoader(model), [FakeDatapath("proxy")])
    controller = bench.controller()
    task = asyncio.create_task(controller.run())
    try:
        assert (await controller.reload("start")).result == "applied"
        yield controller, bench
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def members(controller: Controller) -> list[str]:
    """Return who is in the tables."""
    (entry,) = controller.status().tables.entries.values()
    return [member.name for member in entry.table.members]


async def test_members_come_change_and_go() -> None:
    """Each answer is a generation of the tables and one event; the same answer again is none."""
    async with running(sourced()) as (controller, bench):
        assert (await controller.take_members("web", SOURCE, told("a1", "a2"))).result == "applied"
        assert members(controller) == ["a1", "a2"]
        assert (await controller.take_members("web", SOURCE, told("a1", "a2"))).result == "unchanged"
        heavier = replace(told("a2")[0], weight=5)
        assert (await controller.take_members("web", SOURCE, (heavier, *told("a3")))).result == "applied"
        status = controller.status()
    assert [generation.cause for generation in status.history] == ["start", "source", "source"]
    event = bench.log.of(Event.MEMBERS_DISCOVERED)[-1]
    assert (event["added"], event["removed"], event["changed"]) == (("a3",), ("a1",), ("a2",))
    assert len(bench.log.of(Event.MEMBERS_DISCOVERED)) == 2


async def test_an_answer_without_members_is_refused_unless_that_is_allowed() -> None:
    """The last members stay, and the problem names the source and the remedy; a pool that was empty may stay so."""
    async with running(sourced()) as (controller, _):
        assert (await controller.take_members("web", SOURCE, ())).result == "applied"
        await controller.take_members("web", SOURCE, told("a1"))
        refused = await controller.take_members("web", SOURCE, ())
        assert members(controller) == ["a1"]
    assert refused.result == "refused"
    assert str(refused.problems[0]) == (
        "backend_pools.web.members_from: file members.yaml has no members left, and the pool has 1 from there; "
        "they stay [SOURCE_EMPTY]; mend the source, or write `allow_empty: true` if it is right"
    )
    allowed = replace(SOURCE, allow_empty=True)
    async with running(sourced(allowed)) as (controller, _):
        await controller.take_members("web", allowed, told("a1"))
        assert (await controller.take_members("web", allowed, ())).result == "applied"
        assert members(controller) == []


async def test_members_that_do_not_fit_change_nothing() -> None:
    """What the configuration's checks refuse keeps the last members, and so does a datapath that fails."""
    async with running(sourced()) as (controller, bench):
        await controller.take_members("web", SOURCE, told("a1"))
        many = await controller.take_members("web", SOURCE, told("a1", "a2", "a3", "a4"))
        assert (many.result, many.problems[0].rule) == ("refused", "too many members")
        bench.datapaths[0].fail_next = 1
        failed = await controller.take_members("web", SOURCE, told("a2"))
        assert (failed.result, failed.problems[0].rule) == ("refused", "the port is taken")
        assert members(controller) == ["a1"]
        assert controller.status().discovered == {"web": told("a1")}


async def test_a_reload_keeps_what_was_told() -> None:
    """Members stay over a reload, also when the source is another one until that answers; without one they go."""
    async with running(sourced()) as (controller, bench):
        await controller.take_members("web", SOURCE, told("a1", "a2"))
        bench.loader.put(replace(sourced(), shutdown_drain_s=3.0))
        assert (await controller.reload("signal")).result == "applied"
        assert members(controller) == ["a1", "a2"]
        other = MembersFrom(FileSource("other.yaml"))
        bench.loader.put(sourced(other))
        await controller.reload("signal")
        assert members(controller) == ["a1", "a2"]
        assert (await controller.take_members("web", SOURCE, told("a3"))).result == "stale"
        assert (await controller.take_members("web", other, told("a3"))).result == "applied"
        bench.loader.put(sourced(None))
        await controller.reload("signal")
        assert members(controller) == []
        assert controller.status().discovered == {}


async def test_a_start_takes_what_fits_of_what_is_remembered() -> None:
    """Remembered members are in the first tables; those that no longer fit are left out with a warning."""
    for remembered, expected in ((told("a1"), ["a1"]), (told("a1", "a2", "a3", "a4"), [])):
        bench = Bench(FakeLoader(sourced()), [FakeDatapath("proxy")])
        controller = bench.controller()
        task = asyncio.create_task(controller.run())
        assert (await controller.reload("start", discovered={"web": remembered})).result == "applied"
        assert members(controller) == expected
        assert controller.status().generation == 1
        assert len(bench.log.of(Event.CONFIG_WARNING)) == (0 if expected else 1)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_what_fits_leaves_out_pools_without_a_source() -> None:
    """Members that are remembered of a pool that is gone, or has no source any more, are no problem and no members."""
    parsed = FakeParsed(sourced(None), "digest")
    assert what_fits(parsed, {"web": told("a1"), "gone": told("a2")}) == (parsed, {}, ())


def test_what_is_asked_for_a_pool() -> None:
    """A feed is for each pool with a source, with the ports that its rules deliver to."""
    assert feeds_of(sourced()) == {"web": Feed(SOURCE, frozenset({8080}))}
    assert feeds_of(sourced(None)) == {}


def test_members_are_remembered_as_they_were(tmp_path: Path) -> None:
    """What is kept is read back equal, for a pool with the same source only."""
    member = Member("a1", ip_address("fd00::1"), 5, AdminState.DRAIN, "2", 3)
    log = Log()
    memory = MemberFile(tmp_path / "state", check_members, log)
    assert memory.read(sourced()) == {}
    memory.keep(sourced(), {"web": (member,)})
    assert memory.read(sourced()) == {"web": (member,)}
    assert memory.read(sourced(MembersFrom(FileSource("other.yaml")))) == {}
    assert memory.read(sourced(None)) == {}
    assert log.events == []


def test_a_memory_that_cannot_be_read_is_told_and_forgotten(tmp_path: Path) -> None:
    """Garbage in the state directory costs the members of the last run, and is said with the remedy."""
    for garbage in ("{", "[]", '{"web": 1}', '{"web": {"source": "file members.yaml", "members": [{"name": "a"}]}}'):
        log = Log()
        (tmp_path / "members.json").write_text(garbage)
        assert MemberFile(tmp_path, check_members, log).read(sourced()) == {}
        assert log.names() == [Event.HOST_LIMIT], garbage


def test_a_memory_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    """Without a place to write, the process goes on and says what a restart will miss."""
    (tmp_path / "file").touch()
    log = Log()
    MemberFile(tmp_path / "file", check_members, log).keep(sourced(), {"web": told("a1")})
    assert "a restart waits for their sources" in str(log.of(Event.HOST_LIMIT)[0]["what"])
