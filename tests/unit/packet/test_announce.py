"""Answers and announcements, byte by byte and as another parser reads them."""

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from asynclb.datapath.packet.announce import announcement, answer, asked_for

OURS = bytes.fromhex("02000000aa01")
ASKER = bytes.fromhex("02000000cc07")
VIP4, ASKER4 = "198.51.100.100", "198.51.100.7"
VIP6, ASKER6 = "2001:db8:1::100", "2001:db8:1::7"


def arp_request(target: str = VIP4, operation: int = 1) -> bytes:
    """Return an ARP frame as RFC 826 has it."""
    return bytes.fromhex(
        "ffffffffffff" + ASKER.hex() + "0806000108000604" + f"{operation:04x}"
        + ASKER.hex() + IPv4Address(ASKER4).packed.hex() + "000000000000" + IPv4Address(target).packed.hex()
    )  # fmt: skip


def solicitation(source: str = ASKER6, options: str = "0101" + ASKER.hex(), hops: int = 255) -> bytes:
    """Return a neighbour solicitation; its checksum is not looked at."""
    body = bytes.fromhex("8700000000000000") + IPv6Address(VIP6).packed + bytes.fromhex(options)
    head = struct.pack("!IHBB", 6 << 28, len(body), 58, hops)
    network = head + IPv6Address(source).packed + IPv6Address("ff02::1:ff00:100").packed + body
    return bytes.fromhex("3333ff000100") + b"\x02\0\0\0\xcc\x08" + b"\x86\xdd" + network


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


def test_an_arp_question_is_answered_to_who_asked() -> None:
    """The reply goes to the asker alone and names our link address for the VIP."""
    assert asked_for(arp_request()) == ip_address(VIP4)
    assert answer(arp_request(), OURS) == (
        ASKER + OURS + bytes.fromhex("08060001080006040002")
        + OURS + IPv4Address(VIP4).packed + ASKER + IPv4Address(ASKER4).packed
    )  # fmt: skip


def test_an_arp_announcement_is_a_request_for_itself() -> None:
    """Everybody gets it, sender and target are the VIP, and the target's link address is zero (RFC 5227 section 3)."""
    assert announcement(ip_address(VIP4), OURS) == (
        b"\xff" * 6 + OURS + bytes.fromhex("08060001080006040001")
        + OURS + IPv4Address(VIP4).packed + bytes(6) + IPv4Address(VIP4).packed
    )  # fmt: skip


def test_a_solicitation_is_answered_to_who_asked() -> None:
    """The advertisement is solicited, overrides what was known, and goes to the link address of the option."""
    assert asked_for(solicitation()) == ip_address(VIP6)
    reply = answer(solicitation(), OURS)
    assert reply is not None
    assert read_advertisement(reply) == {
        "link": (ASKER, OURS),
        "destination": ASKER6,
        "solicited": True,
        "override": True,
        "router": False,
        "target": VIP6,
        "target_link": OURS,
    }


@pytest.mark.parametrize("options", ["", "0e010000000000000000", "0e00ffffffffffff"])
def test_a_solicitation_without_a_link_address(options: str) -> None:
    """The frame's own source is answered; an option of length zero ends the search."""
    reply = answer(solicitation(options=options), OURS)
    assert reply is not None
    assert read_advertisement(reply)["link"] == (b"\x02\0\0\0\xcc\x08", OURS)


def test_duplicate_address_detection_is_answered_to_everybody() -> None:
    """Who has no address yet learns from all-nodes that the VIP is taken (RFC 4861 section 7.2.4)."""
    reply = answer(solicitation("::", ""), OURS)
    assert reply is not None
    found = read_advertisement(reply)
    assert (found["link"], found["destination"]) == ((bytes.fromhex("333300000001"), OURS), "ff02::1")
    assert (found["solicited"], found["override"]) == (False, True)


def test_an_advertisement_is_announced_to_everybody() -> None:
    """It is unsolicited, overrides, and comes from the VIP."""
    frame = announcement(ip_address(VIP6), OURS)
    found = read_advertisement(frame)
    assert (found["link"], found["destination"]) == ((bytes.fromhex("333300000001"), OURS), "ff02::1")
    assert (found["solicited"], found["target"], IPv6Address(frame[22:38])) == (False, VIP6, IPv6Address(VIP6))


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(arp_request(operation=2), id="an ARP reply"),
        pytest.param(arp_request()[:41], id="a short ARP frame"),
        pytest.param(solicitation(hops=64), id="a solicitation from another network"),
        pytest.param(solicitation()[:77], id="a short solicitation"),
        pytest.param(solicitation()[:54] + b"\x88" + solicitation()[55:], id="an advertisement"),
        pytest.param(bytes(14), id="another protocol"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_other_frames_are_not_answered(frame: bytes) -> None:
    """What is no question that may be believed gets no answer."""
    assert asked_for(frame) is None
    assert answer(frame, OURS) is None
