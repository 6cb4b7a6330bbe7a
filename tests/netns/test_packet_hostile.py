"""Frames that nobody sends in good faith, put on a real wire: what becomes of them, and that others notice nothing."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from asynclb.datapath.base import Counters
from asynclb.datapath.packet import crew
from asynclb.datapath.packet.engine import Engine
from asynclb.lab import PATIENCE_S, Host, Lab, Site
from asynclb.lab.namespace import ip_batch
from asynclb.net.drop import Drop
from asynclb.tables.row import Delivery
from tests.netns.balancer import Balancer
from tests.netns.packet_site import (
    VIPS,
    Frames,
    UdpMembers,
    address_of,
    ask,
    ha_rule,
    packets,
    rule,
    udp_rule,
    wrong_checksum,
)
from tests.netns.proxy_site import BOTH, Members, greet
from tests.netns.spokes import SERVICE, Spokes, Talks
from tests.unit.core.world import Packet, changed, tcp, udp
from tests.unit.proxy.wire import connect

MARK = b"put on the wire by hand"
MORE = 0x2000  # in `fragment`: others follow
FLOOD = 2000


@pytest.fixture
async def balancer(site: Site) -> AsyncIterator[Balancer]:
    """Give the test the packet datapath on the balancer's host."""
    async with packets(site.lb) as found:
        yield found


async def cables(lab: Lab) -> Site:
    """Return a client and a member on cables of their own: switches may look into packets and drop what is broken."""
    lb, client, host = lab.host("lb", forwarding=True), lab.host("cli1"), lab.host("be1")
    lab.link(client, "10.0.1.11/24 2001:db8:1::11/64", lb, "10.0.1.1/24 2001:db8:1::1/64")
    lab.link(lb, "10.0.2.1/24 2001:db8:2::1/64", host, "10.0.2.11/24 2001:db8:2::11/64")
    for end, gateways in ((client, ("10.0.1.1", "2001:db8:1::1")), (host, ("10.0.2.1", "2001:db8:2::1"))):
        for gateway in gateways:
            end.route("default", via=gateway)
    await lab.up()
    return Site(lb, (client,), (host,))


async def link_of(host: Host, device: str) -> bytes:
    """Return the link address of an interface."""
    text = await host.check_output("cat", f"/sys/class/net/{device}/address")
    return bytes.fromhex(text.strip().replace(":", ""))


class Wire:
    """Puts whole frames on a wire. Owner: a test."""

    def __init__(self, host: Host, device: str, ours: bytes, theirs: bytes) -> None:
        self.sock = host.open_socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.sock.bind((device, 0))
        self.links: dict[str, Any] = {"to": theirs, "via": ours}

    @classmethod
    async def to_balancer(cls, site: Site, *, cable: bool = False) -> "Wire":
        """Return the wire of the first client, which is on the clients' switch or on a cable."""
        host = site.clients[0]
        here, there = ("lb", "cli1") if cable else ("front", "front")
        return cls(host, here, await link_of(host, here), await link_of(site.lb, there))

    def put(self, *frames: bytes | Packet) -> None:
        """Send frames as they are."""
        for frame in frames:
            self.sock.send(bytes(replace(frame, **self.links) if isinstance(frame, Packet) else frame))

    def close(self) -> None:
        """Close it."""
        self.sock.close()


def at(packet: Packet, links: dict[str, Any], offset: int, value: bytes) -> bytes:
    """Return the packet's frame with other bytes at an offset behind the link header."""
    return changed(bytes(replace(packet, **links)), 14 + offset, value)


def cut(packet: Packet, links: dict[str, Any], size: int) -> bytes:
    """Return the packet's frame with only so many bytes behind the link header."""
    return bytes(replace(packet, **links))[: 14 + size]


Make = Callable[[dict[str, Any]], bytes]


