"""The one writer: reloads, refusals, rollback, health."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from asynclb.control.controller import Controller
from asynclb.datapath.base import Refusal
from asynclb.errors import Problem
from asynclb.events import Event
from asynclb.lab import PATIENCE_S
from asynclb.model import Admin, AdminState, BackendPool, HealthState, Model, NoHealthyMembers
from tests.unit.control.fakes import Bench, FakeDatapath, FakeLoader, web_model


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Controller]:
    """Run a controller's task for the length of a test."""
    controller = bench.controller()
    task = asyncio.create_task(controller.run())
    try:
        yield controller
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def settled(controller: Controller) -> None:
    """Wait until the commands so far are carried out, by a reload of the same content behind them."""
    await controller.reload("signal")


def bench_of(model: Model, *datapaths: FakeDatapath) -> Bench:
    """Make a bench with one datapath unless others are given."""
    return Bench(FakeLoader(model), list(datapaths) or [FakeDatapath("proxy")])


async def test_the_first_reload_makes_everything_active() -> None:
    """The first load applies the tables, sets the targets and makes the status ready."""
    bench = bench_of(web_model("a", "b"))
    async with running(bench) as controller:
        assert not controller.status().ready
        found = await controller.reload("start")
        status = controller.status()
    assert (found.result, found.generation) == ("applied", 1)
    assert status.ready
    assert status.generation == 1
    assert status.generation_since_s == bench.now_s
    assert set(bench.prober.targets) == {("web", "a", "tcp"), ("web", "b", "tcp")}
    assert [datapath.rules for datapath in status.datapaths] == [{"web-0": "auto; the preferred datapath"}]
    assert bench.log.of(Event.CONFIG_LOADED)[0]["added"] == 1
    assert bench.log.of(Event.DATAPATH_CHOSEN)[0]["datapath"] == "proxy"


async def test_each_rule_is_carried_in_a_mode_of_its_own() -> None:
    """The mode is that of the rule, not of the datapath; a rule that changes it is told of, and no other."""
    both = web_model("a", rules=2)
    mixed = replace(both, rules=(both.rules[0], replace(both.rules[1], transparent=False)))
    bench = bench_of(mixed)
    async with running(bench) as controller:
        await controller.reload("start")
        (first,) = controller.status().datapaths
        bench.loader.put(both)
        await controller.reload("api")
        (second,) = controller.status().datapaths
    assert first.modes == {"web-0": "memory", "web-1": "borrowed memory"}
    assert (first.mode, second.mode) == ("borrowed memory, memory", "memory")
    told = [(notice["rule"], notice["mode"]) for notice in bench.log.of(Event.DATAPATH_CHOSEN)]
    assert told == [("web-0", "memory"), ("web-1", "borrowed memory"), ("web-1", "memory")]


async def test_a_refused_reload_changes_nothing_and_says_why() -> None:
    """A configuration with a mistake leaves tables, model and targets as they are, and its problem is told."""
    bench = bench_of(web_model("a"))
    async with running(bench) as controller:
        await controller.reload("start")
        before = controller.status()
        bench.loader.break_it()
        found = await controller.reload("signal")
        after = controller.status()
    assert found.result == "refused"
    assert found.problems[0].rule == "is not a key"
    assert (after.tables, after.model, after.config_digest) == (before.tables, before.model, before.config_digest)
    assert len(bench.datapaths[0].deltas) == 1
    assert "is not a key" in str(bench.log.of(Event.CONFIG_REFUSED)[0]["problems"])
    assert after.reloads == {"applied": 1, "unchanged": 0, "refused": 1}
    assert after.last_reload == found


async def test_an_unchanged_file_is_unchanged() -> None:
    """The same content again applies nothing, also after a refused one in between; its warnings still stand."""
    bench = bench_of(web_model("a"))
    warning = Problem((), "", "this is odd", "mend it")
    bench.loader.put(web_model("a"), warning)
    good = bench.loader.content
    async with running(bench) as controller:
        await controller.reload("start")
        bench.loader.break_it()
        await controller.reload("watch")
        bench.loader.content = good
        found = await controller.reload("watch")
    assert (found.result, found.warnings) == ("unchanged", (warning,))
    assert len(bench.datapaths[0].deltas) == 1


