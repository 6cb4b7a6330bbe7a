"""The guard: what it says the core takes."""

from collections.abc import Collection
from ipaddress import ip_address

from asynclb.datapath.packet.guard import Guarded, guarded
from asynclb.datapath.packet.ruleset import NO_TABLE, ruleset
from asynclb.net.flow import Protocol
from asynclb.tables.row import Delivery
from tests.unit.core.world import ha, pool, row

OWN = frozenset({ip_address("10.0.1.1"), ip_address("2001:db8:1::1")})
WEB, DNS = pool("web", "10.0.2.11", "10.0.2.12"), pool("dns", "2001:db8:2::11")
ROWS = (
    row(WEB, "203.0.113.10", 80, 8080),
    row(WEB, "10.0.1.1", 443, 8443),
    row(DNS, "2001:db8:ff::10", 53, protocol=Protocol.UDP),
    ha(pool("any", "10.0.2.13"), "203.0.113.20"),
    ha(pool("any6", "2001:db8:2::13"), "2001:db8:ff::20", delivery=Delivery.FLOATING),
)
DEVICES = (("front", 101), ("back", 102))


def names(addresses: Collection[object]) -> set[str]:
    """Return addresses as text."""
    return {str(address) for address in addresses}


def test_what_the_core_takes() -> None:
    """Served ports, HA-ports VIPs, VIPs that nobody owns, and members that translated flows lead to."""
    found = guarded(ROWS, DEVICES, OWN)
    assert {(str(a), p, n) for a, p, n in found.served} == {
        ("203.0.113.10", "tcp", 80), ("10.0.1.1", "tcp", 443), ("2001:db8:ff::10", "udp", 53),
    }  # fmt: skip
    assert names(found.open_vips) == {"203.0.113.20", "2001:db8:ff::20"}
    assert names(found.vips) == {"203.0.113.10", "203.0.113.20", "2001:db8:ff::10", "2001:db8:ff::20"}
    assert {(str(a), n) for a, _, n in found.replies} == {
        (address, port) for address in ("10.0.2.11", "10.0.2.12") for port in (8080, 8443)
    } | {("2001:db8:2::11", 53)}  # fmt: skip
    assert names(found.open_members) == {"10.0.2.13"}
    assert names(found.members) == {"10.0.2.11", "10.0.2.12", "10.0.2.13", "2001:db8:2::11"}
    assert found.idle_s == 240


def test_a_vip_whose_members_answer_from_another_port() -> None:
    """What comes from that port of it is the core's; a floating rule that keeps the port adds nothing."""
    moved = row(WEB, "203.0.113.10", 80, 8080, delivery=Delivery.FLOATING)
    found = guarded((moved, row(WEB, "203.0.113.10", 443, delivery=Delivery.FLOATING)), DEVICES, OWN)
    assert {(str(a), p, n) for a, p, n in found.replies} == {("203.0.113.10", "tcp", 8080)}
    assert names(found.members) == {"203.0.113.10"}
    assert not found.open_members


def test_between_two_generations_both_are_guarded() -> None:
    """What either takes is the core's, what only one knows as the host's is not; interfaces are those that are left."""
    old = guarded(ROWS[:1], (("front", 101), ("gone", 103)), OWN)
    new = guarded(ROWS[1:2], DEVICES, OWN | {ip_address("203.0.113.10")})
    both = old | new
    assert both.interfaces == new.interfaces
    assert both.served == old.served | new.served
    assert both.vips == old.vips
    assert both.own == OWN
    assert both.members == old.members


def test_without_interfaces_there_is_no_table() -> None:
    """A host without usable interfaces has nothing to guard."""
    assert ruleset(Guarded((), (), *(frozenset(),) * 7)) == NO_TABLE
