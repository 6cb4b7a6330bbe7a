"""The packet datapath between real hosts: what arrives, from whom, and that it arrives whole."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from asynclb.lab import PATIENCE_S, STANDARD, Lab, Site
from asynclb.lab.namespace import ip_batch
from asynclb.net.drop import Drop
from asynclb.tables.row import Delivery
from tests.netns.balancer import Balancer
from tests.netns.packet_site import (
    BACKEND_PORT,
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
from tests.unit.proxy.wire import Listener, Wire, connect
from tests.unit.proxy.world import member, row


@pytest.fixture
async def balancer(site: Site) -> AsyncIterator[Balancer]:
    """Give the test the packet datapath on the balancer's host."""
    async with packets(site.lb) as found:
        yield found


@BOTH
async def test_members_see_the_client(site: Site, balancer: Balancer, version: int) -> None:
    """By TCP and by UDP a member sees the client's own address and port, and the client sees the VIP."""
    await balancer.apply(rule(site, version), udp_rule(site, version))
    with Members(site, version) as members, UdpMembers(site, version):
        for host in site.clients:
            async with members.joined(host, VIPS[version]) as (client, accepted):
                assert accepted.peer == client.name
                assert accepted.name[1] == BACKEND_PORT
                await greet(client, accepted)
            with host.udp(VIPS[version], 53) as sock:
                _, address, port = await ask(sock)
                assert (address, port) == sock.getsockname()[:2]
                assert address == address_of(host, version)
    found = (await balancer.counters()).rules
    assert (found["web"].new_flows, found["web"].syn, found["dns"].new_flows) == (2, 2, 2)
    assert {flow.protocol for flow in await balancer.flows()} == {"tcp", "udp"}


@BOTH
async def test_every_port_of_an_address(site: Site, balancer: Balancer, version: int) -> None:
    """One HA-ports rule takes TCP and UDP on any port and echo requests, all with the client's address."""
    await balancer.apply(ha_rule(site, version))
    for port in (22, 443, 50_001):
        with Members(site, version, port=port) as members, UdpMembers(site, version, port=port):
            async with members.joined(site.clients[0], VIPS[version], port) as (client, accepted):
                assert accepted.peer == client.name
                await greet(client, accepted)
            with site.clients[0].udp(VIPS[version], port) as sock:
                assert (await ask(sock))[1:] == sock.getsockname()[:2]
    await site.clients[0].check_output("ping", "-c", "3", "-i", "0.05", "-W", "5", VIPS[version])


@BOTH
async def test_floating_members_answer_themselves(site: Site, balancer: Balancer, version: int) -> None:
    """With floating IP the member's own address is the VIP, on its loopback; its answers do not pass the rule."""
    vip = VIPS[version]
    for host in site.members:
        ip_batch([f"addr add {vip}/{128 if version == 6 else 32} dev lo"], namespace=host.namespace)
    floating: dict[str, Any] = {"delivery": Delivery.FLOATING, "floating_ip": True}
    await balancer.apply(rule(site, version, **floating, backend_port=80), ha_rule(site, version, **floating))
    with ExitStack() as stack:
        listeners = [stack.enter_context(Listener(vip, 80, host=host)) for host in site.members]
        client = stack.enter_context(await connect(vip, 80, host=site.clients[0]))
        accepted = stack.enter_context(await first_of(listeners))
        assert accepted.peer == client.name
        await greet(client, accepted)
    with UdpMembers(site, version, port=500, address=vip), site.clients[0].udp(vip, 500) as sock:
        assert (await ask(sock))[1:] == sock.getsockname()[:2]
    assert not (await balancer.counters()).rules["web"].packets_out


