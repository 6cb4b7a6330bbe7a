"""What does not fit the balancer's own links: senders are told, and go on with what fits."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from asynclb.lab import STANDARD, Host, Lab, Site
from asynclb.lab.namespace import ip_batch
from asynclb.net.drop import Drop
from tests.netns.balancer import Balancer
from tests.netns.packet_site import VIPS, UdpMembers, ask, once, packets, rule, udp_rule
from tests.netns.proxy_site import BOTH, Members
from tests.unit.proxy.wire import Wire

NARROW = 1_300
BLOCK = hashlib.shake_128(b"narrow").digest(300_000)
DONT_FRAGMENT = {4: (socket.IPPROTO_IP, 10, 2), 6: (socket.IPPROTO_IPV6, 23, 2)}  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
PATH_MTU = {4: (socket.IPPROTO_IP, 14), 6: (socket.IPPROTO_IPV6, 24)}


@pytest.fixture
async def balancer(site: Site) -> AsyncIterator[Balancer]:
    """Give the test the packet datapath on the balancer's host."""
    async with packets(site.lb) as found:
        yield found


Run = Callable[[Host], AbstractAsyncContextManager[Balancer]]
"""A datapath on a host."""


async def pour(source: Wire, sink: Wire) -> None:
    """Send a block and check that it arrives."""
    sending = asyncio.create_task(source.send(BLOCK))
    assert await sink.exactly(len(BLOCK)) == BLOCK
    await sending


async def streams(run: Run, version: int, narrow: str, *, offload: bool) -> None:
    """Send a stream towards the narrow side of a balancer, and check that it arrives and that its sender learnt."""
    async with Lab("ownmtu", offload=offload) as lab:
        site = await STANDARD.build(lab)
        ip_batch([f"link set dev {narrow} mtu {NARROW}"], namespace=site.lb.namespace)
        async with run(site.lb) as balancer:
            await balancer.apply(rule(site, version))
            with Members(site, version) as members:
                async with members.joined(site.clients[0], VIPS[version]) as (client, accepted):
                    sender, other = (accepted, client) if narrow == "front" else (client, accepted)
                    await pour(sender, other)
                    assert sender.sock.getsockopt(*PATH_MTU[version]) == NARROW
            assert (await balancer.counters()).drops[Drop.TOO_BIG] >= 1


@BOTH
@pytest.mark.parametrize("offload", [pytest.param(True, id="segmented later"), pytest.param(False, id="whole frames")])
@pytest.mark.parametrize("narrow", ["front", "back"])
async def test_streams_over_a_narrow_link_of_our_own(version: int, offload: bool, narrow: str) -> None:
    """Whichever side is narrow, a stream towards it arrives, and so does one away from it."""
    await streams(packets, version, narrow, offload=offload)


@BOTH
async def test_a_datagram_that_does_not_fit(site: Site, balancer: Balancer, version: int) -> None:
    """Its sender learns the size that does."""
    ip_batch([f"link set dev back mtu {NARROW}"], namespace=site.lb.namespace)
    await balancer.apply(udp_rule(site, version))
    await hears_what_fits(site, version)


async def hears_what_fits(site: Site, version: int) -> None:
    """Check that a client whose datagram does not fit learns the size that does, and goes on with that."""
    with UdpMembers(site, version), site.clients[0].udp(VIPS[version], 53) as sock:
        sock.setsockopt(*DONT_FRAGMENT[version])
        await ask(sock)
        with pytest.raises(OSError, match="Message too long"):
            await once(sock, bytes(1_400), wait_s=2)
        assert sock.getsockopt(*PATH_MTU[version]) == NARROW
        await ask(sock, bytes(1_200))


async def test_a_datagram_that_may_be_fragmented(site: Site, balancer: Balancer) -> None:
    """Fragmenting is its sender's business: it is dropped, counted, and nobody is told."""
    ip_batch([f"link set dev back mtu {NARROW}"], namespace=site.lb.namespace)
    await balancer.apply(udp_rule(site))
    with UdpMembers(site), site.clients[0].udp(VIPS[4], 53) as sock:
        sock.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_PMTUDISC_DONT
        await ask(sock)
        assert await once(sock, bytes(1_400), wait_s=0.3) is None
    await balancer.until_dropped(Drop.TOO_BIG)
