"""What a reload would change."""

from array import array
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from asynclb.control.plan import Plan, Side, assumed_health, differences, make_plan, moved_share
from asynclb.datapath.base import FlowRecord
from asynclb.model import AdminState, BackendPool, Health, Member, Model
from asynclb.net.flowhash import Distribution
from asynclb.rules import rows_of
from asynclb.tables.compile import compile_tables
from asynclb.tables.lookup import Verdict, lookup
from asynclb.tables.tables import EMPTY_POOL_TABLE, PoolTable, Tables
from tests.unit.control.fakes import web_model


def side(model: Model, seed: int = 7) -> Side:
    """Compile a model as if every member were up."""
    return Side(model, compile_tables(rows_of(model), assumed_health(model, Health({})), seed=seed, generation=1))


def plan(old: Model, new: Model, *records: FlowRecord, seed: int = 7) -> Plan:
    """Plan from one model to another, with these flows open."""
    return make_plan(side(old), side(new, seed), (len(records), records))


def record(tables: Tables, port: int) -> FlowRecord:
    """Return the flow that a client's port has by the tables, as the datapath describes it."""
    entry = next(iter(tables.entries.values()))
    from asynclb.control.explain import parse_flow

    found = lookup(tables, parse_flow(f"tcp 192.0.2.1:{port} > {entry.row.key.address}:{entry.row.key.port}"))
    assert isinstance(found, Verdict)
    target = f"{found.member.address}:8080"
    client = f"192.0.2.1:{port}"
    return FlowRecord("web-0", "tcp", client, "vip", "web", found.member.name, target, "open", 0, 0, 1.0, 0.0)


def test_equal_configurations_have_an_empty_plan() -> None:
    """Nothing differs, nothing moves, every flow stays."""
    found = plan(web_model("a", "b"), web_model("a", "b"), record(side(web_model("a", "b")).tables, 1000))
    assert (found.differences, found.moves) == ((), ())
    assert found.flows is not None
    assert (found.flows.stay, found.flows.end, found.flows.elsewhere) == (1, 0, 0)


def test_differences_name_objects_and_values() -> None:
    """Added, removed and changed objects are listed once each, with old and new values."""
    old, new = web_model("a", "b", rules=2), web_model("a", "c", weight=2, rules=1)
    said = [(d.kind, d.name, d.change, d.details) for d in differences(old, new)]
    assert ("member", "web/a", "changed", ("weight: 1 -> 2",)) in said
    assert ("member", "web/b", "removed", ()) in said
    assert ("member", "web/c", "added", ()) in said
    assert ("rule", "web-1", "removed", ()) in said
    assert len(said) == 4


def test_the_seed_is_not_shown() -> None:
    """A changed seed is told of, without either value."""
    (found,) = differences(web_model("a"), replace(web_model("a"), hash_seed=123456))
    assert found.details == ("hash_seed: another one",)


def test_a_member_that_goes_moves_its_share_and_ends_its_flows() -> None:
    """About a third of the slots of three members move; flows of the one that goes end, the others stay."""
    old, new = web_model("a", "b", "c"), web_model("a", "b")
    records = [record(side(old).tables, port) for port in range(1000, 1300)]
    found = plan(old, new, *records)
    assert found.moves[0].share == pytest.approx(1 / 3, abs=0.05)
    assert found.flows is not None
    assert found.flows.ending == {"member web/c is removed": sum(one.member == "c" for one in records)}
    assert found.flows.elsewhere == pytest.approx(0, abs=15)
    assert found.flows.stay + found.flows.end == found.flows.examined == 300


def test_flows_of_a_draining_member_end_and_those_of_a_removed_rule_too() -> None:
    """Each way of ending is told by its reason."""
    old = web_model("a", rules=1)
    one = record(side(old).tables, 1000)
    pool = old.backend_pools["web"]
    drained = replace(pool, members=(replace(pool.members[0], admin_state=AdminState.DRAIN),))
    moved = replace(pool, members=(replace(pool.members[0], address=IPv4Address("10.9.9.9")),))
    for changed, why in ((drained, "member web/a drains"), (moved, "member web/a moves to another address")):
        found = plan(old, replace(old, backend_pools={"web": changed}), one).flows
        assert found is not None
        assert found.ending == {why: 1}
    gone = plan(old, replace(old, rules=()), one).flows
    assert gone is not None
    assert gone.ending == {"rule web-0 is removed": 1}


def test_another_hash_moves_what_two_independent_choices_move() -> None:
    """A changed seed or distribution moves half of the new flows of two members, and says why."""
    old = web_model("a", "b")
    other = replace(old, rules=(replace(old.rules[0], distribution=Distribution.SOURCE_IP),))
    seeded, spread = plan(old, old, seed=8).moves[0], plan(old, other).moves[0]
    assert seeded.share == pytest.approx(0.5, abs=0.01)
    assert seeded.why == "the hash seed is another one"
    assert spread.why == "flows are hashed by source_ip in place of five_tuple"


def test_shares_between_tables() -> None:
    """A table compares with itself, with none, and with one of another size by who owns which part of the hash."""
    a, b = (Member(name, IPv4Address(f"10.0.0.{number}")) for number, name in enumerate("ab", 1))
    small = PoolTable((a, b), array("H", [0, 1]))
    large = PoolTable((a, b), array("H", [0, 0, 1, 1]))
    turned = PoolTable((a, b), array("H", [0, 1, 1, 1]))
    assert moved_share(small, small, rehashed=False) == (0.0, "")
    assert moved_share(small, large, rehashed=False)[0] == 0.0
    assert moved_share(small, turned, rehashed=False)[0] == 0.25
    assert moved_share(small, EMPTY_POOL_TABLE, rehashed=False) == (1.0, "no member is eligible any more")
    assert moved_share(EMPTY_POOL_TABLE, small, rehashed=False) == (0.0, "")


def test_a_pool_comes_with_its_members() -> None:
    """A new pool is one difference and each of its members another."""
    old = web_model("a")
    new = replace(old, backend_pools={**old.backend_pools, "dns": BackendPool("dns", (Member("d", IPv4Address(1)),))})
    assert [(d.kind, d.name) for d in differences(old, new)] == [("pool", "dns"), ("member", "dns/d")]
