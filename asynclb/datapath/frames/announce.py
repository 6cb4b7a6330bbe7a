"""Where an address is now: announcements of VIPs (gratuitous ARP, unsolicited advertisements). Pure.

Who asks is answered by the core itself (neighbour.h), so that this goes on whatever the process does.

Source: RFC 5227 section 3 (ARP announcements), RFC 4861 sections 4.4 and 7.2.6.
"""

import struct
from ipaddress import IPv4Address, IPv6Address

from asynclb.net.address import Address

_BROADCAST = b"\xff" * 6
_ARP, _IPV6 = 0x0806, 0x86DD
_REQUEST = 1
_ICMPV6 = 58
_ADVERTISEMENT = 136
_OVERRIDE = 0x2000_0000
_OPTION_TARGET = 2
_HOPS = 255  # RFC 4861 section 7.1.1: anything less was forwarded and is not believed
_ALL_NODES = IPv6Address("ff02::1")
_ALL_NODES_LINK = bytes.fromhex("333300000001")


def announcement(address: Address, link_address: bytes) -> bytes:
    """Return the frame that tells everybody on a link where an address is now."""
    if isinstance(address, IPv4Address):
        return _arp_announcement(address, link_address)
    return _advertisement(address, link_address)


def _arp_announcement(address: IPv4Address, link: bytes) -> bytes:
    header = _BROADCAST + link + struct.pack("!HHHBBH", _ARP, 1, 0x0800, 6, 4, _REQUEST)
    return header + link + address.packed + bytes(6) + address.packed


def _advertisement(address: IPv6Address, link: bytes) -> bytes:
    option = struct.pack("!BB", _OPTION_TARGET, 1) + link
    body = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _OVERRIDE) + address.packed + option
    pseudo = address.packed + _ALL_NODES.packed + struct.pack("!II", len(body), _ICMPV6)
    checksum = _internet_checksum(pseudo + body)
    body = body[:2] + struct.pack("!H", checksum) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, _HOPS) + address.packed + _ALL_NODES.packed
    return _ALL_NODES_LINK + link + struct.pack("!H", _IPV6) + header + body


def _internet_checksum(data: bytes) -> int:
    """Return the one's complement sum of an even number of bytes. Source: RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