def hostile(version: int, source: str) -> list[tuple[Make, Drop]]:
    """Return frames that are dropped, each with the reason."""
    vip, head = VIPS[version], {4: 20, 6: 40}[version]
    good, datagram = tcp(source, 7, vip, 80, payload=MARK), udp(source, 7, vip, 53, MARK)
    size = {4: 2, 6: 4}[version]  # where the length of the packet stands
    found: list[tuple[Make, Drop]] = [
        (partial(cut, good, size=head + 4), Drop.TRUNCATED),
        (partial(cut, good, size=head + 30), Drop.TRUNCATED),
        (partial(at, good, offset=size, value=b"\xff\xff"), Drop.TRUNCATED),
        (partial(at, good, offset=0, value=b"\x55"), Drop.BAD_HEADER),
        (partial(at, good, offset=head + 12, value=b"\x40"), Drop.BAD_HEADER),
        (partial(at, good, offset=head + 12, value=b"\xf0"), Drop.BAD_HEADER),
        (partial(at, datagram, offset=head + 4, value=b"\0\x07"), Drop.BAD_HEADER),
        (partial(at, datagram, offset=head + 4, value=b"\xff\xff"), Drop.BAD_HEADER),
        (partial(at, tcp(vip, 80, vip, 80, payload=MARK), offset=0, value=b""), Drop.LAND),
        (partial(at, Packet(source, vip, 6, MARK[:8], fragment=MORE), offset=0, value=b""), Drop.FRAGMENT_TINY),
    ]
    martians = {
        4: ("127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"),
        6: ("::1", "::", "ff02::1", "::ffff:1.2.3.4"),
    }
    found += [(partial(at, udp(m, 7, vip, 53, MARK), offset=0, value=b""), Drop.MARTIAN) for m in martians[version]]
    if version == 4:
        found += [
            (partial(at, good, offset=0, value=b"\x44"), Drop.BAD_HEADER),
            (partial(at, good, offset=2, value=b"\0\x13"), Drop.BAD_HEADER),
            (partial(at, tcp(source, 7, vip, 80), offset=0, value=b"\x4f"), Drop.BAD_HEADER),
        ]
    else:
        chain = Packet(source, vip, 60, (b"\x3c\0" + bytes(6)) * 9, raw=True)
        endless = Packet(source, vip, 60, b"\x06\xff" + bytes(6), raw=True)
        found += [(partial(at, chain, offset=0, value=b""), Drop.EXTENSION_HEADERS)]
        found += [(partial(at, endless, offset=0, value=b""), Drop.TRUNCATED)]
    return found


@BOTH
async def test_what_cannot_go_on_is_dropped_with_its_reason(lab: Lab, version: int) -> None:
    """Truncated and lying headers, land packets, martians: counted, seen by no member, answered by nobody."""
    site = await cables(lab)
    wire = await Wire.to_balancer(site, cable=True)
    frames = hostile(version, address_of(site.clients[0], version))
    wanted = {reason: sum(1 for _, other in frames if other is reason) for _, reason in frames}
    with ExitStack() as stack:
        stack.callback(wire.close)
        captures = [stack.enter_context(Frames(host)) for host in (*site.clients, *site.members)]
        async with packets(site.lb) as balancer:
            await balancer.apply(rule(site, version), udp_rule(site, version))
            for make, _ in frames:
                wire.put(make(wire.links))
            await is_served(site, version)
            counters = await balancer.counters()
        assert {reason: count for reason, count in counters.drops.items() if count} == wanted
        assert counters.flows == 2, "only those who were served"
        assert not [frame for capture in captures for frame in capture.received() if MARK[:8] in frame]


async def is_served(site: Site, version: int) -> None:
    """Check that everybody else is served by TCP and UDP."""
    with Members(site, version) as members, UdpMembers(site, version):
        async with members.joined(site.clients[-1], VIPS[version]) as (client, accepted):
            await greet(client, accepted)
        with site.clients[-1].udp(VIPS[version], 53) as sock:
            await ask(sock)


@BOTH
async def test_what_is_odd_but_whole_goes_on_as_it_is(lab: Lab, version: int) -> None:
    """A wrong checksum stays wrong, a TTL of 1 stays 1, and padding behind the packet does no harm."""
    site = await cables(lab)
    wire = await Wire.to_balancer(site, cable=True)
    head, ttl = {4: (20, 8), 6: (40, 7)}[version]
    datagram = udp(address_of(site.clients[0], version), 7, VIPS[version], 53, MARK)
    with ExitStack() as stack:
        stack.callback(wire.close)
        capture = stack.enter_context(Frames(site.members[0]))
        async with packets(site.lb) as balancer:
            await balancer.apply(udp_rule(site, version))
            wrong = at(datagram, wire.links, head + 6, b"\x12\x34")
            old = at(datagram, wire.links, ttl, b"\x01")
            wire.put(wrong, old, bytes(replace(datagram, **wire.links)) + bytes(9))
            await balancer.until(lambda counters: counters.rules["dns"].packets_in >= 3, "all forwarded")
            await asyncio.sleep(0.05)
        found = [frame for frame in capture.received() if MARK in frame]
    assert len(found) == 3
    transport = "protocol 17"
    assert wrong_checksum(found[0]) == transport
    assert found[1][14 + ttl] == 1
    if version == 4:
        assert wrong_checksum(found[1]) == "IPv4 header"  # it was not made anew for the other TTL, and is not mended
    assert wrong_checksum(found[2]) is None


