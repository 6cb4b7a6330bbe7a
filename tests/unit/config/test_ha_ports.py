"""HA-ports rules beside other rules: a row for each combination, what Azure says of it, and what is said here.

A name is that of the combination in Azure's documentation. Two of its rows have nothing to stand for them: a second
internal load balancer over the same members (a configuration is one load balancer), and a Gateway Load Balancer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import pytest

from asynclb.config.checks.deliveries import BACKEND_PORT_CLASH
from asynclb.config.checks.ports import FRONTEND_PORT_TAKEN
from asynclb.datapath.frames.limits import clashes
from asynclb.model import BackendPool, Frontend, LoadBalancingRule, Member, Model, Scope
from asynclb.net.flow import Protocol
from asynclb.rules import rows_of
from tests.unit.config.base import REMOVED, changed, parsed, problems

Rule = dict[str, Any]

FRONTENDS: dict[str, dict[str, Any]] = {
    "in1": {"address": "10.0.0.10"},
    "in2": {"address": "10.0.0.11"},
    "pub": {"address": "203.0.113.10", "allow": ["0.0.0.0/0"]},
    "hub": {"address": "10.0.9.4", "interface": "hub", "routed": True},
    "spoke": {"address": "10.0.8.4", "interface": "spoke", "routed": True},
    "six": {"address": "fd00::10"},
}
POOLS: dict[str, dict[str, Any]] = {
    "nva": {"members": [{"name": "nva1", "address": "10.1.0.11"}, {"name": "nva2", "address": "10.1.0.12"}]},
    "other": {"members": [{"name": "web1", "address": "10.1.0.21"}, {"name": "web2", "address": "10.1.0.22"}]},
    "part": {"members": [{"name": "nva2", "address": "10.1.0.12"}, {"name": "web1", "address": "10.1.0.21"}]},
    "six": {"members": [{"name": "nva1", "address": "fd00:1::11"}]},
}


def ha(frontend: str = "in1", pool: str = "nva", **keys: Any) -> Rule:
    """Return an HA-ports rule."""
    return {"frontend": frontend, "protocol": "all", "frontend_port": 0, "backend_pool": pool, **keys}


def tcp(frontend: str = "in1", port: int = 80, pool: str = "nva", **keys: Any) -> Rule:
    """Return a TCP rule."""
    return {"frontend": frontend, "protocol": "tcp", "frontend_port": port, "backend_pool": pool, **keys}


FLOATING: dict[str, Any] = {"floating_ip": True}


@dataclass(frozen=True)
class Said:
    """What is said of a rule: where, and words of the law and the remedy."""

    where: str = ""
    law: str = ""
    remedy: str = ""
    code: str = ""


FINE = Said()


def beside(first: int, second: int, *, ha_rules: bool = False) -> Said:
    """Return what Azure says of two rules of which one is an HA-ports rule, and not both are floating."""
    both = "two HA-ports rules" if ha_rules else "an HA-ports rule and another rule"
    law = f"Azure refuses {both} over the same members, here r{first} and r{second}, unless both are floating"
    return Said(f"rules[{second}].name", law, "use `floating_ip: true` on both")


def clash(first: int, second: int, what: str = "every port") -> Said:
    """Return what is said of two rules whose replies could not be told apart."""
    law = f"rule r{first} delivers to the same members on {what} too, and their replies could not be told apart"
    return Said(f"rules[{second}].name", law, "use `floating_ip: true` on", BACKEND_PORT_CLASH)


PUBLIC = Said("rules[0].frontend", "Azure refuses HA ports on a public frontend", "use an internal frontend")
PORT = Said("rules[0].frontend_port", "protocol `all` takes every port (HA ports)", "write `frontend_port: 0`")
BACKEND = Said("rules[0].backend_port", "protocol `all` takes every port (HA ports)", "write `backend_port: 0`")
EVERY = Said("rules[0].frontend_port", "port 0 is every port, which needs protocol `all`", "or `protocol: all`")
TWICE = Said(
    "rules[1].frontend_port", "has HA ports on frontend in1", "change the port or the frontend", FRONTEND_PORT_TAKEN
)


@dataclass(frozen=True)
class Combination:
    """One row. `azure` is what Azure says, `here` what is wrong here too; `extended` warns of what only Azure minds."""

    name: str
    rules: list[Rule]
    azure: Said = FINE
    here: Said = FINE
    more: Mapping[str, Any] = field(default_factory=dict)


MATRIX = [
    Combination("one HA rule, floating off, internal LB", [ha()]),
    Combination("one HA rule, floating off + a public Standard LB on the same members", [ha(), tcp("pub")]),
    Combination("one HA rule, floating off + any other rule, floating off", [ha(), tcp("in2")], beside(0, 1)),
    Combination(
        "one HA rule, floating off + any other rule, floating on", [ha(), tcp("in2", **FLOATING)], beside(0, 1)
    ),
    Combination("any other rule + one HA rule, floating off, behind it in the file", [tcp("in2"), ha()], beside(0, 1)),
    Combination("one HA rule, floating on", [ha(**FLOATING)]),
    Combination("one HA rule, floating on + more floating-IP rules", [ha(**FLOATING), tcp("in2", **FLOATING)]),
    Combination("one HA rule, floating on + a public LB", [ha(**FLOATING), tcp("pub")]),
    Combination(
        "HA rule, floating on + a floating-off HA rule",
        [ha(**FLOATING), ha("in2")],
        beside(0, 1, ha_rules=True),
    ),
    Combination("HA + HA, both floating on, different frontends", [ha(**FLOATING), ha("in2", **FLOATING)]),
    Combination("HA + HA, both floating off, different frontends", [ha(), ha("in2")], here=clash(0, 1)),
    Combination("HA + HA, both floating off, some members in common", [ha(), ha("in2", "part")], here=clash(0, 1)),
    Combination("HA + HA, both floating off, other members", [ha(), ha("in2", "other")]),
    Combination("HA + HA on the same frontend", [ha(**FLOATING), ha(**FLOATING)], here=TWICE),
    Combination("HA + HA on the same frontend, other members", [ha(), ha(pool="other")], here=TWICE),
    Combination("HA (floating on) + non-HA (floating on), same frontend", [ha(**FLOATING), tcp(**FLOATING)]),
    Combination("HA + non-HA, same frontend, non-HA not floating", [ha(**FLOATING), tcp()], beside(0, 1)),
    Combination("HA + non-HA, same frontend, HA not floating", [ha(), tcp(**FLOATING)], beside(0, 1)),
    Combination("HA + non-HA, same frontend, neither floating", [ha(), tcp()], beside(0, 1)),
    Combination("HA + non-HA, same frontend, other members", [ha(), tcp(pool="other")]),
    Combination("HA rule on a public frontend", [ha("pub")], PUBLIC),
    Combination("HA rule on a public frontend, floating on", [ha("pub", **FLOATING)], PUBLIC),
    Combination("HA rules on an internal and a public frontend", [ha("pub", **FLOATING), ha("in1")], PUBLIC),
    Combination("HA rule with a non-zero port", [ha(frontend_port=80, backend_port=0)], here=PORT),
    Combination("HA rule with a non-zero backend port", [ha(backend_port=80)], here=BACKEND),
    Combination("protocol TCP with port 0", [tcp(port=0, backend_port=80)], here=EVERY),
    Combination("HA rule on IPv6 frontend", [ha("six", "six")]),
    Combination("HA rules on an IPv4 and an IPv6 frontend, own pool per family", [ha(), ha("six", "six")]),
    Combination("HA rule as the next hop of a route", [ha("hub")]),
    Combination(
        "HA rules as next hops on two interfaces, floating on", [ha("hub", **FLOATING), ha("spoke", **FLOATING)]
    ),
    Combination(
        "HA rules as next hops on two interfaces, floating off",
        [ha("hub"), ha("spoke")],
        beside(0, 1, ha_rules=True),
    ),
    Combination("HA rule as next hop + HA rule, floating off", [ha("hub"), ha()], beside(0, 1, ha_rules=True)),
    Combination("HA rule as next hop + non-HA on its own address", [ha("hub"), tcp("hub", 22)], beside(0, 1)),
    *(
        Combination(f"HA rule with distribution {mode}", [ha(distribution=mode)])
        for mode in ("five_tuple", "source_ip", "source_ip_protocol")
    ),
    Combination(
        "rules of one backend port, carried by frames",
        [tcp(), tcp("in2", 81, backend_port=80)],
        here=clash(0, 1, "tcp 80"),
        more={"datapath": "packet"},
    ),
    Combination(
        "rules of one backend port, carried by frames, one floating",
        [tcp(), tcp("in2", **FLOATING)],
        more={"datapath": "kernel"},
    ),
]
BY_NAME = pytest.mark.parametrize("row", MATRIX, ids=lambda row: row.name)


def document(row: Combination, **more: Any) -> dict[str, Any]:
    """Return a configuration with the row's rules, each called by its position."""
    rules = [{"name": f"r{number}", **rule} for number, rule in enumerate(row.rules)]
    empty = {"inbound_nat_rules": REMOVED, "outbound_rules": REMOVED, "probes": REMOVED}
    used = {rule["frontend"] for rule in rules}
    pools = {rule["backend_pool"] for rule in rules}
    return {
        **empty,
        "frontends": {name: value for name, value in FRONTENDS.items() if name in used},
        "backend_pools": {name: value for name, value in POOLS.items() if name in pools},
        "rules": rules,
        **row.more,
        **more,
    }