async def test_members_become_eligible_as_probes_answer() -> None:
    """Transitions that arrive together are compiled once, and the tables hold who is up."""
    bench = bench_of(web_model("a", "b", "c"))
    async with running(bench) as controller:
        await controller.reload("start")
        for name in ("a", "b"):
            bench.prober.say(name, HealthState.UP)
            controller.health_changed()
        await settled(controller)
        (entry,) = controller.status().tables.entries.values()
    assert [member.name for member in entry.table.members] == ["a", "b"]
    assert len(bench.datapaths[0].deltas) == 2
    assert bench.log.of(Event.RULE_SERVING) == [{"rule": "web-0", "pool": "web", "eligible": 2}]


async def test_a_rule_that_loses_its_last_member_is_told_once() -> None:
    """Down to no member is one `rule_silent`, back up one `rule_serving`; no event while nothing crosses an edge."""
    bench = bench_of(web_model("a"))
    async with running(bench) as controller:
        await controller.reload("start")
        for state in (HealthState.UP, HealthState.DOWN, HealthState.DOWN, HealthState.UP):
            bench.prober.say("a", state)
            controller.health_changed()
            await settled(controller)
    told = [name for name in bench.log.names() if name in (Event.RULE_SILENT, Event.RULE_SERVING)]
    assert told == [Event.RULE_SERVING, Event.RULE_SILENT, Event.RULE_SERVING]


async def test_all_down_is_told_where_the_policy_is_all() -> None:
    """With `no_healthy_members: all`, new flows go to everybody once all are down, and that is an event."""
    model = web_model("a", "b")
    rule = replace(model.rules[0], no_healthy_members=NoHealthyMembers.ALL)
    bench = bench_of(replace(model, rules=(rule,)))
    async with running(bench) as controller:
        await controller.reload("start")
        for name in ("a", "b"):
            bench.prober.say(name, HealthState.DOWN)
        controller.health_changed()
        await settled(controller)
        (entry,) = controller.status().tables.entries.values()
    assert len(entry.table.members) == 2
    assert bench.log.of(Event.ALL_MEMBERS_DOWN) == [{"rule": "web-0", "pool": "web", "policy": "all"}]


async def test_health_is_carried_over_a_reload() -> None:
    """A reload that adds a member keeps serving with the one that is known to be up, without asking it again."""
    bench = bench_of(web_model("a"))
    async with running(bench) as controller:
        await controller.reload("start")
        bench.prober.say("a", HealthState.UP)
        controller.health_changed()
        await settled(controller)
        bench.loader.put(web_model("a", "b"))
        await controller.reload("api")
        (entry,) = controller.status().tables.entries.values()
    assert [member.name for member in entry.table.members] == ["a"]


async def test_a_member_that_moves_has_to_prove_itself_again() -> None:
    """A member that keeps its name under another address is not eligible by the old address's health."""
    bench = bench_of(web_model("a", "b"))
    async with running(bench) as controller:
        await controller.reload("start")
        for name in ("a", "b"):
            bench.prober.say(name, HealthState.UP)
        controller.health_changed()
        await settled(controller)
        bench.loader.put(web_model("b", "a"))
        await controller.reload("api")
        (entry,) = controller.status().tables.entries.values()
    assert entry.table.members == ()


