"""Which worker a frame goes to: the program in the kernel against its twin, and the laws of pinning."""

import os
import struct
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from asynclb.datapath.packet.fanout import Pinning, end_hash, place_of
from asynclb.net.address import Address

KEY = 0x0123_4567_89AB_CDEF
VIPS = {4: ip_address("203.0.113.10"), 6: ip_address("2001:db8::10")}
MEMBERS = {4: ip_address("10.0.2.11"), 6: ip_address("fd00:2::11")}
OURS = {*VIPS.values(), *MEMBERS.values()}
CLIENTS = {4: ip_address("198.51.100.7"), 6: ip_address("2001:db8:7::7")}
PLACES = 1 << 32  # what the program says before the kernel takes the remainder
BOTH = pytest.mark.parametrize("version", [4, 6])
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loads a program")


@pytest.fixture(scope="module")
def pinning() -> Iterator[Pinning]:
    """Give the tests the program, with a VIP and a member of each family in its set."""
    found = Pinning(KEY)
    found.add(OURS)
    yield found
    found.close()


def packet(source: Address, destination: Address, protocol: int, payload: bytes, *, later: bool = False) -> bytes:
    """Return an IP packet; `later` is a fragment that is not the first."""
    if isinstance(source, IPv4Address):
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 185 if later else 0, 64, protocol, 0)
        return head + source.packed + destination.packed + payload
    if later:
        payload, protocol = struct.pack("!BBHI", protocol, 0, 185 << 3, 1) + payload, 44
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + source.packed + destination.packed + payload


def frame(body: bytes, *tags: int) -> bytes:
    """Return a frame with these VLAN tags around a packet."""
    kind = b"\x08\x00" if body[0] >> 4 == 4 else b"\x86\xdd"
    return bytes(12) + b"".join(b"\x81\x00" + struct.pack("!H", tag) for tag in tags) + kind + body


def error(version: int, source: Address, destination: Address, quoted: bytes) -> bytes:
    """Return an error that quotes a packet: unreachable."""
    kind, protocol = (3, 1) if version == 4 else (1, 58)
    return packet(source, destination, protocol, struct.pack("!BBHI", kind, 1, 0, 0) + quoted)


@BOTH
def test_a_flow_has_one_place(pinning: Pinning, version: int) -> None:
    """What a client sends to the VIP, what a member answers, fragments of both, and errors about both: one place."""
    client, vip, member, router = CLIENTS[version], VIPS[version], MEMBERS[version], CLIENTS[version] + 99
    there = packet(client, vip, 17, b"x" * 24)
    inside, back = packet(client, member, 17, b"x" * 24), packet(member, client, 17, b"x" * 24)
    outside = packet(vip, client, 17, b"x" * 24)
    later = packet(client, vip, 17, b"x" * 24, later=True), packet(member, client, 17, b"x" * 24, later=True)
    errors = error(version, router, vip, outside), error(version, router, client, inside)
    places = {pinning.program.run(frame(found)) for found in (there, back, *later, *errors)}
    places |= {pinning.program.run(frame(there, 5)), pinning.program.run(frame(back, 5, 6))}
    assert places == {place_of((client, vip), OURS, KEY, PLACES)}


@BOTH
def test_members_as_clients_share_a_place(pinning: Pinning, version: int) -> None:
    """Both halves of what a member sends to its own VIP meet the first worker."""
    vip, member = VIPS[version], MEMBERS[version]
    halves = packet(member, vip, 6, bytes(20)), packet(vip, member, 6, bytes(20))
    assert {pinning.program.run(frame(half)) for half in halves} == {0}


@BOTH
def test_extension_headers_before_an_error(pinning: Pinning, version: int) -> None:
    """An ICMPv6 error behind extension headers is found; nothing but that is read as one."""
    client, vip, router = CLIENTS[version], VIPS[version], CLIENTS[version] + 99
    if isinstance(router, IPv6Address):
        found = struct.pack("!BBHI", 1, 1, 0, 0) + packet(vip, client, 17, b"x" * 24)
        chain = b"\x3c\x00" + bytes(6) + b"\x3a\x01" + bytes(14)
        outer = packet(router, vip, 0, chain + found)
        assert pinning.program.run(frame(outer)) == place_of((client,), OURS, KEY, PLACES)
    echo = packet(router, vip, 1 if version == 4 else 58, b"\x80\0" * 30 if version == 6 else b"\x08\0" * 30)
    assert pinning.program.run(frame(echo)) == place_of((router,), OURS, KEY, PLACES)


def test_addresses_come_and_go(pinning: Pinning) -> None:
    """Ours is what was added and kept; an address that ceases to be ours counts again."""
    fresh = Pinning(KEY)
    try:
        client, vip = CLIENTS[4], VIPS[4]
        sent = frame(packet(client, vip, 17, bytes(8)))
        fresh.add([vip, MEMBERS[6]])
        assert fresh.program.run(sent) == place_of((client,), (), KEY, PLACES)
        fresh.keep([MEMBERS[6]])
        assert fresh.program.run(sent) == place_of((client, vip), (), KEY, PLACES)
    finally:
        fresh.close()
    assert pinning.program.run(sent) == place_of((client,), (), KEY, PLACES)


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_clients_are_spread(workers: int) -> None:
    """Neighbouring addresses are spread evenly: no worker has twice another's share."""
    shares = Counter(
        (end_hash(IPv4Address(0x0A00_0000 + number), KEY) >> 32) % workers for number in range(1_000 * workers)
    )
    assert len(shares) == workers
    assert max(shares.values()) < 1.2 * min(shares.values())
