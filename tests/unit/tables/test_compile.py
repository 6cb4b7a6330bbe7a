"""Compiling: rows and health become tables; a cache saves work and changes nothing."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from asynclb.model import AdminState, Health, Member, NoHealthyMembers
from asynclb.net.flow import Protocol
from asynclb.tables.compile import TableCache
from asynclb.tables.diff import diff
from asynclb.tables.maglev import SIZES
from asynclb.tables.tables import EMPTY_POOL_TABLE, Entry
from tests.unit.tables.world import NO_HEALTH, PROBE, SEED, equal_pool, health, pool, row, tables, with_members

WEB = pool("web", {"web-2": 1, "web-1": 1, "web-3": 2})


def names(of: Entry) -> list[str]:
    """Return the names of a table's members."""
    return [member.name for member in of.table.members]


def test_members_stand_in_order_of_names() -> None:
    """The order in which the operator wrote the members does not matter."""
    one = tables(row(WEB))
    other = tables(row(with_members(WEB, *reversed(WEB.members))))
    assert [names(e) for e in one.entries.values()] == [["web-1", "web-2", "web-3"]]
    assert [e.table for e in one.entries.values()] == [e.table for e in other.entries.values()]


def test_only_eligible_members_are_in_a_table() -> None:
    """A member that its probe finds down gets no slot; without a probe nobody asks."""
    probed, free = row(WEB, probe=PROBE), row(WEB, port=81)
    made = tables(probed, free, found=health(WEB, down=["web-1"]))
    assert names(made.entries[probed.key]) == ["web-2", "web-3"]
    assert names(made.entries[free.key]) == ["web-1", "web-2", "web-3"]


def test_without_an_eligible_member_the_table_is_empty() -> None:
    """The entry stays, so that the frontend is silent rather than unknown."""
    made = tables(row(WEB, probe=PROBE), found=NO_HEALTH)
    assert [entry.table for entry in made.entries.values()] == [EMPTY_POOL_TABLE]


def test_the_policy_all_serves_everyone_when_nobody_is_healthy() -> None:
    """`no_healthy_members: all` takes members that the probe finds down, though not those taken out by hand."""
    out = replace(WEB.members[0], admin_state=AdminState.DOWN)
    backend_pool = with_members(WEB, out, *WEB.members[1:])
    made = tables(row(backend_pool, probe=PROBE, policy=NoHealthyMembers.ALL), found=NO_HEALTH)
    assert [names(entry) for entry in made.entries.values()] == [["web-1", "web-3"]]


def test_rules_over_the_same_members_share_one_table() -> None:
    """Whatever the probe or the policy, the same eligible members make one table object."""
    rows = [
        row(WEB, port=80),
        row(WEB, port=81, probe=PROBE),
        row(WEB, port=82, probe=PROBE, policy=NoHealthyMembers.ALL),
    ]
    made = tables(*rows, found=health(WEB))
    assert len({id(entry.table) for entry in made.entries.values()}) == 1


def test_a_cache_keeps_table_objects_across_generations() -> None:
    """The next generation has the same object for what did not change, and equal values with or without a cache."""
    cache = TableCache()
    rows = (row(WEB, port=80, probe=PROBE), row(WEB, port=81))
    first = tables(*rows, found=health(WEB), cache=cache)
    second = tables(*rows, found=health(WEB, down=["web-1"]), generation=2, cache=cache)
    assert second == tables(*rows, found=health(WEB, down=["web-1"]), generation=2)
    assert second.entries[rows[1].key].table is first.entries[rows[1].key].table
    assert second.entries[rows[0].key].table is not first.entries[rows[0].key].table


def test_a_cache_keeps_nothing_that_the_last_generation_did_not_use() -> None:
    """A table of a pool that is gone leaves the cache with it."""
    cache = TableCache()
    tables(row(WEB), row(equal_pool("gone", 3), port=81), cache=cache)
    assert (len(cache.tables), len(cache.slots)) == (2, 2)
    tables(row(WEB), generation=2, cache=cache)
    assert (len(cache.tables), len(cache.slots)) == (1, 1)
    tables(generation=3, cache=cache)
    assert (len(cache.tables), len(cache.slots)) == (0, 0)


def test_a_member_replaced_under_its_name_keeps_every_slot() -> None:
    """A new address is a change of the entry, but the slots are the very same object."""
    cache = TableCache()
    moved = with_members(WEB, replace(WEB.members[0], address=IPv4Address("10.9.9.9")), *WEB.members[1:])
    before, after = tables(row(WEB), cache=cache), tables(row(moved), generation=2, cache=cache)
    ((old, new),) = diff(before, after).changed
    assert new.table.slots is old.table.slots
    assert new.table.members != old.table.members


def test_pools_whose_members_have_the_same_names_and_weights_keep_their_addresses() -> None:
    """Slots are shared by name and weight; members are not."""
    other = replace(pool("other", {"web-1": 1}), members=(Member("web-1", IPv4Address("10.2.2.2")),))
    this = pool("this", {"web-1": 1})
    made = tables(row(this, port=80), row(other, port=81), cache=TableCache())
    one, two = made.entries.values()
    assert one.table.slots is two.table.slots
    assert [str(m.address) for e in (one, two) for m in e.table.members] == ["10.1.0.11", "10.2.2.2"]


def test_a_failing_probe_never_resizes_a_table() -> None:
    """Were the size that of the eligible members, one failure at the edge would move nearly every flow."""
    backend_pool = equal_pool("big", 64)
    up = tables(row(backend_pool, probe=PROBE), found=health(backend_pool))
    down = tables(row(backend_pool, probe=PROBE), found=health(backend_pool, down=["big-0007"]))
    assert [e.table.size for t in (up, down) for e in t.entries.values()] == [SIZES[1], SIZES[1]]


def test_the_seed_is_in_the_tables_and_moves_the_slots() -> None:
    """Another installation's seed gives another table, also from a warm cache."""
    cache = TableCache()
    one, other = tables(row(WEB), seed=1, cache=cache), tables(row(WEB), seed=2, cache=cache)
    assert (one.seed, other.seed) == (1, 2)
    assert [e.table for e in one.entries.values()] != [e.table for e in other.entries.values()]
    assert other == tables(row(WEB), seed=2)


def test_entries_stand_in_order_of_frontends() -> None:
    """IPv4 before IPv6, then by address, port and protocol, in whatever order the rules were written."""
    rows = [
        row(WEB, address="2001:db8::10"),
        row(WEB, address="203.0.113.11"),
        row(WEB, port=443),
        row(WEB, port=80, protocol=Protocol.UDP),
        row(WEB, port=80),
    ]
    assert list(tables(*rows).entries) == [rows[i].key for i in (4, 3, 2, 1, 0)]


def test_two_rows_with_one_frontend_key_are_a_bug() -> None:
    """The configuration refuses overlapping frontends; what slips through does not pass in silence."""
    with pytest.raises(ValueError, match=r"rules one and two both claim tcp 203\.0\.113\.10 port 80"):
        tables(row(WEB, name="one"), row(WEB, name="two"))


def test_a_failed_compilation_leaves_the_cache_as_it_was() -> None:
    """The cache changes at the end, all at once."""
    cache = TableCache()
    tables(row(WEB), cache=cache, seed=SEED)
    before = dict(cache.tables), dict(cache.slots)
    with pytest.raises(ValueError, match="both claim"):
        tables(row(equal_pool("a", 2)), row(WEB), cache=cache, found=Health({}))
    assert (cache.tables, cache.slots) == before
