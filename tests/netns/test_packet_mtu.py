"""Sizes and checksums on the wire: narrow links on either side, jumbo frames, devices without offloads."""

import asyncio
import hashlib
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import pytest

from asynclb.lab import PATIENCE_S, STANDARD, Host, Lab, Site
from asynclb.lab.topology import Topology
from tests.netns.packet_site import (
    VIPS,
    Frames,
    UdpMembers,
    ask,
    crc32c,
    ha_rule,
    ones_complement,
    packets,
    rule,
    wrong_checksum,
)
from tests.netns.proxy_site import BOTH, Members, greet
from tests.netns.spokes import SERVICE, Spokes
from tests.unit.proxy.wire import Listener, Wire, connect
from tests.unit.proxy.world import member, row

NARROW = 1300  # links of IPv6 carry at least 1,280
MEGABYTE = hashlib.shake_128(b"a megabyte").digest(1 << 20)
IP_MTU = {4: (socket.IPPROTO_IP, 14), 6: (socket.IPPROTO_IPV6, 24)}
RAW = {"SCTP": 132, "GRE": 47}


@dataclass(frozen=True, slots=True)
class Chain:
    """client - near1 - near2 - lb - far1 - far2 - member, each link 1,500 bytes wide but for one."""

    client: Host
    lb: Host
    member: Host

    @classmethod
    async def build(cls, lab: Lab, narrow: str) -> Self:
        """Bring it up with a narrow link."""
        names = ("client", "near1", "near2", "lb", "far1", "far2", "member")
        hosts = [lab.host(name, forwarding=name not in ("client", "member")) for name in names]
        for n, (left, right) in enumerate(pairwise(hosts), 1):
            mtu = NARROW if f"{left.name}-{right.name}" == narrow else 1500
            lab.link(left, f"10.7.{n}.1/24 fd07:{n}::1/64", right, f"10.7.{n}.2/24 fd07:{n}::2/64", mtu=mtu)
        for n, host in enumerate(hosts, 1):
            if host.name in ("client", "near1", "near2"):
                host.route("default", via=f"10.7.{n}.2")
                host.route("default", via=f"fd07:{n}::2")
            if host.name in ("member", "far1", "far2"):
                host.route("default", via=f"10.7.{n - 1}.1")
                host.route("default", via=f"fd07:{n - 1}::1")
        ways = {"lb": ((1, 3, 1), (2, 3, 1), (5, 4, 2), (6, 4, 2)), "near2": ((1, 2, 1),), "far1": ((6, 5, 2),)}
        for name, routes in ways.items():
            for network, link, end in routes:
                lab.hosts[name].route(f"10.7.{network}.0/24", via=f"10.7.{link}.{end}")
                lab.hosts[name].route(f"fd07:{network}::/64", via=f"fd07:{link}::{end}")
        await lab.up()
        return cls(hosts[0], lab.hosts["lb"], hosts[-1])


def path_mtu(wire: Wire, version: int) -> int:
    """Return what the kernel knows of the path of a connection."""
    return wire.sock.getsockopt(*IP_MTU[version])


@BOTH
@pytest.mark.parametrize("narrow", ["near1-near2", "near2-lb", "lb-far1", "far1-far2"])
@pytest.mark.parametrize("offload", [True, False], ids=["offloads", "plain"])
async def test_a_megabyte_over_a_narrow_link(version: int, narrow: str, offload: bool) -> None:
    """Whoever sends is told how narrow the path is, by a router whose error the balancer hands on, or by itself."""
    target = {4: "10.7.6.2", 6: "fd07:6::2"}[version]
    async with Lab("narrow", offload=offload) as lab:
        chain = await Chain.build(lab, narrow)
        with ExitStack() as stack:
            captures = [stack.enter_context(Frames(host)) for host in (chain.client, chain.member)]
            async with packets(chain.lb) as balancer:
                await balancer.apply(row(VIPS[version], 80, [member("member", target)], 8080))
                listener = stack.enter_context(Listener(target, 8080, host=chain.member))
                client = stack.enter_context(await connect(VIPS[version], 80, host=chain.client))
                accepted = stack.enter_context(await listener.accept())
                for sender, receiver in ((client, accepted), (accepted, client)):
                    sending = asyncio.create_task(sender.send(MEGABYTE))
                    assert await receiver.exactly(len(MEGABYTE)) == MEGABYTE
                    await sending
                known = path_mtu(client, version), path_mtu(accepted, version)
            frames = [frame for capture in captures for frame in capture.received()]
    assert known == (NARROW, NARROW)
    errors = [frame for frame in frames if is_too_big(frame, version)]
    assert errors
    if not offload:
        assert [(wrong, frame.hex()) for frame in frames if (wrong := wrong_checksum(frame))] == []