@BY_NAME
def test_with_compat_azure(row: Combination) -> None:
    """What Azure refuses is refused, at its place, with Azure's code where it has one, and with a way out."""
    found = problems(changed(document(row, compat="azure")))
    wanted = [said for said in (row.azure, row.here) if said is not FINE]
    assert [(problem.where, problem.code) for problem in found] == [(said.where, said.code) for said in wanted]
    for problem, said in zip(found, wanted, strict=True):
        assert said.law in problem.rule
        assert said.remedy in problem.remedy
        assert ("or write `compat: extended`" in problem.remedy) == (said is row.azure)


@BY_NAME
def test_with_compat_extended(row: Combination) -> None:
    """What works here is accepted, with a warning that says what Azure would; what cannot work is refused."""
    found = problems(changed(document(row)))
    assert [(problem.where, problem.code) for problem in found] == (
        [] if row.here is FINE else [(row.here.where, row.here.code)]
    )
    if row.here is not FINE:
        assert row.here.law in found[0].rule
        assert row.here.remedy in found[0].remedy
        return
    warnings = parsed(document(row)).warnings
    assert [warning.where for warning in warnings] == ([] if row.azure is FINE else [row.azure.where])
    for warning in warnings:
        assert warning.rule == f"this works here, and {row.azure.law}"
        assert row.azure.remedy in warning.remedy
        assert "compat: azure" in warning.remedy


