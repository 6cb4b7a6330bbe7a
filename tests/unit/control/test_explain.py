"""Explaining a flow before it comes."""

from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from asynclb import rules
from asynclb.control.explain import Explanation, all_up, explain, parse_flow
from asynclb.model import AdminState, Health, Model
from asynclb.tables.compile import compile_tables
from tests.unit.control.fakes import web_model


def explained(model: Model, flow: str, health: Health | None = None) -> Explanation:
    """Explain a flow under the model, every member up."""
    health = all_up(model) if health is None else health
    tables = compile_tables(rules.rows_of(model), health, seed=7, generation=1)
    return explain(tables, health, {"web-0": ("proxy", "auto")}, parse_flow(flow))


def test_a_flow_that_is_served() -> None:
    """The explanation names rule, hash, slot, member, reason, delivery and datapath."""
    found = explained(web_model("a", "b"), "tcp 198.51.100.7:41000 > 203.0.113.10:80")
    assert (found.verdict, found.rule, found.pool, found.delivery) == ("member", "web-0", "web", "nat")
    assert found.member in ("a", "b")
    assert found.target in ("10.1.0.11:8080", "10.1.0.12:8080")
    assert 0 <= found.slot < found.slots
    assert 0.4 < found.share < 0.6
    assert "assumed" in found.why
    assert found.datapath == "proxy"


def test_floating_ip_with_another_port() -> None:
    """The member gets the VIP's own address, with the backend port."""
    model = web_model("a")
    model = replace(model, rules=tuple(replace(rule, floating_ip=True) for rule in model.rules))
    found = explained(model, "tcp 198.51.100.7:41000 > 203.0.113.10:80")
    assert (found.member, found.delivery, found.target) == ("a", "floating", "203.0.113.10:8080")


@pytest.mark.parametrize(
    ("flow", "verdict", "why"),
    [
        ("tcp 198.51.100.7:41000 > 203.0.113.10:443", "no_rule", "no rule matches"),
        ("udp 198.51.100.7:41000 > 203.0.113.10:80", "no_rule", "no rule matches"),
        ("tcp 192.0.2.1:41000 > 203.0.113.10:80", "source_not_allowed", "198.51.100.0/24"),
    ],
)
def test_a_flow_that_is_dropped(flow: str, verdict: str, why: str) -> None:
    """The explanation gives the drop reason of the datapaths and says what is allowed."""
    model = web_model("a")
    allow = (IPv4Network("198.51.100.0/24"),)
    found = explained(replace(model, frontends={"vip": replace(model.frontends["vip"], allow=allow)}), flow)
    assert found.verdict == verdict
    assert why in found.why


def test_pings_to_a_frontend() -> None:
    """No rule carries them, and the balancer answers for public frontends: the reason says what they hear."""
    model, ping = web_model("a"), "icmp 198.51.100.7 > 203.0.113.10"
    assert "a ping is answered" in explained(model, ping).why
    pool = model.backend_pools["web"]
    drained = replace(pool.members[0], admin_state=AdminState.DRAIN)
    nobody = replace(model, backend_pools={"web": replace(pool, members=(drained,))})
    assert "host unreachable" in explained(nobody, ping).why
    assert "ping" not in explained(model, "icmpv6 2001:db8::7 > 2001:db8::10").why


def test_nobody_is_eligible() -> None:
    """A rule whose members are all down drops, and the explanation names the rule and the policy."""
    found = explained(web_model("a"), "tcp 198.51.100.7:41000 > 203.0.113.10:80", Health({}))
    assert (found.verdict, found.rule) == ("no_eligible_member", "web-0")
    assert "no_healthy_members: drop" in found.why


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tcp 198.51.100.7:41000 > 203.0.113.10:443", "tcp 198.51.100.7:41000 > 203.0.113.10:443"),
        ("UDP [2001:db8::1]:53 -> [2001:db8::2]:5353", "udp [2001:db8::1]:53 > [2001:db8::2]:5353"),
        ("icmp 192.0.2.1>192.0.2.2", "proto 1 192.0.2.1:0 > 192.0.2.2:0"),
        ("47 2001:db8::1 > 2001:db8::2", "proto 47 [2001:db8::1]:0 > [2001:db8::2]:0"),
    ],
)
def test_flows_are_read_as_operators_write_them(text: str, shown: str) -> None:
    """Names or numbers of protocols, both families, either arrow."""
    assert str(parse_flow(text)) == shown


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not a flow"),
        ("tcp 1.2.3.4 5.6.7.8", "is not a flow"),
        ("quic 1.2.3.4:1 > 5.6.7.8:2", "is not an IP protocol"),
        ("256 1.2.3.4 > 5.6.7.8", "is not an IP protocol"),
        ("tcp 1.2.3.4 > 5.6.7.8:2", "has no port"),
        ("tcp 1.2.3.4:70000 > 5.6.7.8:2", "above 65535"),
        ("tcp 1.2.3:1 > 5.6.7.8:2", "1.2.3"),
        ("tcp [::1]:1 > 5.6.7.8:2", "different address families"),
        ("tcp [::1:1 > 5.6.7.8:2", "is not an address"),
    ],
)
def test_what_is_no_flow_is_said(text: str, complaint: str) -> None:
    """The message says what is wrong with the text."""
    with pytest.raises(ValueError, match=complaint):
        parse_flow(text)