@BOTH
async def test_a_narrow_link_behind_appliances(lab: Lab, version: int) -> None:
    """A router's error passes the appliance that knows the flow inside, which lets it through as part of that flow."""
    spokes = await Spokes.build(lab)
    router, middle, far = spokes.ends[1], lab.host("middle", forwarding=True), lab.host("far")
    lab.link(router, "10.8.1.1/24 fd08:1::1/64", middle, "10.8.1.2/24 fd08:1::2/64", mtu=NARROW)
    lab.link(middle, "10.8.2.1/24 fd08:2::1/64", far, "10.8.2.2/24 fd08:2::2/64")
    for host, network, via in (
        (spokes.hub, "10.8.0.0/16", "10.1.2.10"),
        (spokes.hub, "fd08::/16", "fd00:2::10"),
        (router, "10.8.2.0/24", "10.8.1.2"),
        (router, "fd08:2::/64", "fd08:1::2"),
        (middle, "default", "10.8.1.1"),
        (middle, "default", "fd08:1::1"),
        (far, "default", "10.8.2.1"),
        (far, "default", "fd08:2::1"),
    ):
        host.route(network, via=via)
    router.sysctl("net.ipv4.ip_forward", 1)
    router.sysctl("net.ipv6.conf.all.forwarding", 1)
    await lab.up()
    target = {4: "10.8.2.2", 6: "fd08:2::2"}[version]
    async with packets(spokes.hub) as balancer:
        await balancer.apply(*spokes.rows(version))
        for _ in range(4):
            with (
                Listener(target, SERVICE, host=far) as listener,
                await connect(target, SERVICE, host=spokes.ends[0]) as client,
                await listener.accept() as accepted,
            ):
                sending = asyncio.create_task(client.send(MEGABYTE))
                assert await accepted.exactly(len(MEGABYTE)) == MEGABYTE
                await sending
                assert path_mtu(client, version) == NARROW
                client.reset()
            await spokes.ends[0].check_output("ip", f"-{version}", "route", "flush", "cache")
    assert await spokes.strange() == 0


def is_too_big(frame: bytes, version: int) -> bool:
    """Return whether a frame says that a packet did not fit."""
    if version == 4:
        return frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34:36] == b"\x03\x04"
    return frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 2


@BOTH
async def test_jumbo_frames(version: int) -> None:
    """On links of 9,000 bytes, segments and datagrams of that size pass in both directions, each as one frame."""
    async with Lab("jumbo", offload=False) as lab:
        site = await Topology(mtu=9000).build(lab)
        with ExitStack() as stack:
            captures = [stack.enter_context(Frames(host)) for host in (*site.clients, *site.members)]
            async with packets(site.lb) as balancer:
                await balancer.apply(rule(site, version), ha_rule(site, version))
                with Members(site, version) as members, UdpMembers(site, version, port=53):
                    async with members.joined(site.clients[0], VIPS[version]) as (client, accepted):
                        for sender, receiver in ((client, accepted), (accepted, client)):
                            sending = asyncio.create_task(sender.send(MEGABYTE))
                            assert await receiver.exactly(len(MEGABYTE)) == MEGABYTE
                            await sending
                    with site.clients[0].udp(VIPS[version], 53) as sock:
                        await ask(sock, bytes(8900))
            frames = [[frame for frame in capture.received() if len(frame) > 8000] for capture in captures]
    assert max(len(frame) for found in frames for frame in found) == 9014
    assert len(frames[0]) > 100
    assert sum(len(found) for found in frames[2:]) > 100
    assert [wrong for found in frames for frame in found if (wrong := wrong_checksum(frame))] == []


def gre(payload: bytes) -> bytes:
    """Return a GRE packet with a checksum. Source: RFC 2784."""
    head, rest = struct.pack("!HH", 0x8000, 0x0800), bytes(2) + payload
    return head + struct.pack("!H", 0xFFFF - ones_complement(head + bytes(2) + rest)) + rest


def sctp(source_port: int, destination_port: int, payload: bytes) -> bytes:
    """Return an SCTP packet with one chunk of data. Source: RFC 9260."""
    head = struct.pack("!HHI", source_port, destination_port, 1)
    chunk = struct.pack("!BBH", 0, 3, 4 + len(payload)) + payload
    return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def answered(packet: bytes) -> bytes:
    """Return an SCTP packet that sends the data back."""
    source_port, destination_port = struct.unpack_from("!HH", packet)
    return sctp(destination_port, source_port, packet[16:])