async def test_two_datapaths_roll_back_when_the_second_fails() -> None:
    """What the first datapath had taken is put back by the inverse delta, and the reload is refused."""
    journal: list[str] = []
    even_only = Refusal("even ports only", "use another port")
    fast = FakeDatapath("fast", refuses=even_only, refuses_port=lambda port: port % 2 == 1, journal=journal)
    slow = FakeDatapath("slow", journal=journal)
    bench = bench_of(web_model("a", probe=None, rules=2), fast, slow)
    async with running(bench) as controller:
        await controller.reload("start")
        before = controller.status()
        slow.fail_next = 1
        bench.loader.put(web_model("a", "b", probe=None, rules=4))
        found = await controller.reload("signal")
        after = controller.status()
        bench.loader.put(web_model("a", "b", probe=None, rules=4))
        again = await controller.reload("signal")
    assert journal == [
        "fast applies 1 entries",
        "slow applies 1 entries",
        "fast applies 2 entries",
        "slow fails",
        "fast applies 1 entries",
        "fast applies 2 entries",
        "slow applies 2 entries",
    ]
    assert found.result == "refused"
    assert found.problems[0].line == 7
    assert after.tables is before.tables
    assert [d.generation for d in after.datapaths] == [1, 1]
    assert again.result == "applied"


async def test_a_rule_that_no_datapath_carries_refuses_the_configuration() -> None:
    """The problem names the rule, each datapath's reason, the remedy and the line."""
    missing = FakeDatapath("kernel", refuses=Refusal("not part of this version", "use `datapath: proxy`"))
    bench = bench_of(web_model("a", datapath="kernel"), missing, FakeDatapath("proxy"))
    async with running(bench) as controller:
        found = await controller.reload("start")
    (problem,) = found.problems
    assert found.result == "refused"
    assert problem.where == "rules[0].datapath"
    assert (problem.line, problem.value) == (7, "web-0")
    assert "kernel: not part of this version" in problem.rule
    assert problem.remedy == "use `datapath: proxy`"


async def test_auto_says_why_the_better_ones_were_passed_over() -> None:
    """The status tells which datapath carries a rule and why not the preferred one."""
    missing = FakeDatapath("kernel", refuses=Refusal("needs Linux 5.15", "upgrade"))
    bench = bench_of(web_model("a"), missing, FakeDatapath("proxy"))
    async with running(bench) as controller:
        await controller.reload("start")
        carried = {d.name: dict(d.rules) for d in controller.status().datapaths}
    assert carried == {"kernel": {}, "proxy": {"web-0": "auto; not kernel: needs Linux 5.15"}}