@BOTH
async def test_frames_for_others(site: Site, balancer: Balancer, version: int) -> None:
    """What has another host's link address, a broadcast's or a VLAN that nobody has, reaches no member."""
    await balancer.apply(udp_rule(site, version))
    wire = await Wire.to_balancer(site)
    datagram = udp(address_of(site.clients[0], version), 7, VIPS[version], 53, MARK)
    with ExitStack() as stack:
        stack.callback(wire.close)
        captures = [stack.enter_context(Frames(host)) for host in site.members]
        for link in (b"\x02\0\0\0\0\x99", b"\xff" * 6, b"\x33\x33\0\0\0\x01"):
            wire.put(bytes(replace(datagram, to=link, via=wire.links["via"])))
        await is_served_by_udp(site, version)
        assert not [frame for capture in captures for frame in capture.received() if MARK in frame]
    assert (await balancer.counters()).rules["dns"].new_flows == 1


async def is_served_by_udp(site: Site, version: int) -> None:
    """Check that a datagram is answered."""
    with UdpMembers(site, version), site.clients[1].udp(VIPS[version], 53) as sock:
        await ask(sock)


@BOTH
async def test_fragments_that_overlap_and_that_never_end(site: Site, balancer: Balancer, version: int) -> None:
    """Overlapping ones go where their first went; lost ones are dropped after a while; whole ones pass meanwhile."""
    await balancer.apply(udp_rule(site, version))
    wire = await Wire.to_balancer(site)
    source = address_of(site.clients[0], version)
    body = struct.pack("!HHHH", 7, 53, 8 + 64, 0) + MARK.ljust(24, b".") + bytes(16)
    make = partial(Packet, source, VIPS[version], 17, raw=True)
    with ExitStack() as stack:
        stack.callback(wire.close)
        captures = [stack.enter_context(Frames(host)) for host in site.members]
        for number in range(12):
            first = make(body, fragment=MORE, identification=100 + number)
            wire.put(
                first,
                *(
                    make(MARK.ljust(24, b"."), fragment=offset, identification=100 + number)
                    for offset in (2, 3, 0x2001)
                ),
            )
        for number in range(3000):
            wire.put(make(MARK.ljust(24, b"."), fragment=5, identification=10_000 + number))
            if number % 50 == 0:
                await asyncio.sleep(0.005)  # no faster than the ring takes them
        with UdpMembers(site, version), site.clients[1].udp(VIPS[version], 53) as sock:
            for _ in range(3):
                await ask(sock, bytes(4000))
        await asyncio.sleep(1.2)
        with UdpMembers(site, version), site.clients[1].udp(VIPS[version], 53) as sock:
            await ask(sock, bytes(4000))
        received = [[frame for frame in capture.received() if MARK in frame] for capture in captures]
    assert [len(found) for found in received if found] == [48], "one member has them all: they are of one flow"
    await balancer.until(lambda counters: counters.drops[Drop.FRAGMENT_LOST] > 2900, "the others are given up")


@BOTH
async def test_a_hop_limit_ends_at_the_appliance(lab: Lab, version: int) -> None:
    """The balancer is no hop: a packet with one hop left reaches the appliance, which tells the sender."""
    spokes = await Spokes.build(lab)
    option = {4: (socket.IPPROTO_IP, socket.IP_TTL), 6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)}[version]
    received_errors = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}[version]  # IP_RECVERR, IPV6_RECVERR
    async with packets(spokes.hub) as balancer:
        await balancer.apply(*spokes.rows(version))
        with spokes.ends[0].udp(spokes.address(1, version), SERVICE) as sock:
            sock.setsockopt(*option, 1)
            sock.setsockopt(*received_errors, 1)
            sock.send(b"?")
            async with asyncio.timeout(PATIENCE_S):
                while not (offender := told_by(sock, version)):
                    await asyncio.sleep(0.01)
    inner = {4: "10.0.0.{}", 6: "fd00:a::{}"}[version]
    assert offender in {inner.format(10 + n) for n in (1, 2, 3)}


def told_by(sock: socket.socket, version: int) -> str:
    """Return who sent the error in a socket's queue, '' for none. Source: ip(7), SO_EE_OFFENDER."""
    try:
        _, ancillary, _, _ = sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
    except BlockingIOError:
        return ""
    data = ancillary[0][2][16:]  # behind struct sock_extended_err
    raw = data[4:8] if version == 4 else data[8:24]
    return socket.inet_ntop(socket.AF_INET if version == 4 else socket.AF_INET6, raw)


