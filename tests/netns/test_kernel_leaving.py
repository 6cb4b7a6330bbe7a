"""Members and rules that leave the kernel datapath while connections are open: as the packet datapath does it."""

import errno
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial

import pytest

from asynclb.datapath.kernel.bpffs import find_bpffs
from asynclb.datapath.kernel.pins import HOME, Pins, namespace_cookie
from asynclb.datapath.kernel.remembered import NAME, recall
from asynclb.events import Event
from asynclb.lab import Site
from asynclb.native.libbpf import BpfError, Libbpf, MapInfo
from tests.netns.balancer import Balancer
from tests.netns.kernel_site import kernel
from tests.netns.packet_site import VIPS, address_of, rule
from tests.netns.proxy_site import Members, greet
from tests.netns.test_packet_leaving import (
    ended,
    join,
    test_a_draining_member,
    test_a_member_that_comes_back_in_time,
    test_a_removed_member_keeps_its_connections_for_a_time,
    test_a_removed_rule_keeps_its_connections_for_a_time,
    test_connections_that_are_busy_end_as_well,
    without,
)
from tests.unit.proxy.wire import until

__all__ = [
    "test_a_draining_member",
    "test_a_member_that_comes_back_in_time",
    "test_a_removed_member_keeps_its_connections_for_a_time",
    "test_a_removed_rule_keeps_its_connections_for_a_time",
    "test_connections_that_are_busy_end_as_well",
]


@pytest.fixture
async def balancer(site: Site) -> AsyncIterator[Balancer]:
    """Give the test the kernel datapath on the balancer's host."""
    async with kernel(site.lb) as found:
        yield found


async def test_numbers_are_free_again(site: Site, balancer: Balancer) -> None:
    """Who leaves gives his number back, the next one begins at zero with it, and no count is lost."""
    web = rule(site)
    await balancer.apply(web)
    with Members(site) as members:
        for served in range(1, 4):
            async with members.joined(site.clients[0], VIPS[4]) as (client, accepted):
                await greet(client, accepted)
                gone = next(host.name for host in site.members if address_of(host) == accepted.name[0])
            await balancer.apply(without(web, gone, drain_s=0.2))
            await until(partial(is_free, site, gone), "its number is free")
            assert (await balancer.counters()).members[web.pool.name, gone].new_flows >= 1
            await balancer.apply(web)
            assert sorted(numbered(site).values()) == [0, 1, 2]
            counted = (await balancer.counters()).members
            assert sum(found.new_flows for found in counted.values()) == served


async def test_a_rule_with_another_backend_port(site: Site, balancer: Balancer) -> None:
    """Connections on the old port have the drain period, whichever port new ones meet."""
    await balancer.apply(without(rule(site), drain_s=1.5))
    with Members(site) as members, ExitStack() as stack:
        pairs = await join(stack, members, site, VIPS[4], 3)
        await balancer.apply(without(rule(site, backend_port=9_999), drain_s=1.5))
        for pair in pairs:
            await greet(*pair)
        for pair in pairs:
            await ended(pair)


class Stumbling(Libbpf):
    """The library, whose next call for the flows that are to end fails: IPv6's are written, IPv4's are mapped."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = 0

    def replace(self, fd: int, key: bytes, value: bytes) -> bool:
        """Fail as told, or set the value."""
        self._stumble()
        return super().replace(fd, key, value)

    def map_info(self, fd: int) -> MapInfo:
        """Fail as told, or return a map's shape."""
        self._stumble()
        return super().map_info(fd)

    def _stumble(self) -> None:
        if self.fails:
            self.fails -= 1
            raise BpfError("update a map", errno.ENOMEM)


@pytest.mark.parametrize("version", [4, 6])
async def test_an_end_that_fails_half_way(site: Site, version: int) -> None:
    """It is told of and done again, and both ends of every connection are reset all the same."""
    web, library = rule(site, version), Stumbling()
    async with kernel(site.lb, library=library) as balancer:
        await balancer.apply(web)
        with Members(site, version) as members, ExitStack() as stack:
            pairs = await join(stack, members, site, VIPS[version], 4)
            library.fails = 1
            await balancer.apply(without(web, *(host.name for host in site.members), drain_s=0.3))
            for pair in pairs:
                await ended(pair)
        await balancer.until_idle()
        (failed,) = balancer.events.of(Event.DATAPATH_FAILED)
    assert "Cannot allocate memory" in str(failed["error"])


def is_free(site: Site, name: str) -> bool:
    """Return whether a member has no number any more."""
    return name not in numbered(site)


def numbered(site: Site) -> dict[str, int]:
    """Return the numbers of members as the next process would find them."""
    with site.lb.entered():
        bpf, cookie = Libbpf(), namespace_cookie()
        fd = Pins(bpf, find_bpffs(f"{HOME}/{cookie}"), cookie).open(NAME)
    try:
        return {name: number for (_, name, _), number in recall(bpf, fd).members.items()}
    finally:
        os.close(fd)
