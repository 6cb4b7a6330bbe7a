"""Who has this address? Answers for VIPs that no host owns (ARP, neighbour discovery), and announcements. Pure.

A VIP inside a network that the balancer is attached to has to be answered for, or nobody can send to it. The answer
carries the link address of the interface that the question came in by.

Source: RFC 826 (ARP), RFC 5227 section 3 (announcements), RFC 4861 sections 4.3, 4.4, 7.2.4 and 7.2.6.
"""

import struct
from ipaddress import IPv4Address, IPv6Address

from asynclb.net.address import Address

_BROADCAST = b"\xff" * 6
_ARP, _IPV6 = 0x0806, 0x86DD
_REQUEST, _REPLY = 1, 2
_ICMPV6 = 58
_SOLICITATION, _ADVERTISEMENT = 135, 136
_SOLICITED, _OVERRIDE = 0x4000_0000, 0x2000_0000
_OPTION_SOURCE, _OPTION_TARGET = 1, 2
_HOPS = 255  # RFC 4861 section 7.1.1: anything less was forwarded and is not believed
_ALL_NODES = IPv6Address("ff02::1")
_ALL_NODES_LINK = bytes.fromhex("333300000001")
_UNSPECIFIED = bytes(16)


def asked_for(frame: bytes) -> Address | None:
    """Return the address that an ARP request or a neighbour solicitation asks for, or None for any other frame."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _ARP and len(frame) >= 42 and frame[14:22] == struct.pack("!HHBBH", 1, 0x0800, 6, 4, _REQUEST):
        return IPv4Address(frame[38:42])
    if (
        kind == _IPV6
        and len(frame) >= 78
        and frame[20] == _ICMPV6
        and frame[21] == _HOPS
        and frame[54] == _SOLICITATION
    ):
        return IPv6Address(frame[62:78])
    return None


def answer(frame: bytes, link_address: bytes) -> bytes | None:
    """Return the frame that answers a question with our link address, or None where no answer is due."""
    address = asked_for(frame)
    if isinstance(address, IPv4Address):
        sender_link, sender = frame[22:28], frame[28:32]
        return _arp(_REPLY, sender_link, link_address, address.packed, sender_link, sender)
    if isinstance(address, IPv6Address):
        asker = frame[22:38]
        if asker == _UNSPECIFIED:  # duplicate address detection: everybody is told
            return _advertisement(link_address, address, _ALL_NODES, _ALL_NODES_LINK, _OVERRIDE)
        asker_link = _source_option(frame) or frame[6:12]
        return _advertisement(link_address, address, IPv6Address(asker), asker_link, _SOLICITED | _OVERRIDE)
    return None


def announcement(address: Address, link_address: bytes) -> bytes:
    """Return the frame that tells everybody on a link where an address is now."""
    if isinstance(address, IPv4Address):
        return _arp(_REQUEST, _BROADCAST, link_address, address.packed, bytes(6), address.packed)
    return _advertisement(link_address, address, _ALL_NODES, _ALL_NODES_LINK, _OVERRIDE)


def _arp(operation: int, to: bytes, link: bytes, address: bytes, target_link: bytes, target: bytes) -> bytes:
    header = to + link + struct.pack("!HHHBBH", _ARP, 1, 0x0800, 6, 4, operation)
    return header + link + address + target_link + target


def _advertisement(link: bytes, target: IPv6Address, to: IPv6Address, to_link: bytes, flags: int) -> bytes:
    option = struct.pack("!BB", _OPTION_TARGET, 1) + link
    body = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, flags) + target.packed + option
    pseudo = target.packed + to.packed + struct.pack("!II", len(body), _ICMPV6)
    checksum = _internet_checksum(pseudo + body)
    body = body[:2] + struct.pack("!H", checksum) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, _HOPS) + target.packed + to.packed
    return to_link + link + struct.pack("!H", _IPV6) + header + body


def _source_option(frame: bytes) -> bytes | None:
    at = 78
    while at + 8 <= len(frame):
        kind, units = frame[at], frame[at + 1]
        if kind == _OPTION_SOURCE and units == 1:
            return frame[at + 2 : at + 8]
        if not units:
            return None
        at += 8 * units
    return None


def _internet_checksum(data: bytes) -> int:
    """Return the one's complement sum of an even number of bytes. Source: RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
