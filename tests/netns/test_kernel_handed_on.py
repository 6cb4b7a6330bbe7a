"""Frames that one balancer hands on to another at once: each decides on them once, and none is handed on twice.

    cli 10.4.0.2 -- 10.4.0.1 lb1 10.5.0.1 -- 10.5.0.2 lb2 10.6.0.1 -- 10.6.0.2 be
                  VIP 203.0.113.10         VIP 203.0.113.20

What is handed to the other end of a veth is decided on there within the same run of the receiving processor. Balancers
that are each other's members would never let it go, so the second one sends frames through a queue.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from asynclb.datapath.base import HostSettings
from asynclb.lab import Host, Lab, Site
from asynclb.net.flow import Protocol
from asynclb.tables.row import Row
from tests.netns.balancer import Balancer
from tests.netns.kernel_site import kernel
from tests.netns.packet_site import BACKEND_PORT, UdpMembers, ask
from tests.unit.proxy.world import member, row

NEAR, FAR = "203.0.113.10", "203.0.113.20"
ASKED = 40


@dataclass(frozen=True, slots=True)
class Chain:
    """Two balancers behind each other. Owner: a test."""

    client: Host
    near: Host
    far: Host
    member: Host


@pytest.fixture
async def chain(lab: Lab) -> Chain:
    """Give the test the drawing's hosts."""
    client, member_ = lab.host("cli"), lab.host("be")
    near, far = lab.host("lb1", forwarding=True), lab.host("lb2", forwarding=True)
    lab.link(client, "10.4.0.2/24", near, "10.4.0.1/24")
    lab.link(near, "10.5.0.1/24", far, "10.5.0.2/24")
    lab.link(far, "10.6.0.1/24", member_, "10.6.0.2/24")
    client.route("default", via="10.4.0.1")
    member_.route("default", via="10.6.0.1")
    near.route(f"{FAR}/32", via="10.5.0.2")
    far.route(f"{NEAR}/32", via="10.5.0.1")
    far.route("10.4.0.0/24", via="10.5.0.1")
    await lab.up()
    return Chain(client, near, far, member_)


@pytest.fixture
async def balancers(chain: Chain) -> AsyncIterator[tuple[Balancer, Balancer]]:
    """Give the test the kernel datapath on both hosts."""
    async with AsyncExitStack() as stack:
        ways = (("cli", "lb2"), ("lb1", "be"))
        settings = [HostSettings(dict.fromkeys(names, "auto")) for names in ways]
        near = await stack.enter_async_context(kernel(chain.near, settings=settings[0]))
        far = await stack.enter_async_context(kernel(chain.far, settings=settings[1]))
        yield near, far


def towards(vip: str, address: str, port: int) -> Row:
    """Return a rule for datagrams to a VIP, with one member."""
    return row(vip, 53, [member("only", address)], port, name="dns", protocol=Protocol.UDP)


def sent(host: Host, device: str) -> int:
    """Return how many frames an interface's own counters have seen leave; what is handed on is not among them."""
    with host.entered():
        lines = Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines()
    return int(next(line.split(":")[1].split()[9] for line in lines if line.strip().startswith(f"{device}:")))


async def packets_in(balancer: Balancer) -> int:
    """Return how many packets of clients a balancer has decided on."""
    return (await balancer.counters()).rules["dns"].packets_in


async def test_two_balancers_behind_each_other(chain: Chain, balancers: tuple[Balancer, Balancer]) -> None:
    """Each counts every packet once; the first hands frames on, the second does not hand on what was handed to it."""
    near, far = balancers
    await far.apply(towards(FAR, "10.6.0.2", BACKEND_PORT))
    await near.apply(towards(NEAR, FAR, 53))
    hosts = Site(chain.far, (chain.client,), (chain.member,))
    with UdpMembers(hosts, address="10.6.0.2"), chain.client.udp(NEAR, 53) as sock:
        await ask(sock)
        counted = [await packets_in(balancer) for balancer in balancers]
        before = sent(chain.near, "lb2"), sent(chain.far, "be")
        for _ in range(ASKED):
            assert (await ask(sock))[1:] == sock.getsockname()[:2]
    assert [await packets_in(balancer) for balancer in balancers] == [number + ASKED for number in counted]
    assert sent(chain.near, "lb2") - before[0] < ASKED // 2
    assert sent(chain.far, "be") - before[1] >= ASKED


async def test_two_balancers_that_are_each_others_members(chain: Chain, balancers: tuple[Balancer, Balancer]) -> None:
    """What goes round between them, as their rules say, holds no processor: it ends with the rule of either."""
    near, far = balancers
    await far.apply(towards(FAR, NEAR, 53))
    await near.apply(towards(NEAR, FAR, 53))
    with chain.client.udp(NEAR, 53) as sock:
        sock.send(b"round and round")
        await near.until(lambda counters: counters.rules["dns"].packets_in > ASKED, "it goes round")
        await far.apply()
        await far.apply(towards(FAR, "10.6.0.2", BACKEND_PORT))
    await asyncio.sleep(0.1)
    before = await packets_in(near)
    await asyncio.sleep(0.1)
    assert await packets_in(near) == before
