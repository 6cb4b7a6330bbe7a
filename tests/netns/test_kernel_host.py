"""What the kernel datapath says at the start of a host that is in its way, and what it stands."""

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from asynclb.datapath.core.layout import CONSTANTS
from asynclb.events import Event
from asynclb.lab import VIP4, Site
from tests.netns.kernel_site import FLOWS, kernel
from tests.netns.packet_site import rule
from tests.netns.proxy_site import Members, greet
from tests.unit.core.world import tcp

CONF = Path("/proc/sys/net/ipv4/conf")
ROOM = FLOWS.groups * CONSTANTS["SET_GROUP"] * CONSTANTS["SET_WAYS"]
"""Ways that flows may have, twice as many as surely find one."""
FLOOD = 2 * ROOM


@pytest.mark.parametrize(("interface", "value", "told"), [("back", 1, True), ("back", 2, False), ("all", 1, True)])
async def test_a_strict_reverse_path_filter(site: Site, interface: str, value: int, told: bool) -> None:
    """It is told of once, with the interfaces and what mends it; a loose one is not in the way."""
    with site.lb.entered():
        (CONF / interface / "rp_filter").write_text(str(value))
    async with kernel(site.lb) as balancer:
        await balancer.apply(rule(site))
        said = [found for found in balancer.events.of(Event.HOST_LIMIT) if "rp_filter" in str(found["what"])]
    assert len(said) == told
    for found in said:
        assert "back" in str(found["what"])
        assert "sysctl -w net.ipv4.conf.all.rp_filter=2" in str(found["remedy"])


async def test_a_flood_of_syns(site: Site) -> None:
    """Twice as many half-open flows as the table holds: who is open keeps his member, who comes is served.

    Those that made room are counted.
    """
    async with kernel(site.lb) as balancer:
        await balancer.apply(rule(site))
        with Members(site) as members:
            async with members.joined(site.clients[0], VIP4) as (client, accepted):
                with site.clients[1].open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as flood:
                    for number in range(FLOOD):
                        source = f"10.0.1.{64 + number % 128}"
                        syn = tcp(source, 1_024 + number // 128, VIP4, 80)
                        flood.sendto(syn.network, (VIP4, 0))
                        if number % 2_000 == 0:
                            await greet(client, accepted)
                with ExitStack() as stack:
                    for fresh, far in await members.join_each(stack, site.clients[0], VIP4):
                        await greet(fresh, far)
                await greet(client, accepted)
        counted = await balancer.counters()
        for _ in range(20):
            if counted.evictions >= counted.rules["web"].new_flows - ROOM:
                break
            await asyncio.sleep(0.3)  # the next pass
            counted = await balancer.counters()
    assert counted.rules["web"].syn > FLOOD
    assert counted.rules["web"].new_flows > FLOOD
    assert FLOWS.flows4 < counted.flows <= ROOM
    assert 0 <= counted.evictions - (counted.rules["web"].new_flows - ROOM) < ROOM // 20
