"""The time between the signal and the end: open flows go on and can be seen, and nobody new is let in."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest

from asynclb.datapath.packet import PacketDatapath
from asynclb.datapath.proxy import ProxyDatapath
from asynclb.lab import VIP4, Site
from tests.netns.balancer import Balancer, balancer
from tests.netns.kernel_site import kernel_kind, needs_kernel
from tests.netns.packet_site import rule
from tests.netns.proxy_site import Members, greet
from tests.unit.proxy.wire import connect

KINDS: dict[str, Callable[..., Any]] = {
    "proxy": ProxyDatapath,
    "packet": partial(PacketDatapath, workers=1),
    "packet-2": partial(PacketDatapath, workers=2),
    "kernel": kernel_kind(),
}
DRAIN_S = 30.0


@pytest.fixture(params=KINDS)
async def datapath(request: pytest.FixtureRequest, site: Site) -> AsyncIterator[Balancer]:
    """Run each datapath with a rule for TCP."""
    if request.param == "kernel":
        needs_kernel()
    async with balancer(site.lb, KINDS[request.param]) as found:
        await found.apply(rule(site))
        yield found


async def nobody_is_let_in(site: Site) -> None:
    """Return when that is so."""
    async with asyncio.timeout(DRAIN_S / 2):
        while True:
            try:
                (await connect(VIP4, 80, host=site.clients[0], wait_s=0.3)).reset()
            except (TimeoutError, OSError):
                return


async def test_open_connections_go_on_and_no_others_begin(site: Site, datapath: Balancer) -> None:
    """A connection is served and shown until it ends, and that is the end of the waiting."""
    with Members(site) as members:
        async with members.joined(site.clients[0], VIP4) as (client, accepted):
            await greet(client, accepted)
            ending = asyncio.create_task(datapath.close(DRAIN_S))
            await nobody_is_let_in(site)
            await greet(client, accepted)
            assert (await datapath.counters()).rules
            shown = [flow for flow in await datapath.flows() if flow.state == "established"]
            assert len(shown) == 1
            assert not ending.done()
        async with asyncio.timeout(DRAIN_S / 3):  # a connection that has ended is not waited for until it is forgotten
            assert await ending == 0


async def test_whoever_does_not_wait_any_longer(site: Site, datapath: Balancer) -> None:
    """A second signal ends the waiting: what is open is reset or forgotten, and nothing stays behind."""
    with Members(site) as members:
        async with members.joined(site.clients[0], VIP4) as (client, accepted):
            await greet(client, accepted)
            assert await datapath.hurry(DRAIN_S, after_s=1) in (0, 1)
    links = await site.lb.check_output("bpftool", "net", "show")
    assert "asynclb" not in links
    assert "asynclb" not in await site.lb.check_output("nft", "list", "ruleset")