async def first_of(listeners: list[Listener]) -> Wire:
    """Return the connection that comes to any of the listeners."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for listener in listeners:
                with suppress(BlockingIOError):
                    return Wire(listener.sock.accept()[0])
            await asyncio.sleep(0.002)


@BOTH
async def test_checksums_on_a_wire_without_offloads(version: int) -> None:
    """Where no device completes checksums, every frame that a member or a client receives has right ones."""
    async with Lab("checksums", offload=False) as lab:
        site = await STANDARD.build(lab)
        with ExitStack() as stack:
            captures = [stack.enter_context(Frames(host)) for host in (*site.clients, *site.members)]
            async with packets(site.lb) as balancer:
                await balancer.apply(rule(site, version), udp_rule(site, version))
                with Members(site, version) as members, UdpMembers(site, version):
                    async with members.joined(site.clients[0], VIPS[version]) as (client, accepted):
                        await greet(client, accepted)
                        await client.send(bytes(range(256)) * 100)
                        await accepted.exactly(25_600)
                    with site.clients[0].udp(VIPS[version], 53) as sock:
                        await ask(sock, b"odd")
            frames = [frame for capture in captures for frame in capture.received()]
    assert len(frames) > 20
    assert [(wrong, frame.hex()) for frame in frames if (wrong := wrong_checksum(frame))] == []


@BOTH
async def test_bulk_arrives_unchanged(site: Site, balancer: Balancer, version: int) -> None:
    """Fifty megabytes in large unsegmented frames arrive as they were sent, in both directions."""
    await balancer.apply(rule(site, version))
    block = hashlib.shake_128(b"seed").digest(1 << 20)
    expected = hashlib.blake2b()
    for _ in range(25):
        expected.update(block)
    with Members(site, version) as members:
        async with members.joined(site.clients[0], VIPS[version]) as (client, accepted):

            async def send(wire: Wire) -> None:
                for _ in range(25):
                    await wire.send(block)
                wire.fin()

            _, _, up, down = await asyncio.gather(send(client), send(accepted), accepted.digest(), client.digest())
    assert up == down == (25 << 20, expected.hexdigest())


@BOTH
async def test_datagrams_in_fragments(site: Site, balancer: Balancer, version: int) -> None:
    """A datagram of 4,000 bytes and its answer arrive, each in three fragments, for a rule and for HA ports."""
    data = hashlib.shake_128(b"fragments").digest(4_000)
    for found, port in ((udp_rule(site, version), 53), (ha_rule(site, version), BACKEND_PORT)):
        await balancer.apply(found)
        with UdpMembers(site, version) as members, site.clients[0].udp(VIPS[version], port) as sock:
            for _ in range(5):
                await ask(sock, data)
            assert len(set(members.served)) == 1


@BOTH
async def test_path_mtu_discovery(site: Site, balancer: Balancer, version: int) -> None:
    """A smaller MTU behind the balancer is told to the client, whose stream arrives whole."""
    member_host, router = site.members[:2]
    far = {4: "10.0.9.1", 6: "2001:db8:9::1"}[version]
    ip_batch([f"addr add {far}/{32 if version == 4 else 128} dev lo"], namespace=member_host.namespace)
    ip_batch([f"route add {far} via {address_of(router, version)}"], namespace=site.lb.namespace)
    lock = "lock " if version == 4 else ""
    ip_batch([f"route add {far} via {address_of(member_host, version)} mtu {lock}1300"], namespace=router.namespace)
    key = "net.ipv4.ip_forward" if version == 4 else "net.ipv6.conf.all.forwarding"
    router.sysctl(key, 1)
    router.sysctl("net.ipv4.conf.all.send_redirects", 0)
    await router.up()
    await site.clients[0].turn_off_offloads("front")
    await balancer.apply(row(VIPS[version], 80, [member("be1", far)], BACKEND_PORT))
    with (
        Listener(far, BACKEND_PORT, host=member_host) as listener,
        await connect(VIPS[version], 80, host=site.clients[0]) as client,
        await listener.accept() as accepted,
    ):
        block = bytes(range(256)) * 400
        sending = asyncio.create_task(client.send(block))
        assert await accepted.exactly(len(block)) == block
        await sending
        mtu = client.sock.getsockopt(*{4: (socket.IPPROTO_IP, 14), 6: (socket.IPPROTO_IPV6, 24)}[version])  # IP_MTU
    assert mtu == 1300


async def test_sources_that_are_not_allowed(site: Site, balancer: Balancer) -> None:
    """A client outside the allow list gets no answer and is counted; one inside is served."""
    await balancer.apply(rule(site, allow=[f"{address_of(site.clients[0])}/32"]))
    with Members(site) as members:
        with pytest.raises(TimeoutError):
            await connect(VIPS[4], 80, host=site.clients[1], wait_s=0.3)
        async with members.joined(site.clients[0], VIPS[4]) as (client, accepted):
            await greet(client, accepted)
    assert (await balancer.counters()).drops[Drop.SOURCE_NOT_ALLOWED] >= 1


@BOTH
async def test_a_member_reaches_its_own_vip(site: Site, balancer: Balancer, version: int) -> None:
    """Every connection of a member to the VIP works, those that lead back to itself and those to its neighbours."""
    await balancer.apply(rule(site, version))
    with Members(site, version) as members, ExitStack() as stack:
        for client, accepted in await members.join_each(stack, site.members[0], VIPS[version]):
            await greet(client, accepted)
