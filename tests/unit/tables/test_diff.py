"""The difference of two generations: what was added, removed and changed, and nothing else."""

from dataclasses import replace

from asynclb.tables.diff import diff, only_health_differs
from asynclb.tables.tables import EMPTY_TABLES
from tests.unit.tables.world import PROBE, equal_pool, health, row, tables

WEB, API = equal_pool("web", 3), equal_pool("api", 2)


def test_nothing_changes_between_equal_tables() -> None:
    """Equal values make an empty delta, though every object is another one and the generation has moved on."""
    delta = diff(tables(row(WEB), row(API, port=81)), tables(row(WEB), row(API, port=81), generation=2))
    assert delta.empty


def test_from_nothing_everything_is_added() -> None:
    """The first delta adds every entry, in the new tables' order."""
    made = tables(row(API, port=81), row(WEB))
    assert diff(EMPTY_TABLES, made).added == tuple(made.entries.values())


def test_each_entry_is_added_removed_or_changed() -> None:
    """One rule comes, one goes, one gets another pool, one loses a member, one stays."""
    stays, goes, comes = row(API, port=1), row(API, port=2), row(API, port=3)
    old = tables(stays, goes, row(WEB, port=4), row(WEB, port=5, probe=PROBE), found=health(WEB))
    new = tables(stays, comes, row(API, port=4), row(WEB, port=5, probe=PROBE), found=health(WEB, ["web-0001"]))
    delta = diff(old, new)
    assert [entry.row for entry in delta.added] == [comes]
    assert [entry.row for entry in delta.removed] == [goes]
    assert [(before.row.key.port, after.row.pool.name) for before, after in delta.changed] == [(4, "api"), (5, "web")]


def test_a_changed_rule_is_a_changed_entry_over_the_same_table() -> None:
    """An idle timeout changes what the datapath does, not where flows go."""
    before = row(WEB)
    after = replace(before, rule=replace(before.rule, idle_timeout_s=600.0))
    ((old, new),) = diff(tables(before), tables(after)).changed
    assert old.table == new.table
    assert new.row.rule.idle_timeout_s == 600.0


def test_only_health_differs_where_the_same_rows_have_other_tables() -> None:
    """A failed member is health alone; an equal row that is another object, another seed or a new rule is not."""
    web, api = row(WEB, probe=PROBE), row(API, port=81)
    old = tables(web, api, found=health(WEB))
    assert only_health_differs(old, tables(web, api, found=health(WEB, ["web-0001"])))
    assert not only_health_differs(old, old)
    found = health(WEB, ["web-0001"])
    assert not only_health_differs(old, tables(replace(web), api, found=found))
    assert not only_health_differs(old, tables(web, found=found))
    assert not only_health_differs(old, replace(tables(web, api, found=found), seed=1))