async def flood(wire: Wire, balancer: Balancer, source: str, destination: str, port: int) -> None:
    """Send datagrams of which each begins a flow, no faster than the ring takes them; return when they have passed."""
    before = packets_in(await balancer.counters())
    for number in range(FLOOD):
        wire.put(udp(source, 1024 + number, destination, port, MARK))
        if number % 50 == 0:
            await asyncio.sleep(0.005)
    await balancer.until(lambda counters: packets_in(counters) >= before + FLOOD * 0.9, "the flood has passed")


def packets_in(counters: Counters) -> int:
    """Return how many packets all rules have taken."""
    return sum(rule.packets_in for rule in counters.rules.values())


@pytest.fixture
def small_table(monkeypatch: pytest.MonkeyPatch) -> int:
    """Give the datapath room for few flows, and return for how many."""
    monkeypatch.setattr(crew, "Engine", partial(Engine, 256))
    return 256


@BOTH
async def test_a_flood_of_new_flows_through_appliances(small_table: int, lab: Lab, version: int) -> None:
    """When the table is full, flows that were there go on, and new ones are balanced without state, both ways alike."""
    spokes = await Spokes.build(lab)
    async with packets(spokes.hub) as balancer:
        await balancer.apply(*spokes.rows(version))
        with ExitStack() as stack:
            talks = Talks(spokes, version, stack)
            old = [flow for end in (0, 1) for flow in await talks.begin(end, 4)]
            assert await talks.all_answered(old)
            wire = Wire(spokes.ends[0], "hub", await link_of(spokes.ends[0], "hub"), await link_of(spokes.hub, "end1"))
            stack.callback(wire.close)
            await flood(wire, balancer, spokes.address(0, version), spokes.address(1, version), SERVICE)
            full = await balancer.counters()
            assert small_table * 0.9 < full.flows < small_table * 1.3
            new = [flow for end in (0, 1) for flow in await talks.begin(end, 4)]
            assert await talks.all_answered([*old, *new])
    assert await spokes.strange() == 0


@BOTH
async def test_a_flood_of_new_flows_to_floating_members(
    small_table: int, site: Site, balancer: Balancer, version: int
) -> None:
    """Members that answer themselves serve everybody, with state or without."""
    for host in site.members:
        ip_batch([f"addr add {VIPS[version]}/{32 if version == 4 else 128} dev lo"], namespace=host.namespace)
    await balancer.apply(ha_rule(site, version, delivery=Delivery.FLOATING, floating_ip=True))
    wire = await Wire.to_balancer(site)
    await flood(wire, balancer, address_of(site.clients[0], version), VIPS[version], 9)
    wire.close()
    assert (await balancer.counters()).flows > small_table * 0.9
    with UdpMembers(site, version, port=500, address=VIPS[version]):
        for _ in range(20):
            with site.clients[1].udp(VIPS[version], 500) as sock:
                await ask(sock)


@BOTH
async def test_a_flood_of_new_flows_to_translated_members(
    small_table: int, site: Site, balancer: Balancer, version: int
) -> None:
    """Connections that were there go on while nothing else finds room, and new clients are answered without state."""
    await balancer.apply(rule(site, version), udp_rule(site, version))
    with Members(site, version) as members, UdpMembers(site, version), ExitStack() as stack:
        client = stack.enter_context(await connect(VIPS[version], 80, host=site.clients[1]))
        accepted = stack.enter_context(await members.accept())
        sock = stack.enter_context(site.clients[1].udp(VIPS[version], 53))
        await ask(sock)
        wire = await Wire.to_balancer(site)
        stack.callback(wire.close)
        await flood(wire, balancer, address_of(site.clients[0], version), VIPS[version], 53)
        assert (await balancer.counters()).flows > small_table * 0.9
        await greet(client, accepted)
        await ask(sock)
        for _ in range(20):
            with site.clients[1].udp(VIPS[version], 53) as newcomer:
                await ask(newcomer)
        with await connect(VIPS[version], 80, host=site.clients[1]) as late, await members.accept() as served:
            await greet(late, served)


@BOTH
async def test_a_flood_of_new_flows_to_ha_ports(small_table: int, site: Site, balancer: Balancer, version: int) -> None:
    """New clients of a full HA-ports rule with translation are answered from the VIP, on any port."""
    await balancer.apply(ha_rule(site, version))
    wire = await Wire.to_balancer(site)
    await flood(wire, balancer, address_of(site.clients[0], version), VIPS[version], 9)
    wire.close()
    assert (await balancer.counters()).flows > small_table * 0.9
    with UdpMembers(site, version, port=500):
        for _ in range(20):
            with site.clients[1].udp(VIPS[version], 500) as sock:
                await ask(sock)
