"""PROXY protocol version 2: byte for byte what the specification says."""

from ipaddress import ip_address

import pytest

from asynclb.net.flow import Flow
from asynclb.net.proxyprotocol import header_v2

SIGNATURE = "0d0a0d0a000d0a515549540a"


@pytest.mark.parametrize(
    ("source", "destination", "protocol", "rest"),
    [
        ("198.51.100.7", "203.0.113.10", 6, "21 11 000c c6336407 cb00710a a028 01bb"),
        ("198.51.100.7", "203.0.113.10", 17, "21 12 000c c6336407 cb00710a a028 01bb"),
        (
            *("2001:db8::7", "2001:db8::10", 6),
            "21 21 0024 20010db8000000000000000000000007 20010db8000000000000000000000010 a028 01bb",
        ),
        (
            *("2001:db8::7", "2001:db8::10", 17),
            "21 22 0024 20010db8000000000000000000000007 20010db8000000000000000000000010 a028 01bb",
        ),
    ],
)
def test_the_header_names_client_and_frontend(source: str, destination: str, protocol: int, rest: str) -> None:
    """A member reads the signature, PROXY, the family, and both ends in network order."""
    flow = Flow(ip_address(source), 41000, ip_address(destination), 443, protocol)
    assert header_v2(flow) == bytes.fromhex(SIGNATURE + rest)


def test_other_protocols_have_no_header() -> None:
    """A flow that is neither TCP nor UDP is the caller's mistake."""
    with pytest.raises(KeyError):
        header_v2(Flow(ip_address("192.0.2.1"), 0, ip_address("192.0.2.2"), 0, 1))
