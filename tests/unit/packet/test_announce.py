"""Announcements, byte by byte and as another parser reads them."""

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from asynclb.datapath.frames.announce import announcement

OURS = bytes.fromhex("02000000aa01")
VIP4, VIP6 = "198.51.100.100", "2001:db8:1::100"


def read_advertisement(frame: bytes) -> dict[str, object]:
    """Take a neighbour advertisement apart, and check what RFC 4861 section 7.1.2 has a receiver check."""
    version, length, next_header, hops = struct.unpack_from("!IHBB", frame, 14)
    source, destination = IPv6Address(frame[22:38]), IPv6Address(frame[38:54])
    body = frame[54:]
    assert frame[12:14] == b"\x86\xdd"
    assert (version >> 28, length, next_header, hops) == (6, len(body), 58, 255)
    pseudo = source.packed + destination.packed + struct.pack("!II", len(body), 58)
    assert sum(struct.unpack(f"!{len(pseudo + body) // 2}H", pseudo + body)) % 0xFFFF == 0
    assert body[:2] == bytes((136, 0))
    flags = body[4] >> 5
    assert not (destination.is_multicast and flags & 2)
    assert body[24:26] == bytes((2, 1))
    return {
        "link": (frame[:6], frame[6:12]),
        "destination": str(destination),
        "solicited": bool(flags & 2),
        "override": bool(flags & 1),
        "router": bool(flags & 4),
        "target": str(IPv6Address(body[8:24])),
        "target_link": body[26:32],
    }


def test_an_arp_announcement_is_a_request_for_itself() -> None:
    """Everybody gets it, sender and target are the VIP, and the target's link address is zero (RFC 5227 section 3)."""
    assert announcement(ip_address(VIP4), OURS) == (
        b"\xff" * 6 + OURS + bytes.fromhex("08060001080006040001")
        + OURS + IPv4Address(VIP4).packed + bytes(6) + IPv4Address(VIP4).packed
    )  # fmt: skip


def test_an_advertisement_is_announced_to_everybody() -> None:
    """It is unsolicited, overrides, and comes from the VIP."""
    frame = announcement(ip_address(VIP6), OURS)
    found = read_advertisement(frame)
    assert (found["link"], found["destination"]) == ((bytes.fromhex("333300000001"), OURS), "ff02::1")
    assert (found["solicited"], found["target"], IPv6Address(frame[22:38])) == (False, VIP6, IPv6Address(VIP6))