async def test_a_datapath_that_cannot_follow_health_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed apply on a transition is told, changes nothing there, and is repeated until it succeeds."""
    monkeypatch.setattr("asynclb.control.controller.RETRY_S", 0.01)
    bench = bench_of(web_model("a"))
    async with running(bench) as controller:
        await controller.reload("start")
        bench.datapaths[0].fail_next = 2
        bench.prober.say("a", HealthState.UP)
        controller.health_changed()
        async with asyncio.timeout(PATIENCE_S):
            while not any(entry.table.size for entry in bench.datapaths[0].executes.entries.values()):
                await asyncio.sleep(0.005)
    assert len(bench.log.of(Event.DATAPATH_FAILED)) == 2


async def test_warnings_are_told_and_kept_with_the_reload() -> None:
    """A configuration that is accepted with a warning says so in the log and in the record."""
    bench = bench_of(web_model("a"))
    async with running(bench) as controller:
        await controller.reload("start")
        bench.loader.put(web_model("a", "b"), Problem((), "b", "is never used", "remove it"))
        found = await controller.reload("api")
    assert [warning.value for warning in found.warnings] == ["b"]
    assert bench.log.of(Event.CONFIG_WARNING) == [{"problem": "'b': is never used; remove it"}]


async def test_a_changed_admin_address_asks_for_a_restart_until_it_is_taken_back() -> None:
    """The admin address is not changed while the process runs; each reload that asks for it is warned about."""
    bench = bench_of(web_model("a"))
    moved = replace(web_model("a"), admin=Admin(port=9999))
    async with running(bench) as controller:
        await controller.reload("start")
        bench.loader.put(moved)
        first = await controller.reload("api")
        bench.loader.put(replace(moved, shutdown_drain_s=1.0))
        second = await controller.reload("api")
        bench.loader.put(web_model("a", "b"))
        third = await controller.reload("api")
    assert [len(found.warnings) for found in (first, second, third)] == [1, 1, 0]
    assert "restart" in first.warnings[0].remedy


async def test_another_number_of_workers_asks_for_a_restart() -> None:
    """Workers are started once: a reload that wants more of them is applied, and says that they come with a restart."""
    bench = bench_of(web_model("a"))
    async with running(bench) as controller:
        await controller.reload("start")
        bench.loader.put(replace(web_model("a", "b"), workers=2))
        found = await controller.reload("api")
    assert found.result == "applied"
    assert [(warning.path, warning.code) for warning in found.warnings] == [(("workers",), "NEEDS_RESTART")]


async def test_an_admin_state_that_changes_is_told() -> None:
    """Taking a member out by its admin state is an event with its name, and it gets no new flows."""
    model = web_model("a", "b", probe=None)
    pool = model.backend_pools["web"]
    drained = replace(pool.members[0], admin_state=AdminState.DRAIN)
    bench = bench_of(model)
    async with running(bench) as controller:
        await controller.reload("start")
        bench.loader.put(replace(model, backend_pools={"web": BackendPool("web", (drained, pool.members[1]))}))
        await controller.reload("watch")
        (entry,) = controller.status().tables.entries.values()
    assert bench.log.of(Event.MEMBER_ADMIN_STATE) == [{"pool": "web", "member": "a", "admin_state": "drain"}]
    assert [member.name for member in entry.table.members] == ["b"]


async def test_a_seed_change_is_a_table_change() -> None:
    """Another seed in the configuration reaches the datapath with the next tables."""
    bench = bench_of(web_model("a", "b", probe=None))
    async with running(bench) as controller:
        await controller.reload("start")
        bench.loader.put(replace(web_model("a", "b", probe=None), hash_seed=None))
        found = await controller.reload("signal")
    assert found.result == "applied"
    assert [delta.new.seed for delta in bench.datapaths[0].deltas] == [7, 99]


async def test_unchanged_parts_stay_the_same_objects() -> None:
    """A reload that changes one rule hands the datapath a delta with that rule only, by identity of the rest."""
    bench = bench_of(web_model("a", "b", probe=None, rules=3))
    async with running(bench) as controller:
        await controller.reload("start")
        model = web_model("a", "b", probe=None, rules=3)
        changed = replace(model.rules[1], idle_timeout_s=60.0)
        bench.loader.put(replace(model, rules=(model.rules[0], changed, model.rules[2])))
        await controller.reload("api")
    delta = bench.datapaths[0].deltas[-1]
    assert [(old.row.rule.name, new.row.rule.idle_timeout_s) for old, new in delta.changed] == [("web-1", 60.0)]
    assert (delta.added, delta.removed) == ((), ())
    old, new = delta.changed[0]
    assert old.row.pool is new.row.pool
    assert old.table is new.table


async def test_reloads_that_wait_when_the_controller_ends_are_refused() -> None:
    """Nobody waits for ever: what was not carried out at the end is refused with the reason."""
    bench = bench_of(web_model("a"))
    controller = bench.controller()
    task = asyncio.create_task(controller.run())
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(controller.reload("api")) for _ in range(3)]
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    done = await asyncio.gather(*waiting, return_exceptions=True)
    late = await controller.reload("api")
    assert late.result == "refused"
    assert late.problems[0].rule == "the process is stopping"
    assert all(isinstance(found, asyncio.CancelledError) or found.result == "refused" for found in done)  # type: ignore[union-attr]  # narrowed


async def test_closing_drains_every_datapath() -> None:
    """Close hands the drain period to each datapath and adds up what they reset; the status says stopping."""
    bench = bench_of(web_model("a"), FakeDatapath("fast"), FakeDatapath("slow"))
    async with running(bench) as controller:
        await controller.reload("start")
        controller.stop()
        assert not controller.status().ready
        assert controller.status().stopping
    assert await controller.close(2.5) == 6
    assert [datapath.closed for datapath in bench.datapaths] == [[2.5], [2.5]]
