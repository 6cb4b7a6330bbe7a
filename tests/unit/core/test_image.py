"""The image with a cache: what health changes is new, what it does not change is not made again."""

from dataclasses import replace

from asynclb.datapath.core.image import build_image
from asynclb.datapath.core.plan import ImageCache
from asynclb.model import Health, HealthState, MemberHealth
from asynclb.tables.compile import TableCache, compile_tables
from asynclb.tables.row import Row
from asynclb.tables.tables import Tables
from tests.unit.core.world import ha, pool, row, world

WEB = pool("web", "10.0.2.11", "10.0.2.12", "10.0.2.13")
PROBED = row(WEB, "203.0.113.10", 80, 8080)
ROWS = [replace(PROBED, rule=replace(PROBED.rule, probe="tcp")), ha(pool("nva", "10.0.3.1"), "203.0.113.11")]


def tables_of(rows: list[Row], *up: str, cache: TableCache | None = None) -> Tables:
    """Compile the rows with these members of the pool up."""
    health = Health({("web", name, "tcp"): MemberHealth(HealthState.UP) for name in up})
    return compile_tables(rows, health, seed=7, generation=len(up) + 1, cache=cache)


def test_a_cache_changes_nothing_but_the_time() -> None:
    """Images of members that come and go by their health are the same with and without a cache."""
    plan, cache = world(*ROWS).plan, ImageCache()
    build_image(tables_of(ROWS), plan, cache)
    kept = cache.places
    for up in (("m0", "m1", "m2"), ("m1",), (), ("m0", "m2")):
        tables = tables_of(ROWS, *up)
        assert build_image(tables, plan, cache) == build_image(tables, plan)
        assert cache.places is kept


def test_lists_of_members_are_kept_while_their_table_is() -> None:
    """Tables that the next generation shares give the same lists; those of a pool that changed are made anew."""
    plan, cache, tables = world(*ROWS).plan, ImageCache(), TableCache()
    build_image(tables_of(ROWS, "m0", "m1", cache=tables), plan, cache)
    before = dict(cache.lists)
    now = tables_of(ROWS, "m1", cache=tables)
    assert build_image(now, plan, cache) == build_image(now, plan)
    kept = {kind: members for kind, members in cache.lists.items() if before.get(kind) is members}
    assert {pool for _, pool, _ in kept} == {"nva"}
    assert {pool for _, pool, _ in cache.lists} == {"nva", "web"}


def test_other_rows_and_plans_are_made_anew() -> None:
    """Rows that are not the same ones, and members that are reached otherwise, do not come from the cache."""
    plan, cache = world(*ROWS).plan, ImageCache()
    build_image(tables_of(ROWS), plan, cache)
    fewer = tables_of(ROWS[:1])
    assert build_image(fewer, plan, cache) == build_image(fewer, plan)
    moved = replace(plan, next_hops={})
    assert build_image(fewer, moved, cache) == build_image(fewer, moved)
