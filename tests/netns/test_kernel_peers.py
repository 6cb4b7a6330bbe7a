"""Frames that are handed to the other end of a veth at once, and what keeps them on their ordinary way."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from asynclb.datapath.frames.surroundings import Link
from asynclb.datapath.kernel.peers import peers
from asynclb.datapath.kernel.programs import SMALLEST_IMAGE, Programs, State, read_object
from asynclb.lab import VIP4, Host, Site
from asynclb.native.libbpf import Attach, Libbpf
from tests.netns.balancer import Balancer
from tests.netns.kernel_site import FLOWS, kernel
from tests.netns.packet_site import UdpMembers, address_of, ask, udp_rule
from tests.netns.proxy_site import udp_socket

ASKED = 20
TICK_S = 0.02
"""More than a tick of any kernel's clock, for which the programs remember what they know of an interface."""


def sent(host: Host) -> int:
    """Return how many frames an interface's own counters have seen leave to members."""
    with host.entered():
        lines = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()
    fields = next(line.split(":")[1].split() for line in lines if line.strip().startswith("back:"))
    return int(fields[9])


async def seen(site: Site) -> bool:
    """Ask members, and return whether what went to them was counted at the balancer's interface."""
    before = sent(site.lb)
    with UdpMembers(site):
        for number in range(ASKED):
            with udp_socket(site.clients[0], address_of(site.clients[0]), 42_100 + number) as sock:
                sock.connect((VIP4, 53))
                await ask(sock, b"which")
    return sent(site.lb) - before >= ASKED


async def begin(site: Site, balancer: Balancer) -> None:
    """Have a rule, and neighbours that are known."""
    await balancer.apply(udp_rule(site))


async def test_what_leaves_is_handed_on(site: Site) -> None:
    """Members are reached without the interface's way out; its counters show it."""
    async with kernel(site.lb) as balancer:
        await begin(site, balancer)
        assert not await seen(site)


async def test_attach_tc_takes_the_ordinary_way(site: Site) -> None:
    """`attach: tc` keeps frames where counters, taps and queues see them."""
    async with kernel(site.lb, attach="tc") as balancer:
        await begin(site, balancer)
        assert await seen(site)


async def test_a_program_for_leaving_frames_is_heeded(site: Site) -> None:
    """What somebody attached to an interface's way out goes on seeing the frames."""
    bpf, state = Libbpf(), State({})
    programs = Programs(bpf, read_object(), state, FLOWS, SMALLEST_IMAGE)  # without tables, so that all frames pass
    with site.lb.entered():
        link = bpf.create_link(programs.tc, socket.if_nametoindex("back"), Attach.TCX_EGRESS)
    try:
        async with kernel(site.lb) as balancer:
            await begin(site, balancer)
            assert await seen(site)
    finally:
        os.close(link)
        programs.close()
        state.close()


async def test_a_qdisc_is_heeded(site: Site) -> None:
    """Where an interface has a queue, frames wait in it."""
    await site.lb.check_output("tc", "qdisc", "replace", "dev", "back", "root", "pfifo")
    async with kernel(site.lb) as balancer:
        await begin(site, balancer)
        assert await seen(site)


async def test_while_somebody_watches(site: Site) -> None:
    """A capture puts frames in sight; when the last one is over they are handed on again."""
    async with kernel(site.lb) as balancer:
        await begin(site, balancer)
        for watching, visible in ((True, True), (True, True), (False, True), (False, False)):
            await balancer.ask(lambda driver, begins=watching: driver.proxy.watch(begin=begins))
            await asyncio.sleep(TICK_S)
            assert await seen(site) is visible


@pytest.mark.parametrize(
    ("link", "wish", "expected"),
    [
        (Link(2, "a", b"", 1500, "veth", is_elsewhere=True), "auto", {2}),
        (Link(2, "a", b"", 1500, "veth", is_elsewhere=True), "tc", set()),
        (Link(2, "a", b"", 1500, "veth", is_elsewhere=True), "xdp", set()),
        (Link(2, "a", b"", 1500, "veth"), "auto", set()),
        (Link(3, "a", b"", 1500, "veth", is_elsewhere=True), "auto", set()),
    ],
)
def test_who_is_a_peer(link: Link, wish: str, expected: set[int]) -> None:
    """A veth into another namespace, unless the configuration or a program there says otherwise."""
    assert peers({link.index: link}, {link.name: wish}, {3}) == expected