def built(number: int, rule: Rule) -> LoadBalancingRule:
    """Return a row's rule as the model has it."""
    return LoadBalancingRule(
        name=f"r{number}",
        frontend=rule["frontend"],
        protocol=Protocol(rule["protocol"]),
        frontend_port=rule["frontend_port"],
        backend_port=rule.get("backend_port") or rule["frontend_port"],
        backend_pool=rule["backend_pool"],
        floating_ip=rule.get("floating_ip", False),
    )


@BY_NAME
def test_what_is_accepted_can_be_executed(row: Combination) -> None:
    """The packet datapath has nothing to say against rules that it would carry, and the same against those refused."""
    if row.here is not FINE and row.here.code != BACKEND_PORT_CLASH:
        return
    rules = (built(number, rule) for number, rule in enumerate(row.rules))
    frontends = {
        name: Frontend(name, ip_address(value["address"]), Scope.INTERNAL, (), routed=value.get("routed", False))
        for name, value in FRONTENDS.items()
    }
    pools = {
        name: BackendPool(name, tuple(Member(m["name"], ip_address(m["address"])) for m in value["members"]))
        for name, value in POOLS.items()
    }
    by_frames = [rule for rule in rules if row.more or rule.protocol is Protocol.ALL]
    rows = rows_of(Model(frontends=frontends, backend_pools=pools, rules=tuple(by_frames)))
    assert bool(clashes(rows)) == (row.here is not FINE)


def test_what_azure_does_not_do_for_routed_traffic() -> None:
    """Azure keeps no idle timeouts behind a route, and sends no resets through appliances: a warning for each."""
    row = Combination("hub", [ha("hub", idle_timeout="5m", tcp_reset=True)])
    assert parsed(document(row)).warnings == ()
    warnings = parsed(document(row, compat="azure")).warnings
    assert [warning.where for warning in warnings] == ["rules[0].idle_timeout", "rules[0].tcp_reset"]


def test_many_rules_are_compared_quickly() -> None:
    """Six hundred HA-ports rules that clash with each other are refused, each once, by the first that it meets."""
    frontends = {f"f{n}": {"address": f"10.7.{n >> 8}.{n & 255}"} for n in range(600)}
    rules = [{"name": f"r{n}", **ha(f"f{n}")} for n in range(600)]
    more = {"rules": rules, "backend_pools": POOLS, "limits": {"rules_per_member": 100_000}}
    found = problems(changed(document(Combination("many", []), frontends=frontends, **more)))
    assert [problem.rule.split()[1] for problem in found] == ["r0"] * 599


@pytest.mark.parametrize(("compat", "whom"), [("azure", "both"), ("extended", "one of the two")])
def test_the_remedy_is_one_that_works(compat: str, whom: str) -> None:
    """Of two HA-ports rules over the same members Azure wants both floating; here one is enough."""
    (problem,) = problems(changed(document(Combination("", [ha(), ha("in2")]), compat=compat)))
    assert f"`floating_ip: true` on {whom}" in problem.remedy
    mended = [ha(**FLOATING), ha("in2", **(FLOATING if compat == "azure" else {}))]
    assert problems(changed(document(Combination("", mended), compat=compat))) == ()
