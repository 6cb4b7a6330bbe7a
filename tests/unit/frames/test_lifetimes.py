"""What the core's numbers mean in the flow log: while rules are there, when they leave, and after that."""

from ipaddress import ip_address

import pytest

from asynclb.datapath.core.layout import Told
from asynclb.datapath.core.leaving import Leaving
from asynclb.datapath.core.values import FlowView
from asynclb.datapath.frames.lifetimes import Namer, Names, end_of, place_of
from asynclb.datapath.frames.numbers import Numbers
from asynclb.datapath.frames.surroundings import Surroundings
from asynclb.datapath.lifetimes import End
from asynclb.tables.compile import TableCache, compile_tables
from asynclb.tables.row import Row
from asynclb.tables.tables import Tables
from tests.unit.proxy.world import SEED, health_of, member, pool, row

WEB = row("203.0.113.10", 80, pool([member("web-1", "10.1.0.11"), member("web-2", "10.1.0.12")]), 8080)
LESS = row("203.0.113.10", 80, pool([member("web-2", "10.1.0.12")]), 8080)
FLOW = FlowView(
    *(ip_address("198.51.100.7"), 41_000, ip_address("203.0.113.10"), 80, 6),
    *(0, 0, "established", 1, 1, 60, 60, 0, 0),
)


class World:
    """Numbers, and the tables that are in force. Owner: a test."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.namer = Namer(self.numbers)
        self.tables, self.leaving = Tables(0, SEED, {}), Leaving()
        self.enter(WEB)

    def enter(self, *rows: Row) -> Names:
        """Put these rules in force, and return what numbers mean from then on."""
        before = [entry.row for entry in self.tables.entries.values()]
        self.leaving = self.leaving.followed(before, rows, 0.0)
        self.tables = compile_tables(rows, health_of(rows), seed=SEED, generation=1, cache=TableCache())
        self.numbers.plan(rows, self.leaving, Surroundings({}, {}, (), {}))
        self.numbers.entered(rows, self.leaving)
        return self.names()

    def names(self) -> Names:
        """Return what numbers mean now."""
        return self.namer.names(self.tables, self.leaving)


def test_names_are_made_when_something_has_changed() -> None:
    """Whoever asks again gets what was made before, until rules or who leaves are others."""
    world = World()
    names = world.names()
    assert world.names() is names
    assert world.enter(LESS) is not names
    assert world.names() is world.names()


def test_a_removed_rule_has_its_words_for_as_long_as_its_number() -> None:
    """A flow that ends after its rule has gone is told with the rule's, the frontend's and the member's name."""
    place = place_of(FLOW, World().enter())
    assert (place.rule, place.frontend, place.member) == ("web", "web-frontend", "web-1")
    assert place.member_address == "10.1.0.11:8080"


@pytest.mark.parametrize(
    ("rows", "over", "end"),
    [
        ((LESS,), False, End.DRAINED),
        ((LESS,), True, End.REMOVED),
        ((), False, End.REMOVED),
    ],
)
def test_why_a_flow_parts(rows: tuple[Row, ...], over: bool, end: End) -> None:
    """Drained is who had a drain period; a flow without one ends because its member, or its rule, was removed."""
    world = World()
    world.enter(*rows)
    if over:
        world.leaving = Leaving()
    assert end_of(FLOW, Told.PARTED, world.names()) is end
