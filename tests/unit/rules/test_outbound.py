"""Outbound rules become slices of ports, which members keep."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from asynclb.model import (
    Allocation,
    BackendPool,
    Frontend,
    InboundNatRule,
    LoadBalancingRule,
    Member,
    Model,
    OutboundRule,
    Scope,
)
from asynclb.net.address import PRIVATE_PREFIXES
from asynclb.net.flow import Protocol
from asynclb.rules import path_of, snat_rules
from asynclb.tables.snat import SnatRule, default_ports, free_blocks

OUT = OutboundRule("out", ("one",), "web", Protocol.ALL)


def model(members: int = 2, *outbound: OutboundRule, **more: object) -> Model:
    """Return a model with three frontends and a pool of so many members."""
    frontends = {
        name: Frontend(name, ip_address(f"203.0.113.{number}"), Scope.PUBLIC, ())
        for number, name in enumerate(("one", "two", "three"), 10)
    }
    pool = BackendPool("web", tuple(Member(f"m{i}", ip_address("10.1.0.1") + i) for i in range(members)))
    pools = {"web": pool}
    return Model(frontends=frontends, backend_pools=pools, outbound_rules=outbound, **more)  # type: ignore[arg-type]


def ports(rule: SnatRule, member: str) -> list[int]:
    """Return the number of ports that a member has of each address."""
    return [part.ports for part in rule.slices[member]]


def test_each_member_has_ports_of_its_own() -> None:
    """Two members of a rule have their number of ports, and none in common."""
    (rule,) = snat_rules(model(2, replace(OUT, allocated_ports=16)))
    one, two = (rule.slices[name][0] for name in ("m0", "m1"))
    assert (one.blocks, two.blocks) == ((128, 129), (130, 131))
    assert 1024 in one
    assert 1039 in one
    assert 1040 not in one
    assert rule.protocols == (Protocol.TCP, Protocol.UDP)


@pytest.mark.parametrize(
    ("members", "frontends", "each"),
    [(1, 1, 1024), (50, 1, 1024), (51, 1, 512), (60, 1, 512), (100, 2, 1024), (100, 3, 1024), (101, 1, 256),
     (201, 1, 128), (401, 1, 64), (801, 1, 32), (1000, 2, 64), (1001, 1, 16), (5000, 1, 8)],
)  # fmt: skip
def test_the_default_is_by_the_size_of_the_pool(members: int, frontends: int, each: int) -> None:
    """Without a number, members get what the cloud's table says, 1,024 at most, and it fits."""
    assert default_ports(members, frontends) == each
    assert default_ports(members, 1) * members <= 64_000


def test_a_rules_port_costs_a_block() -> None:
    """Port 80 costs 8 ports of the address, port 5000 takes its own block out, and a range each block that it meets."""
    assert len(free_blocks([])) * 8 == 64_000
    assert len(free_blocks([(80, 80)])) * 8 == 63_992
    assert len(free_blocks([(80, 80), (87, 87)])) * 8 == 63_992
    assert 625 in free_blocks([])
    assert 625 not in free_blocks([(5000, 5000)])
    assert len(free_blocks([(5000, 5009)])) * 8 == 63_984
    lb = LoadBalancingRule("lb", "one", Protocol.TCP, 1030, 1030, "web")
    nat = InboundNatRule("nat", "one", Protocol.TCP, 1040, 1047, "web", 22)
    (rule,) = snat_rules(model(1, replace(OUT, allocated_ports=16), rules=(lb,), inbound_nat_rules=(nat,)))
    assert rule.slices["m0"][0].blocks == (129, 131)


def test_several_addresses_are_shared_out_evenly() -> None:
    """A member has half of its ports on each of two addresses, in the rule's order."""
    (rule,) = snat_rules(model(3, replace(OUT, frontends=("two", "one"), allocated_ports=32)))
    assert [part.frontend for part in rule.slices["m1"]] == ["two", "one"]
    assert [ports(rule, f"m{i}") for i in range(3)] == [[16, 16]] * 3


def test_odd_blocks_go_round() -> None:
    """One block each on two addresses: as many as fit into both together find room."""
    (rule,) = snat_rules(model(5000, replace(OUT, frontends=("one", "two"), allocated_ports=24)))
    used = [
        len([1 for parts in rule.slices.values() for p in parts for _ in p.blocks if p.frontend == f])
        for f in ("one", "two")
    ]
    assert used == [7500, 7500]


def test_members_keep_their_ports() -> None:
    """Whoever stays has the same ports after others left and came; a newcomer gets free ones."""
    rule = replace(OUT, allocated_ports=64)
    before = snat_rules(model(4, rule))
    smaller = model(4, rule)
    pool = smaller.backend_pools["web"]
    members = (Member("new", ip_address("10.1.0.99")), *pool.members[2:])
    changed = replace(smaller, backend_pools={"web": replace(pool, members=members)})
    (after,) = snat_rules(changed, before)
    assert {name: after.slices[name] for name in ("m2", "m3")} == {n: before[0].slices[n] for n in ("m2", "m3")}
    assert after.slices["new"] == before[0].slices["m0"]


def test_a_new_rule_port_takes_only_its_block() -> None:
    """A rule on a port that SNAT uses takes that block from its member, which gets another one; nothing else moves."""
    rule = replace(OUT, allocated_ports=64)
    before = snat_rules(model(2, rule))
    lb = LoadBalancingRule("lb", "one", Protocol.TCP, 1030, 1030, "web")
    (after,) = snat_rules(model(2, rule, rules=(lb,)), before)
    assert after.slices["m1"] == before[0].slices["m1"]
    kept = set(before[0].slices["m0"][0].blocks) & set(after.slices["m0"][0].blocks)
    assert len(kept) == 7
    assert ports(after, "m0") == [64]


def test_shared_ports_are_all_that_is_left() -> None:
    """With `allocation: shared` every member has every port that no other rule has."""
    own = replace(OUT, name="own", allocated_ports=1024, protocol=Protocol.UDP)
    (_, rule) = snat_rules(model(2, own, replace(OUT, allocation=Allocation.SHARED, protocol=Protocol.TCP)))
    assert rule.slices["m0"] is rule.slices["m1"]
    assert ports(rule, "m0") == [64_000 - 2_048]
    assert rule.shared


def test_ports_that_do_not_fit_are_an_error() -> None:
    """10,000 ports for each of 7 members do not fit into one address."""
    with pytest.raises(ValueError, match="do not fit"):
        snat_rules(model(7, replace(OUT, allocated_ports=10_000)))
    assert snat_rules(model(7, replace(OUT, frontends=("one", "two"), allocated_ports=10_000)))


def test_disabled_without_an_outbound_rule_there_is_no_way_out() -> None:
    """A pool whose rule has `disable_outbound_snat` is told of without protocols, unless an outbound rule has it."""
    lb = LoadBalancingRule("lb", "one", Protocol.TCP, 80, 80, "web", disable_outbound_snat=True)
    (rule,) = snat_rules(model(1, rules=(lb,)))
    assert (rule.name, rule.protocols, rule.slices, rule.direct) == ("lb", (), {"m0": ()}, PRIVATE_PREFIXES)
    assert [rule.name for rule in snat_rules(model(1, OUT, rules=(lb,)))] == ["out"]
    assert path_of(model(1, OUT), "out") == ("outbound_rules", 0)
