"""Explaining what members open themselves."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from asynclb import rules
from asynclb.control.explain import Explanation, all_up, explain, parse_flow
from asynclb.model import Frontend, Model, OutboundRule, Scope
from asynclb.net.flow import Protocol
from asynclb.tables.compile import compile_tables
from tests.unit.control.fakes import web_model

LAN = IPv4Network("10.0.0.0/8")
OUT = OutboundRule("out", ("way",), "web", Protocol.TCP, allocated_ports=64, direct=(LAN,))


def model(*outbound: OutboundRule) -> Model:
    """Return a pool of two with a rule, and outbound rules by a frontend of their own."""
    found = web_model("a", "b")
    way = Frontend("way", IPv4Address("203.0.113.11"), Scope.PUBLIC, ())
    return replace(found, frontends={**found.frontends, "way": way}, outbound_rules=outbound)


def explained(found: Model, flow: str) -> Explanation:
    """Explain a flow with every member up."""
    health = all_up(found)
    outbound = rules.snat_rules(found)
    tables = compile_tables(rules.rows_of(found), health, seed=7, generation=1, outbound=outbound)
    return explain(tables, health, {}, parse_flow(flow))


@pytest.mark.parametrize(
    ("flow", "verdict", "why"),
    [
        ("tcp 10.1.0.12:41000 > 192.0.2.1:443", "translated", "203.0.113.11, 64 ports from 1088 on"),
        ("udp 10.1.0.12:41000 > 192.0.2.1:443", "snat_protocol", "translate tcp only"),
        ("icmp 10.1.0.12 > 192.0.2.1", "snat_protocol", "translate tcp only"),
        ("tcp 10.1.0.12:41000 > 10.9.0.1:443", "direct", "10.9.0.1 is in 10.0.0.0/8, which is `direct`"),
        ("tcp 10.1.0.12:41000 > 10.1.0.11:443", "direct", "10.1.0.11 is a member too"),
    ],
)
def test_a_members_own_connection(flow: str, verdict: str, why: str) -> None:
    """The explanation names the outbound rule, the member, and where it leaves from or why it does not."""
    found = explained(model(OUT), flow)
    assert (found.verdict, found.rule, found.frontend, found.pool) == (verdict, "out", "way", "web")
    assert found.why.startswith("member b of pool web opens it itself: ")
    assert why in found.why
    assert bool(found.delivery) == (verdict in ("translated", "direct"))


def test_rules_by_protocol() -> None:
    """Where a pool has a rule for each protocol, the flow's own is named."""
    udp = replace(OUT, name="dns", protocol=Protocol.UDP)
    assert explained(model(OUT, udp), "udp 10.1.0.11:53 > 192.0.2.1:53").rule == "dns"


def test_no_way_out() -> None:
    """A pool whose rule has `disable_outbound_snat` goes nowhere, and the remedy is named."""
    found = model()
    closed = replace(found, rules=tuple(replace(rule, disable_outbound_snat=True) for rule in found.rules))
    said = explained(closed, "tcp 10.1.0.11:41000 > 192.0.2.1:443")
    assert (said.verdict, said.rule) == ("no_outbound_rule", "web-0")
    assert "no outbound rule translates the pool: add one" in said.why


@pytest.mark.parametrize(
    "flow",
    [
        "tcp 192.0.2.9:41000 > 192.0.2.1:443",
        "tcp 10.1.0.11:41000 > 203.0.113.10:443",
        "tcp 10.1.0.11:41000 > 203.0.113.11:443",
    ],
)
def test_what_is_no_member_s_own_connection(flow: str) -> None:
    """A stranger's packet has no rule, and a member that calls a frontend is a client like others."""
    assert explained(model(OUT), flow).verdict == "no_rule"
