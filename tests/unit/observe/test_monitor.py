"""The monitor's rounds, with a clock of numbers and a datapath that answers what the test says."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from asynclb.control.status import Status
from asynclb.events import Event
from asynclb.model import HealthState, MemberHealth
from asynclb.model.health import Health
from asynclb.net.flow import Protocol
from asynclb.observe.availability import ResourceHealth
from asynclb.observe.monitor import Monitor
from asynclb.tables.row import FrontendKey
from asynclb.tables.tables import EMPTY_TABLES
from tests.unit.control.fakes import web_model

KEY = FrontendKey(ip_address("192.0.2.1"), 80, Protocol.TCP)


class Scene:
    """A monitor over one frontend; `reached` is what a packet meets and `up` whether the member answers probes."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.reached = self.up = True
        self.told: list[tuple[Event, Mapping[str, Any]]] = []
        self.monitor = Monitor(
            status=self.status,
            measure=self.measure,
            snat_uses=tuple,
            emit=lambda event, /, **fields: self.told.append((event, fields)),
            clock=lambda: self.now_s,
        )

    def status(self) -> Status:
        """Return a status with the member's health."""
        health = Health({("web", "a", "tcp"): MemberHealth(HealthState.UP if self.up else HealthState.DOWN)})
        return Status(True, "", "", 0, 1, 0, web_model("a"), health, EMPTY_TABLES, (), None, {})

    async def measure(self) -> Mapping[FrontendKey, bool]:
        """Answer as a datapath."""
        return {KEY: self.reached}

    async def pass_time(self, seconds: int) -> list[str]:
        """Go round every ten seconds; return what was told, by its type or state."""
        self.told.clear()
        for _ in range(seconds // 10):
            await self.monitor.round()
            self.now_s += 10
        return [str(fields.get("type", fields.get("state"))) for _, fields in self.told]


async def test_quiet_when_all_is_well() -> None:
    """The state becomes available once, and nothing else is said for an hour."""
    scene = Scene()
    assert await scene.pass_time(3_600) == ["available"]
    assert scene.monitor.ratios == {KEY: 1.0}


async def test_outage_is_told_in_order() -> None:
    """A dead pool is told at once, its frontend a minute after too little got through, then every five minutes."""
    scene = Scene()
    await scene.pass_time(60)
    scene.reached = scene.up = False
    assert await scene.pass_time(60) == ["NoHealthyBackends", "unavailable"]
    assert await scene.pass_time(120) == ["DataPathAvailabilityCritical"]
    assert scene.monitor.state is ResourceHealth.UNAVAILABLE
    again = await scene.pass_time(3_600)
    assert again.count("DataPathAvailabilityCritical") in (11, 12)
    assert again.count("NoHealthyBackends") == 1
    scene.reached = scene.up = True
    assert (await scene.pass_time(120))[-1] == "available"
