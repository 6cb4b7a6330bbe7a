"""What the next process reads of this one's names, rules and counters: enough for those who leave."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from asynclb.datapath.base import Counters, MemberCounters, RuleCounters
from asynclb.datapath.core.image import build_image
from asynclb.datapath.core.leaving import Leaving, MemberName
from asynclb.datapath.frames.numbers import Numbers
from asynclb.datapath.frames.surroundings import Surroundings
from asynclb.datapath.kernel.remembered import Remembered
from asynclb.model import AdminState, BackendPool, Health
from asynclb.net.flow import Protocol
from asynclb.tables.compile import compile_tables
from asynclb.tables.row import Delivery, Row
from tests.unit.core.world import ha, pool, row

AROUND = Surroundings({}, {}, (), {})
LAYOUT = 11
WEB = pool("web", "10.0.2.11", "10.0.2.12", "10.0.2.13")
ROWS = (
    row(WEB, "203.0.113.10", 80, 8080, tcp_reset=True, idle_timeout_s=300.0),
    row(WEB, "203.0.113.10", 53, 53, protocol=Protocol.UDP),
    row(pool("six", "2001:db8::11", "2001:db8::12"), "2001:db8:1::1", 443, delivery=Delivery.FLOATING),
    ha(pool("nva", "10.0.3.1", "10.0.3.2"), "203.0.113.11", delivery=Delivery.ROUTED, symmetric=True),
)


def smaller(found: Row) -> Row:
    """Return a rule whose pool has lost its first member."""
    return replace(found, pool=replace(found.pool, members=found.pool.members[1:]))


def image_after(before: Remembered, rows: tuple[Row, ...]) -> bytes:
    """Return the image of the next process, which has these rows."""
    numbers, leaving = before.numbers(), before.leaving.followed(before.rows, rows, 5.0)
    plan = numbers.plan(rows, leaving, AROUND)
    return build_image(compile_tables(rows, Health({}), seed=7, generation=2), plan)


def remembered(rows: tuple[Row, ...], leaving: Leaving | None = None) -> Remembered:
    """Return what a process remembers that has these rows."""
    numbers, gone = Numbers(), leaving or Leaving()
    numbers.plan(rows, gone, AROUND)
    return Remembered.of(LAYOUT, numbers, rows, gone)


@pytest.mark.parametrize("after", [(), ROWS[:1], tuple(map(smaller, ROWS)), ROWS], ids=["none", "one", "less", "all"])
def test_the_next_process_knows_who_leaves(after: tuple[Row, ...]) -> None:
    """Its image is the one that the process before would have made, had it lived on."""
    known = remembered(ROWS)
    read = Remembered.decoded(known.encoded())
    assert (read.rules, read.members) == (known.rules, known.members)
    assert image_after(read, after) == image_after(known, after)


def test_who_was_leaving_leaves_still() -> None:
    """Drain periods that run go on, and end when they would have ended."""
    leaving = Leaving().followed(ROWS, [smaller(found) for found in ROWS], 100.0)
    known = remembered(tuple(map(smaller, ROWS)), leaving)
    read = Remembered.decoded(known.encoded())
    assert [parting.until_s for parting in read.leaving.partings] == [p.until_s for p in leaving.partings]
    assert [(found.rule.name, found.key) for found in read.leaving.rows] == [
        (found.rule.name, found.key) for found in leaving.rows
    ]
    assert image_after(read, ROWS[:1]) == image_after(known, ROWS[:1])


def test_a_member_that_drains_already() -> None:
    """Its drain period does not begin again with the next process."""
    drains = replace(WEB.members[0], admin_state=AdminState.DRAIN)
    draining = replace(ROWS[0], pool=BackendPool("web", (drains, *WEB.members[1:])))
    read = Remembered.decoded(remembered((draining,)).encoded())
    assert read.leaving.followed(read.rows, [draining], 5.0) == Leaving()


def test_what_was_counted_under_numbers_that_are_free() -> None:
    """It is the next process' as well."""
    past = Counters({"web": RuleCounters(1, 2, 3, 4, 5, 6)}, {("web", "m0"): MemberCounters(7, 8, 9)})
    read = Remembered.decoded(Remembered(LAYOUT, past=past).encoded())
    assert (read.past.rules, read.past.members) == (past.rules, past.members)
    assert read.numbers().past == read.past


def test_numbers_with_another_name_are_known() -> None:
    """They have to begin at zero: those that are new, and those that another one had."""
    here, there = ip_address("10.0.2.11"), ip_address("10.0.2.12")
    before: dict[MemberName, int] = {("web", "m0", here): 0, ("web", "m1", there): 1}
    now: dict[MemberName, int] = {("web", "m1", there): 1, ("web", "m2", here): 0, ("web", "m3", here): 2}
    assert Remembered(LAYOUT, members=now).fresh(Remembered(LAYOUT, members=before)) == ([], [0, 2])


@pytest.mark.parametrize("data", [b"", b"hello", Remembered(1).encoded()[:-4]])
def test_what_cannot_be_understood(data: bytes) -> None:
    """It is refused, whatever is missing."""
    with pytest.raises(ValueError, match="not what asynclb remembers"):
        Remembered.decoded(data)
