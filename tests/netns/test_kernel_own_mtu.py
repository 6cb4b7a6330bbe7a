"""What does not fit the balancer's own links: BPF tells senders as the packet datapath does."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from asynclb.datapath.core.layout import CONSTANTS
from asynclb.lab import Host, Site
from asynclb.lab.namespace import ip_batch
from asynclb.net.drop import Drop
from tests.netns.balancer import Balancer
from tests.netns.kernel_site import kernel
from tests.netns.packet_site import VIPS, udp_rule
from tests.netns.proxy_site import BOTH
from tests.netns.test_packet_own_mtu import (
    NARROW,
    streams,
    test_a_datagram_that_does_not_fit,
    test_a_datagram_that_may_be_fragmented,
)

PROBING = {4: (socket.IPPROTO_IP, 10, 3), 6: (socket.IPPROTO_IPV6, 23, 3)}
"""IP_MTU_DISCOVER, IP_PMTUDISC_PROBE: what does not fit is sent all the same, and never in fragments."""
FLOOD = 3_000

__all__ = ["test_a_datagram_that_does_not_fit", "test_a_datagram_that_may_be_fragmented"]


@pytest.fixture(params=["tc", "xdp-generic"])
async def balancer(site: Site, request: pytest.FixtureRequest) -> AsyncIterator[Balancer]:
    """Give the test the kernel datapath on the balancer's host, in the place of the packet datapath."""
    async with kernel(site.lb, attach=request.param) as found:
        yield found


@BOTH
@pytest.mark.parametrize("attach", ["tc", "xdp", "xdp-generic"])
@pytest.mark.parametrize("narrow", ["front", "back"])
async def test_streams_over_a_narrow_link_of_our_own(version: int, narrow: str, attach: str) -> None:
    """Whichever side is narrow, a stream towards it arrives, and so does one away from it."""
    await streams(partial(kernel, attach=attach), version, narrow, offload=False)


@BOTH
@pytest.mark.parametrize("narrow", ["front", "back"])
async def test_what_is_segmented_later(version: int, narrow: str) -> None:
    """Large frames of a sender with offloads count by their segments; their checksums are yet to be completed."""
    await streams(partial(kernel, attach="tc"), version, narrow, offload=True)


@BOTH
async def test_a_flood_of_what_does_not_fit(site: Site, balancer: Balancer, version: int) -> None:
    """Senders are told a burst at once and then at a rate, on each processor; all that does not fit is counted."""
    ip_batch([f"link set dev back mtu {NARROW}"], namespace=site.lb.namespace)
    await balancer.apply(udp_rule(site, version))
    client = site.clients[0]
    with _prober(version, client) as sock:
        began = time.monotonic()
        for _ in range(FLOOD):
            sock.sendto(bytes(1_400), (VIPS[version], 53))
        took_ms = (time.monotonic() - began) * 1_000
        await balancer.until(lambda counters: counters.drops[Drop.TOO_BIG] == FLOOD, "every datagram is dropped")
        messages = _told(client, version)
        allowed = CONSTANTS["ICMP_BURST"] + took_ms / CONSTANTS["ICMP_MS"] + 1
        assert CONSTANTS["ICMP_BURST"] <= messages <= allowed * (os.cpu_count() or 1)
        assert messages < FLOOD
        await asyncio.sleep(0.1)
        sock.sendto(bytes(1_400), (VIPS[version], 53))
        await balancer.until(lambda counters: counters.drops[Drop.TOO_BIG] == FLOOD + 1, "the one after the flood")
        assert _told(client, version) == messages + 1


def _told(client: Host, version: int) -> int:
    """Return how many messages a host has received that a packet of its own was too big."""
    with client.entered():
        if version == 6:
            lines = Path("/proc/thread-self/net/snmp6").read_text(encoding="ascii").splitlines()
            return int(next(line.split()[1] for line in lines if line.startswith("Icmp6InPktTooBigs")))
        lines = Path("/proc/thread-self/net/snmp").read_text(encoding="ascii").splitlines()
    names, values = (line.split() for line in lines if line.startswith("Icmp:"))
    return int(values[names.index("InDestUnreachs")])


def _prober(version: int, client: Host) -> socket.socket:
    """Return a socket that hears of nothing: its errors would be those of what it sends next."""
    sock = client.open_socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(*PROBING[version])
    return sock