@contextmanager
def echoes(site: Site, version: int, protocol: int) -> Iterator[list[str]]:
    """Let every member send back what comes by a protocol; yield who did."""
    loop, served = asyncio.get_running_loop(), list[str]()

    def answer(name: str, sock: socket.socket) -> None:
        with suppress(BlockingIOError):
            data, peer = sock.recvfrom(65536)
            served.append(name)
            packet = payload_of(data, version)
            sock.sendto(answered(packet) if protocol == RAW["SCTP"] else packet, peer)

    with ExitStack() as stack:
        for host in site.members:
            sock = stack.enter_context(raw(host, version, protocol))
            loop.add_reader(sock, answer, host.name, sock)
            stack.callback(loop.remove_reader, sock)
        yield served


def raw(host: Host, version: int, protocol: int) -> socket.socket:
    """Return a raw socket of a host."""
    sock = host.open_socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_RAW, protocol)
    sock.setblocking(False)
    return sock


def payload_of(data: bytes, version: int) -> bytes:
    """Return what a raw socket received without the header that IPv4's come with."""
    return data[4 * (data[0] & 15) :] if version == 4 else data


@BOTH
async def test_checksums_of_every_protocol_without_offloads(version: int) -> None:
    """HA ports that translate: TCP, UDP, ping, SCTP and GRE arrive with right checksums at members and at clients."""
    async with Lab("plain", offload=False) as lab:
        site = await STANDARD.build(lab)
        with ExitStack() as stack:
            captures = [stack.enter_context(Frames(host)) for host in (*site.clients, *site.members)]
            async with packets(site.lb) as balancer:
                await balancer.apply(ha_rule(site, version))
                with Members(site, version, port=22) as members, UdpMembers(site, version, port=53):
                    async with members.joined(site.clients[0], VIPS[version], 22) as (client, accepted):
                        await greet(client, accepted)
                    with site.clients[0].udp(VIPS[version], 53) as sock:
                        await ask(sock, b"odd")
                await site.clients[0].check_output("ping", "-c", "3", "-i", "0.05", "-W", "5", VIPS[version])
                for name, protocol in RAW.items():
                    with echoes(site, version, protocol) as served, raw(site.clients[0], version, protocol) as sock:
                        packet = sctp(4711, 7, b"a chunk of data!") if name == "SCTP" else gre(b"an odd packet")
                        sock.connect((VIPS[version], 0))
                        sock.send(packet)
                        async with asyncio.timeout(PATIENCE_S):
                            back = await asyncio.get_running_loop().sock_recv(sock, 65536)
                        assert payload_of(back, version) == (answered(packet) if name == "SCTP" else packet)
                        assert len(served) == 1
            frames = [capture.received() for capture in captures]
    for received in (frames[0], [frame for found in frames[2:] for frame in found]):
        assert [(wrong, frame.hex()) for frame in received if (wrong := wrong_checksum(frame))] == []
        protocols = {frame[23] if version == 4 else frame[20] for frame in received if is_ip(frame, version)}
        assert protocols >= {6, 17, 1 if version == 4 else 58, 132, 47}


def is_ip(frame: bytes, version: int) -> bool:
    """Return whether a frame is of a family."""
    return frame[12:14] == (b"\x08\x00" if version == 4 else b"\x86\xdd")


def test_what_is_wrong_is_seen() -> None:
    """The witness finds every kind of wrong checksum, or it would be none."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 0, 1, 0, 64, 0, 0)
    for protocol, body in ((132, sctp(1, 2, b"data")), (47, gre(b"data")), (17, struct.pack("!HHHH", 1, 2, 8, 7))):
        ip = head[:2] + struct.pack("!H", 20 + len(body)) + head[4:9] + bytes((protocol,)) + bytes(2) + bytes(8)
        ip = ip[:10] + struct.pack("!H", 0xFFFF - ones_complement(ip)) + ip[12:]
        frame = bytes(12) + b"\x08\x00" + ip + body
        assert wrong_checksum(frame) == (None if protocol != 17 else "protocol 17")
        assert wrong_checksum(frame[:-1] + bytes((frame[-1] ^ 1,))) == f"protocol {protocol}"
        assert wrong_checksum(frame[:20] + b"\xff" + frame[21:]) == "IPv4 header"
