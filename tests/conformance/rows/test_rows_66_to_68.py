"""Rows 66 to 68: what is told of a balancer that does not reach its members, with a minute of the monitor a second."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from asynclb.lab import PATIENCE_S
from tests.conformance.rows.bed import PORT, TCP_PROBE, Bed, frontend, pool, rule, vip
from tests.conformance.rows.bed import bed as run_bed

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCALE = 60.0
MINUTE_S = 60.0 / SCALE
UNDAMPED = {**TCP_PROBE, "flap_damping": False}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def quick(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    """Run asynclb with one datapath, and with short minutes."""
    async with run_bed(request.param, monitor_scale=SCALE) as found:
        yield found


def told(bed: Bed, kind: str) -> list[dict[str, Any]]:
    """Return the events of a kind that were written so far."""
    return [found for text in bed.process.stdout.splitlines() if (found := json.loads(text))["event"] == kind]


async def until(condition: Callable[[], bool], what: str) -> float:
    """Return the time at which a condition held."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)
    return time.monotonic()


async def becomes(bed: Bed, state: str) -> float:
    """Return when the balancer as a whole was said to be in a state."""

    def is_there() -> bool:
        events = told(bed, "resource_health")
        return bool(events) and events[-1]["state"] == state

    return await until(is_there, f"{state}: {told(bed, 'resource_health')}")


async def load_two(bed: Bed, row: int) -> None:
    """Load two frontends, whose members are probed on ports of their own."""
    second = rule("second", frontend="second", backend_port=PORT + 1, probe="second")
    await bed.load(
        frontends={"vip": frontend(vip(row)), "second": frontend(vip(row, more=1))},
        rules=[rule(probe="tcp"), second],
        probes={"tcp": UNDAMPED, "second": {**UNDAMPED, "port": PORT + 1}},
    )


async def gives(bed: Bed, name: str, share: float) -> None:
    """Return as soon as this share of a frontend's packets is given a member, over the monitor's whole minute."""
    async with asyncio.timeout(PATIENCE_S):
        while (await bed.metrics())[f'asynclb_frontend_availability_ratio{{frontend="{name}"}}'] != share:
            await asyncio.sleep(0.1)


async def test_row_66_availability(quick: Bed) -> None:
    """The share of packets that were given a member is 1 with members up and 0 with nobody up, for each port alone."""
    other = rule("row66b", frontend="row66", frontend_port=81, backend_port=PORT + 1)
    rules = [rule("row66", frontend="row66", probe="tcp"), other]
    await quick.load(frontends={"row66": frontend(vip(66))}, rules=rules)

    async def ports_give(*shares: float) -> None:
        names = [f'asynclb_rule_availability_ratio{{rule="{one["name"]}"}}' for one in rules]
        async with asyncio.timeout(PATIENCE_S):
            while tuple(map((await quick.metrics()).get, names)) != shares:
                await asyncio.sleep(0.1)

    with quick.serving():
        await quick.eligible("row66", *quick.members)
        await gives(quick, "row66", 1)
        await ports_give(1, 1)
        for probed in quick.probed.values():
            probed.down()
        await quick.eligible("row66")
        await gives(quick, "row66", 0.5)
        await ports_give(0, 1)
        quick.all_up()


async def test_row_67_health_events(quick: Bed) -> None:
    """A pool without a healthy member is told once; that it comes and goes within the hour is not told again."""
    backends, rules = (
        {"row67": pool(*quick.members)},
        [rule("row67", frontend="row67", backend_pool="row67", probe="tcp")],
    )
    probes = {"tcp": UNDAMPED}
    await quick.load(frontends={"row67": frontend(vip(67, more=1))}, backend_pools=backends, rules=rules, probes=probes)

    def types() -> list[str]:
        events = told(quick, "health_event")
        return [event["type"] for event in events if event.get("pool") == "row67"]

    with quick.serving():
        for _ in range(2):
            await quick.eligible("row67", *quick.members)
            await quick.visit(vip(67, more=1))
            for probed in quick.probed.values():
                probed.down()
            await quick.eligible("row67")
            assert await quick.is_silent(vip(67, more=1))
            await until(lambda: "NoHealthyBackends" in types(), "told")
            await asyncio.sleep(0.5)  # conditions are looked at thrice meanwhile
            assert types() == ["NoHealthyBackends"]
            quick.all_up()


async def test_row_68_resource_health(quick: Bed) -> None:
    """Below 90 % of the frontends' packets for two minutes is degraded, below 25 % unavailable at once."""
    with quick.serving(PORT):
        with quick.serving(PORT + 1):
            await load_two(quick, 68)
            await quick.eligible("second", *quick.members)
            await quick.visit(vip(68, more=1))
            await becomes(quick, "available")
            down_s = time.monotonic()
        await quick.eligible("second")
        assert await quick.is_silent(vip(68, more=1))
        await quick.visit(vip(68))
        assert await becomes(quick, "degraded") - down_s > 2 * MINUTE_S
        for probed in quick.probed.values():
            probed.down()
        await quick.eligible("web")
        assert await quick.is_silent(vip(68))
        await becomes(quick, "unavailable")
        quick.all_up()
        with quick.serving(PORT + 1):
            await quick.eligible("second", *quick.members)
            await becomes(quick, "available")
            await quick.visit(vip(68))


async def test_row_67_repeated_events(quick: Bed) -> None:
    """An outage that lasts is told a minute after it began and every five minutes; the empty pool once an hour."""
    frontends, rules = {"vip": frontend(vip(67))}, [rule(probe="tcp")]
    await quick.load(frontends=frontends, rules=rules, probes={"tcp": UNDAMPED})

    def types() -> list[str]:
        events = told(quick, "health_event")
        return [event["type"] for event in events if vip(67) in json.dumps(event) or event.get("pool") == "web"]

    with quick.serving():
        await quick.eligible("web", *quick.members)
        await quick.visit(vip(67))
        await gives(quick, "vip", 1)  # what was lost before the first probes were answered is forgotten
        before, down_s = types().count("NoHealthyBackends"), time.monotonic()
        for probed in quick.probed.values():
            probed.down()
        await quick.eligible("web")
        assert await quick.is_silent(vip(67))
        critical = "DataPathAvailabilityCritical"
        first_s = await until(lambda: types().count(critical) == 1, "told once")
        second_s = await until(lambda: types().count(critical) == 2, "told twice")
        quick.all_up()
    assert first_s - down_s > MINUTE_S
    assert 4.5 * MINUTE_S < second_s - first_s < 7 * MINUTE_S
    assert types().count("NoHealthyBackends") <= before + 1
    assert "NoHealthyBackends" in types()
