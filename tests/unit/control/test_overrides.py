"""What operators say of members while the process runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from asynclb.control.controller import Controller
from asynclb.control.overrides import MemberChange, amend, find_member, lay_over, still_meant
from asynclb.events import Event
from asynclb.model import AdminState, Compat, HealthState, Model
from tests.unit.control.fakes import Bench, FakeDatapath, FakeLoader, web_model

DRAIN = MemberChange(admin_state=AdminState.DRAIN)
HEAVY = MemberChange(weight=5)


@asynccontextmanager
async def running(model: Model) -> AsyncIterator[tuple[Bench, Controller]]:
    """Run a controller whose members are up."""
    bench = Bench(FakeLoader(model), [FakeDatapath("proxy")])
    controller = bench.controller()
    task = asyncio.create_task(controller.run())
    await controller.reload("start")
    for member in model.backend_pools["web"].members:
        bench.prober.say(member.name, HealthState.UP)
    controller.health_changed()
    await controller.reload("signal")
    try:
        yield bench, controller
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def members(controller: Controller) -> set[str]:
    """Return who may take new flows of the first rule."""
    entry = next(iter(controller.status().tables.entries.values()))
    return {member.name for member in entry.table.members}


def test_changes_add_up_and_what_says_nothing_is_none() -> None:
    """A second change keeps the first; a change to what the file says is no override."""
    model = web_model("a", "b")
    filed = find_member(model, "web", "a")
    assert filed is not None
    once = amend({}, ("web", "a"), filed, DRAIN, "me", 1.0)
    twice = amend(once, ("web", "a"), filed, HEAVY, "me", 2.0)
    assert twice["web", "a"].member == replace(filed, admin_state=AdminState.DRAIN, weight=5)
    assert amend(once, ("web", "a"), filed, MemberChange(admin_state=AdminState.NONE), "me", 3.0) == {}
    assert find_member(lay_over(model, twice), "web", "a") == twice["web", "a"].member
    assert lay_over(model, twice).backend_pools["web"].members[1] is model.backend_pools["web"].members[1]


def test_the_file_has_the_last_word_on_a_member_that_it_changes() -> None:
    """An override ends when the file changes its member or drops it, and not when it changes another one."""
    model = web_model("a", "b")
    filed = find_member(model, "web", "a")
    assert filed is not None
    overrides = amend({}, ("web", "a"), filed, DRAIN, "me", 1.0)
    assert still_meant(overrides, web_model("a", "b", "c")) == overrides
    assert still_meant(overrides, web_model("a", "b", weight=3)) == {}
    assert still_meant(overrides, web_model("b")) == {}


async def test_a_member_is_drained_and_given_back() -> None:
    """Drained, a member leaves the tables at once; given back, it returns; both are told with who asked."""
    async with running(web_model("a", "b")) as (bench, controller):
        found = await controller.change_member(("web", "a"), DRAIN, "uid 0")
        assert (found.result, members(controller)) == ("applied", {"b"})
        assert controller.status().overrides["web", "a"].by == "uid 0"
        assert bench.prober.targets.keys() == {("web", "a", "tcp"), ("web", "b", "tcp")}
        again = await controller.change_member(("web", "a"), DRAIN, "uid 0")
        back = await controller.change_member(("web", "a"), None, "uid 0")
        assert [again.result, back.result, members(controller)] == ["unchanged", "applied", {"a", "b"}]
    assert bench.log.of(Event.MEMBER_OVERRIDDEN) == [
        {"pool": "web", "member": "a", "admin_state": "drain", "weight": 1, "by": "uid 0"}
    ]
    assert bench.log.of(Event.MEMBER_OVERRIDE_ENDED) == [{"pool": "web", "member": "a"}]


async def test_an_override_stays_over_reloads_until_the_file_changes_the_member() -> None:
    """A reload that says the same of the member keeps the override; one that says something else ends it."""
    async with running(web_model("a", "b")) as (bench, controller):
        await controller.change_member(("web", "a"), DRAIN, "me")
        bench.loader.put(web_model("a", "b", "c"))
        await controller.reload("signal")
        assert controller.status().overrides.keys() == {("web", "a")}
        bench.loader.put(web_model("a", "b", "c", weight=2))
        await controller.reload("signal")
        assert not controller.status().overrides
        assert members(controller) >= {"a", "b"}


async def test_commands_for_another_generation_are_stale() -> None:
    """A change or a reload that expects a generation that is no longer active changes nothing."""
    async with running(web_model("a", "b")) as (_, controller):
        seen = controller.status().generation
        assert (await controller.change_member(("web", "a"), HEAVY, "me", expected=seen)).result == "applied"
        stale = await controller.change_member(("web", "b"), HEAVY, "me", expected=seen)
        assert (stale.result, stale.generation) == ("stale", controller.status().generation)
        assert (await controller.reload("api", expected=seen)).result == "stale"
        assert controller.status().last_reload is not None
        assert controller.status().overrides.keys() == {("web", "a")}


async def test_a_change_that_a_datapath_refuses_changes_nothing() -> None:
    """The tables, the overrides and the model stay as they were, and the problem is told."""
    async with running(web_model("a", "b")) as (bench, controller):
        before = controller.status()
        bench.datapaths[0].fail_next = 1
        found = await controller.change_member(("web", "a"), DRAIN, "me")
        after = controller.status()
        assert (found.result, len(found.problems)) == ("refused", 1)
        assert (after.overrides, after.tables) == (before.overrides, before.tables)


@pytest.mark.parametrize(
    ("change", "value", "said", "remedy"),
    [
        (HEAVY, "5", "Azure has no weights: every member takes the same share", "remove it"),
        (MemberChange(weight=0), "0", "Azure has no weights", "write `admin_state: down` in its place"),
        (DRAIN, "drain", "Azure's admin states are `none`, `up` and `down`", "write `down`"),
    ],
)
async def test_what_azure_does_not_know(change: MemberChange, value: str, said: str, remedy: str) -> None:
    """With `compat: azure` it is refused in the words of the file's check, at the member's place; `down` is not."""
    async with running(replace(web_model("a", "b"), compat=Compat.AZURE)) as (_, controller):
        before = controller.status()
        found = await controller.change_member(("web", "b"), change, "me")
        (problem,) = found.problems
        assert (found.result, problem.where.rpartition(".")[0]) == ("refused", "backend_pools.web.members[1]")
        assert (problem.file, problem.line, problem.value) == ("asynclb.yaml", 7, value)
        assert problem.rule.startswith(said)
        assert problem.remedy == f"{remedy}, or write `compat: extended`"
        after = controller.status()
        assert (after.overrides, after.tables) == (before.overrides, before.tables)
        down = await controller.change_member(("web", "b"), MemberChange(admin_state=AdminState.DOWN), "me")
        assert (down.result, members(controller)) == ("applied", {"a"})


async def test_a_reload_to_what_azure_knows_while_an_operator_said_more() -> None:
    """It is refused with who said it and how to take it back; afterwards it is taken."""
    async with running(web_model("a", "b")) as (bench, controller):
        await controller.change_member(("web", "a"), HEAVY, "uid 0")
        bench.loader.put(replace(web_model("a", "b"), compat=Compat.AZURE))
        refused = await controller.reload("signal")
        (problem,) = refused.problems
        assert problem.where == "backend_pools.web.members[0].weight"
        assert problem.rule.startswith("uid 0 has said this of the running member, and Azure has no weights")
        assert problem.remedy == "`asynclb set web/a --reset` before, or write `compat: extended`"
        await controller.change_member(("web", "a"), None, "uid 0")
        assert (await controller.reload("signal")).result == "applied"


async def test_nobody_and_nobody_listening() -> None:
    """A member that does not exist is unknown; a controller that stops refuses."""
    async with running(web_model("a")) as (_, controller):
        assert (await controller.change_member(("web", "z"), DRAIN, "me")).result == "unknown"
        assert (await controller.change_member(("nope", "a"), DRAIN, "me")).result == "unknown"
        controller.stop()
        assert (await controller.change_member(("web", "a"), DRAIN, "me")).result == "refused"
