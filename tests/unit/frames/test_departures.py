"""When a drain period is over, flows end, then tables are entered without who left, then numbers are given back."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace

from asynclb.datapath.core.leaving import Leaving
from asynclb.datapath.core.parting import Ending
from asynclb.datapath.frames.departures import Departures
from asynclb.datapath.frames.numbers import Numbers, Over
from asynclb.datapath.frames.surroundings import Surroundings
from asynclb.events import Event
from asynclb.lab import PATIENCE_S
from asynclb.model import BackendPool
from asynclb.tables.row import Row
from tests.unit.core.world import pool, row

AROUND = Surroundings({}, {}, (), {})


class World:
    """A datapath in which one member of a rule leaves. Owner: a test."""

    def __init__(self, drain_s: float) -> None:
        both = pool("web", "10.0.0.1", "10.0.0.2")
        self.before = row(both, "203.0.113.10")
        self.after = replace(self.before, pool=BackendPool("web", both.members[:1], drain_s))
        self.numbers = Numbers()
        self.steps: list[str] = []
        self.done = asyncio.Event()
        self.told: list[dict[str, object]] = []
        self.departures = Departures("fake", self.numbers, self, asyncio.Lock(), self.emit)

    def emit(self, event: Event, **fields: object) -> None:
        """Note what is told."""
        self.told.append({"event": event, **fields})

    def leave(self) -> None:
        """Put the tables without the member in force."""
        leaving = Leaving().followed([self.before], [self.after], asyncio.get_running_loop().time())
        self.numbers.plan([self.after], leaving, AROUND)
        self.departures.entered(leaving)

    def rows(self) -> Collection[Row]:
        """Return the rule without the member."""
        return [self.after]

    async def end(self, ending: Ending) -> Mapping[int, int]:
        """End three connections of each member."""
        self.steps.append("end")
        return dict.fromkeys(ending.members, 3)

    async def without(self, leaving: Leaving) -> None:
        """Take note."""
        self.steps.append("without")
        self.departures.entered(leaving)

    async def give_back(self, over: Over) -> None:
        """Let others have the numbers."""
        self.steps.append("give_back")
        for name in over.members:
            self.numbers.members.give_back(name)
        self.done.set()


async def test_an_end_has_three_steps() -> None:
    """Flows end, then tables follow, then the number is free; whose connections ended is told."""
    world = World(drain_s=0.0)
    world.leave()
    async with asyncio.timeout(PATIENCE_S):
        await world.done.wait()
    await world.departures.close()
    assert world.steps == ["end", "without", "give_back"]
    assert [(told["event"], told["member"], told["connections"]) for told in world.told] == [
        (Event.CONNECTIONS_RESET, "m1", 3)
    ]


async def test_a_timer_that_comes_early() -> None:
    """Clocks differ by a moment: the end of a drain period that is not over yet is waited for again."""
    world = World(drain_s=0.3)
    world.leave()
    world.departures._end()
    await world.departures.settled()
    assert world.steps == []
    async with asyncio.timeout(PATIENCE_S):
        await world.done.wait()
    await world.departures.close()
    assert world.steps == ["end", "without", "give_back"]
