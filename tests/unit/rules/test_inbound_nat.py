"""Ports of inbound NAT rules: who has which, who keeps it, and the rows they become."""

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest

from asynclb.model import (
    AdminState,
    BackendPool,
    Frontend,
    Health,
    InboundNatRule,
    LoadBalancingRule,
    Member,
    Model,
    Scope,
)
from asynclb.net.flow import Flow, Protocol
from asynclb.rules import assign_ports, path_of, rows_of
from asynclb.rules.inbound_nat import RANGE_IN_USE, assign_range, stranded
from asynclb.tables.compile import compile_tables
from asynclb.tables.lookup import Verdict, lookup
from asynclb.tables.row import Delivery, RuleKind

FRONTEND = Frontend("web", ip_address("203.0.113.10"), Scope.PUBLIC, (ip_network("0.0.0.0/0"),))
SSH = InboundNatRule("ssh", "web", Protocol.TCP, 50_000, 50_004, "web", 22)
NAMES = [f"m{number}" for number in range(8)]


def model(*names: str, rules: tuple[InboundNatRule, ...] = (SSH,), **changes: Any) -> Model:
    """Return a model with a pool of these members; `changes` are made to each of them."""
    members = tuple(Member(name, IPv4Address(f"10.1.0.{1 + NAMES.index(name)}")) for name in names)
    pool = BackendPool("web", tuple(replace(one, **changes) for one in members))
    frontends, pools = {"web": FRONTEND}, {"web": pool}
    return Model(frontends=frontends, backend_pools=pools, inbound_nat_rules=rules)


def served(found: Model, port: int, protocol: int = 6) -> str:
    """Return which member a flow to the port reaches."""
    tables = compile_tables(rows_of(found), Health({}), seed=7, generation=1)
    verdict = lookup(tables, Flow(ip_address("198.51.100.7"), 41_000, FRONTEND.address, port, protocol))
    return verdict.member.name if isinstance(verdict, Verdict) else str(verdict)


def test_members_take_ports_in_order() -> None:
    """With nothing known from before, members have the range's ports in the order of the configuration."""
    assert assign_ports(model("m2", "m0"), {}) == {"ssh": {"m2": 50_000, "m0": 50_001}}


def test_survivors_keep_their_ports() -> None:
    """Who stays keeps the port, who comes takes the lowest free one."""
    before = assign_ports(model("m0", "m1", "m2"), {})
    after = assign_ports(model("m3", "m1", "m2", "m4"), before)
    assert after == {"ssh": {"m3": 50_000, "m1": 50_001, "m2": 50_002, "m4": 50_003}}


def test_range_that_is_too_small() -> None:
    """More members than ports is an error, never a member without a port."""
    with pytest.raises(ValueError, match="ports 1-2 are fewer than 3 members"):
        assign_range(1, 2, ["a", "b", "c"], {})


def test_each_port_is_a_row() -> None:
    """A port is a row of its own kind over its member alone, named by rule and member."""
    (first, second) = rows_of(model("m0", "m1"))
    assert (first.rule.name, first.key.port, first.kind) == ("ssh/m0", 50_000, RuleKind.INBOUND_NAT)
    assert (second.pool.name, [member.name for member in second.pool.members]) == ("web/m1", ["m1"])
    assert (second.rule.backend_port, second.delivery) == (22, Delivery.NAT)


def test_both_protocols() -> None:
    """Protocol `all` of an inbound NAT rule is TCP and UDP on the same port, to the same member."""
    found = model("m0", "m1", rules=(replace(SSH, protocol=Protocol.ALL, floating_ip=True),))
    assert [(row.key.port, row.key.protocol) for row in rows_of(found)] == [
        (50_000, Protocol.TCP),
        (50_000, Protocol.UDP),
        (50_001, Protocol.TCP),
        (50_001, Protocol.UDP),
    ]
    assert {row.delivery for row in rows_of(found)} == {Delivery.FLOATING}
    assert served(found, 50_001, 6) == served(found, 50_001, 17) == "m1"


def test_one_port_to_one_member() -> None:
    """A single port leads to the member that is named, and no other port does."""
    found = model("m0", "m1", rules=(replace(SSH, first_port=8022, last_port=8022, member="m1"),))
    assert (served(found, 8022), served(found, 50_000)) == ("m1", "no_rule")


@pytest.mark.parametrize(
    "changes",
    [{"admin_state": AdminState.DOWN}, {"admin_state": AdminState.DRAIN}, {"weight": 0}, {"priority": 3}],
    ids=str,
)
def test_a_port_is_its_members_whatever_happens(changes: dict[str, Any]) -> None:
    """Admin states, weights and priorities are for load-balancing rules: a port leads to its member regardless."""
    assert served(model("m0", "m1", **changes), 50_001) == "m1"


def test_tables_of_ports_are_small() -> None:
    """A port's table has one slot: thousands of them cost next to nothing."""
    tables = compile_tables(rows_of(model("m0", "m1")), Health({}), seed=7, generation=1)
    assert {entry.table.size for entry in tables.entries.values()} == {1}


def test_range_that_shrinks_under_members() -> None:
    """A range that loses a port on which a member is reached is refused, with the range that would do."""
    active = model("m0", "m1", "m2")
    before = assign_ports(active, {})
    (problem,) = stranded(model("m2", rules=(replace(SSH, last_port=50_001),)), active, before)
    assert problem.path == ("inbound_nat_rules", 0, "frontend_port_range")
    assert problem.code == RANGE_IN_USE
    assert "member m2 is reached on port 50002 by rule ssh" in problem.rule
    assert "`50000-50002`" in problem.remedy


@pytest.mark.parametrize(
    "rule",
    [
        replace(SSH, last_port=50_100),
        replace(SSH, last_port=50_002),
        replace(SSH, first_port=60_000, last_port=60_010),
        replace(SSH, name="other", last_port=50_001),
    ],
)
def test_ranges_that_may_change(rule: InboundNatRule) -> None:
    """A range may grow, shrink where nobody is, move as a whole, or be another rule's."""
    active = model("m0", "m1", "m2")
    assert stranded(model("m2", rules=(rule,)), active, assign_ports(active, {})) == ()


def test_places_of_rules() -> None:
    """A row's rule is found in the configuration by its name, the port's member left aside."""
    found = replace(model("m0"), rules=(LoadBalancingRule("a", "web", Protocol.TCP, 80, 80, "web"),))
    assert [path_of(found, name) for name in ("a", "ssh/m0", "ssh", "b")] == [
        ("rules", 0),
        ("inbound_nat_rules", 0),
        ("inbound_nat_rules", 0),
        (),
    ]
