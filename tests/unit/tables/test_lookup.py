"""The lookup, read as traces: which rule and which member a packet meets."""

from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from asynclb.net.drop import Drop
from asynclb.net.flow import Flow, Protocol
from asynclb.tables.lookup import Verdict, lookup
from asynclb.tables.row import Row
from tests.unit.tables.world import PROBE, client, equal_pool, row, tables

WEB = equal_pool("web", 3)
TCP80 = row(WEB, name="tcp-80")
UDP53 = row(WEB, name="udp-53", protocol=Protocol.UDP, port=53)
ANY = row(WEB, name="any", protocol=Protocol.ALL, port=0)


def meets(rows: list[Row], flow: Flow) -> str:
    """Return the name of the rule that a flow meets, or the reason of its drop."""
    verdict = lookup(tables(*rows), flow)
    return verdict.entry.row.rule.name if isinstance(verdict, Verdict) else verdict


@pytest.mark.parametrize(
    ("port", "protocol", "expected"),
    [
        (80, 6, "tcp-80"),
        (53, 17, "udp-53"),
        (80, 17, "any"),
        (443, 6, "any"),
        (0, 1, "any"),
        (0, 132, "any"),
        (0, 6, "any"),
    ],
)
def test_the_exact_port_comes_before_ha_ports(port: int, protocol: int, expected: str) -> None:
    """A rule for a port takes it; the HA-ports rule takes everything else of every protocol."""
    assert meets([TCP80, UDP53, ANY], client(1, port=port, protocol=protocol)) == expected


@pytest.mark.parametrize(("port", "protocol"), [(80, 17), (443, 6), (0, 1)])
def test_what_no_rule_names_is_dropped(port: int, protocol: int) -> None:
    """Without HA ports, another port or protocol of the frontend has no rule."""
    assert meets([TCP80, UDP53], client(1, port=port, protocol=protocol)) == Drop.NO_RULE


def test_another_address_has_no_rule() -> None:
    """HA ports on one frontend say nothing of another."""
    assert meets([ANY], client(1, address="203.0.113.11")) == Drop.NO_RULE


def test_a_source_outside_allow_is_dropped() -> None:
    """`allow` is by source prefix, and a prefix of the other family allows nothing."""
    frontend = replace(TCP80.frontend, allow=(IPv4Network("198.51.100.0/25"),))
    closed = replace(TCP80, frontend=frontend)
    assert meets([closed], client(1)) == "tcp-80"
    assert meets([closed], client(200_000)) == Drop.SOURCE_NOT_ALLOWED


def test_without_an_eligible_member_new_flows_are_dropped() -> None:
    """A rule whose probe has said nothing yet takes no flow."""
    assert meets([row(WEB, probe=PROBE)], client(1)) == Drop.NO_ELIGIBLE_MEMBER


def test_a_verdict_says_how_it_came_about() -> None:
    """Hash, slot and member belong together, for `explain`."""
    made = tables(TCP80)
    verdict = lookup(made, client(7))
    assert isinstance(verdict, Verdict)
    table = verdict.entry.table
    assert verdict.slot == (verdict.flow_hash >> 32) * table.size >> 32
    assert verdict.member is table.members[table.slots[verdict.slot]]
