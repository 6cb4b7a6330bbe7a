"""Addresses: which are private, and how they are written."""

from ipaddress import ip_address

import pytest

from asynclb.net.address import endpoint, is_private
from asynclb.net.flow import Flow


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.0", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.7.7", "100.64.0.1", "127.0.0.1"),
        *("169.254.1.1", "fd00::1", "fe80::1", "::1"),
    ],
)
def test_private_addresses_are_private(address: str) -> None:
    """RFC 1918, shared, link-local, loopback and unique local addresses count as inside."""
    assert is_private(ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["9.255.255.255", "11.0.0.0", "172.32.0.0", "192.169.0.0", "100.128.0.0", "203.0.113.10", "2001:db8::1", "::2"],
)
def test_other_addresses_are_not_private(address: str) -> None:
    """Addresses just outside the private prefixes, and documentation addresses, count as the world."""
    assert not is_private(ip_address(address))


def test_endpoints_are_written_as_operators_write_them() -> None:
    """IPv6 addresses get brackets before a port, IPv4 addresses none."""
    assert endpoint(ip_address("192.0.2.1"), 80) == "192.0.2.1:80"
    assert endpoint("2001:db8::1", 80) == "[2001:db8::1]:80"


@pytest.mark.parametrize(
    ("protocol", "text"),
    [
        (6, "tcp 198.51.100.7:41000 > 203.0.113.10:443"),
        (17, "udp 198.51.100.7:41000 > 203.0.113.10:443"),
        (132, "proto 132 198.51.100.7:41000 > 203.0.113.10:443"),
    ],
)
def test_a_flow_reads_as_in_explain(protocol: int, text: str) -> None:
    """The text of a flow is the form that the command line takes."""
    assert str(Flow(ip_address("198.51.100.7"), 41000, ip_address("203.0.113.10"), 443, protocol)) == text
