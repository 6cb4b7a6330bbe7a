"""Zones in the tables: all are equal, unless a frontend prefers its own."""

from dataclasses import replace

import pytest

from asynclb.model import BackendPool
from asynclb.tables.row import Row
from tests.unit.tables.world import PROBE, equal_pool, health, row, tables, with_members

PLAIN = equal_pool("web", 6)
POOL: BackendPool = with_members(
    PLAIN, *(replace(member, zone=str(1 + index % 3)) for index, member in enumerate(PLAIN.members))
)
ZONE_1, ZONE_2 = ("web-0000", "web-0003"), ("web-0001", "web-0004")


def zonal(*zones: str, affinity: bool = True, port: int = 80) -> Row:
    """Return a rule on a frontend in these zones."""
    found = row(POOL, probe=PROBE, port=port, name=f"web-{port}")
    return replace(found, frontend=replace(found.frontend, zones=zones, zone_affinity=affinity))


def takers(found: Row, down: tuple[str, ...] = ()) -> set[str]:
    """Return who takes new flows."""
    (entry,) = tables(found, found=health(POOL, down)).entries.values()
    return {member.name for member in entry.table.members}


@pytest.mark.parametrize("zones", [(), ("1",), ("1", "2")])
def test_all_zones_are_equal_without_affinity(zones: tuple[str, ...]) -> None:
    """A frontend, zonal or not, spreads over the members of every zone."""
    assert takers(zonal(*zones, affinity=False)) == {member.name for member in POOL.members}


def test_own_zone_is_preferred() -> None:
    """With affinity only members of the frontend's zones take new flows, while any of them is eligible."""
    assert takers(zonal("1")) == set(ZONE_1)
    assert takers(zonal("1", "2")) == {*ZONE_1, *ZONE_2}
    assert takers(zonal("1"), down=ZONE_1[:1]) == set(ZONE_1[1:])


def test_other_zones_stand_in() -> None:
    """When the frontend's zone has nobody left, every other zone's members take its flows."""
    assert takers(zonal("1"), down=ZONE_1) == {member.name for member in POOL.members} - set(ZONE_1)
    assert takers(zonal("9")) == {member.name for member in POOL.members}


def test_a_zone_is_lost_for_everybody() -> None:
    """The loss of a zone takes its members out and no one else's."""
    assert takers(zonal(affinity=False), down=ZONE_2) == {m.name for m in POOL.members} - set(ZONE_2)


def test_frontends_share_a_pool() -> None:
    """Rules over one pool whose frontends prefer different zones have different tables."""
    found = tables(zonal("1", port=80), zonal("2", port=81), zonal(port=82), found=health(POOL)).entries.values()
    assert [{m.name for m in entry.table.members} for entry in found] == [
        set(ZONE_1),
        set(ZONE_2),
        {m.name for m in POOL.members},
    ]
