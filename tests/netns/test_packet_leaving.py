"""Members and rules that are removed while connections are open, in real traffic."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial

import pytest

from asynclb.datapath.packet import PacketDatapath
from asynclb.events import Event
from asynclb.lab import PATIENCE_S, Site
from asynclb.model import AdminState, BackendPool
from asynclb.tables.row import Row
from tests.netns.balancer import Balancer
from tests.netns.balancer import balancer as driven
from tests.netns.packet_site import VIPS, UdpMembers, address_of, ask, ha_rule, packets, rule, udp_rule
from tests.netns.proxy_site import BOTH, Members, greet
from tests.unit.proxy.wire import Wire, connect, until

Pair = tuple[Wire, Wire]


@pytest.fixture
async def balancer(site: Site) -> AsyncIterator[Balancer]:
    """Give the test the packet datapath on the balancer's host."""
    async with packets(site.lb) as found:
        yield found


def without(found: Row, *names: str, drain_s: float) -> Row:
    """Return a rule whose pool has lost some members."""
    members = tuple(member for member in found.pool.members if member.name not in names)
    return replace(found, pool=BackendPool(found.pool.name, members, drain_s))


async def join(stack: ExitStack, members: Members, site: Site, vip: str, count: int) -> list[Pair]:
    """Open that many connections, to whichever members."""
    pairs = []
    for _ in range(count):
        client = stack.enter_context(await connect(vip, 80, host=site.clients[0]))
        pairs.append((client, stack.enter_context(await members.accept())))
    return pairs


async def ended(pair: Pair) -> None:
    """Wait until both ends have been reset."""
    await asyncio.gather(*(wire.expect_reset() for wire in pair))


@BOTH
async def test_a_removed_member_keeps_its_connections_for_a_time(site: Site, balancer: Balancer, version: int) -> None:
    """Nothing new meets it; when the drain period is over both ends get a reset that they accept, and only they."""
    web, dns = rule(site, version), udp_rule(site, version)
    await balancer.apply(web, dns)
    gone = site.members[0]
    with Members(site, version) as members, UdpMembers(site, version), ExitStack() as stack:
        sock = stack.enter_context(site.clients[0].udp(VIPS[version], 53))
        pairs = await members.join_each(stack, site.clients[0], VIPS[version])
        leaving = [pair for pair in pairs if pair[1].name[0] == address_of(gone, version)]
        await balancer.apply(*(without(found, gone.name, drain_s=3) for found in (web, dns)))
        for client, accepted in pairs:
            await greet(client, accepted)
        assert (await ask(sock))[0] != gone.name
        for _, accepted in await join(stack, members, site, VIPS[version], 8):
            assert accepted.name[0] != address_of(gone, version)
        for pair in leaving:
            await ended(pair)
        for client, accepted in pairs:
            if (client, accepted) not in leaving:
                await greet(client, accepted)
    await until(lambda: bool(balancer.events.of(Event.CONNECTIONS_RESET)), "the resets are reported")
    (told,) = balancer.events.of(Event.CONNECTIONS_RESET)
    assert (told["member"], told["connections"]) == (gone.name, len(leaving))


async def test_connections_that_are_busy_end_as_well(site: Site, balancer: Balancer) -> None:
    """Both ends are in the midst of sending, and still believe the reset."""
    web = rule(site)
    await balancer.apply(web)
    with Members(site) as members, ExitStack() as stack:
        pairs = await join(stack, members, site, VIPS[4], 4)

        async def flood(wire: Wire) -> None:
            with suppress(ConnectionResetError, BrokenPipeError):
                while True:
                    await wire.send(bytes(20_000))

        async def drink(wire: Wire) -> None:
            with suppress(ConnectionResetError):
                while await wire.read():
                    pass

        busy = [asyncio.create_task(work(wire)) for pair in pairs for wire in pair for work in (flood, drink)]
        await balancer.apply(without(web, *(host.name for host in site.members), drain_s=0.5))
        done, late = await asyncio.wait(busy, timeout=PATIENCE_S)
        assert not late
        for task in done:
            task.result()


@BOTH
async def test_a_removed_rule_keeps_its_connections_for_a_time(site: Site, balancer: Balancer, version: int) -> None:
    """Whoever comes now gets no answer; the VIP is answered for as long as connections last."""
    web = without(rule(site, version), drain_s=3)
    await balancer.apply(web)
    with Members(site, version) as members, ExitStack() as stack:
        pairs = await join(stack, members, site, VIPS[version], 4)
        await balancer.apply()
        for client, accepted in pairs:
            await greet(client, accepted)
        with pytest.raises(TimeoutError):
            await connect(VIPS[version], 80, host=site.clients[0], wait_s=0.3)
        for pair in pairs:
            await ended(pair)
    await balancer.until_idle()


async def test_a_member_that_comes_back_in_time(site: Site, balancer: Balancer) -> None:
    """Its connections go on as if it had never left."""
    web = ha_rule(site)
    await balancer.apply(web)
    with Members(site, port=80) as members, ExitStack() as stack:
        pairs = await join(stack, members, site, VIPS[4], 6)
        await balancer.apply(without(web, "be1", "be2", drain_s=1))
        await balancer.apply(web)
        await asyncio.sleep(4)
        for client, accepted in pairs:
            await greet(client, accepted)


async def test_a_draining_member(site: Site, balancer: Balancer) -> None:
    """It is in its pool all the time; its connections end with the drain period, and nobody else's."""
    web = rule(site)
    await balancer.apply(web)
    drained = tuple(replace(m, admin_state=AdminState.DRAIN) if m.name == "be1" else m for m in web.pool.members)
    with Members(site) as members, ExitStack() as stack:
        pairs = await members.join_each(stack, site.clients[0], VIPS[4])
        await balancer.apply(replace(web, pool=BackendPool(web.pool.name, drained, 1)))
        for client, accepted in pairs:
            if accepted.name[0] == address_of(site.members[0]):
                await ended((client, accepted))
            else:
                await greet(client, accepted)


async def test_connections_in_several_workers(site: Site) -> None:
    """Every worker ends its share, and the numbers of what has gone are free again."""
    web = rule(site)
    async with driven(site.lb, partial(PacketDatapath, workers=2)) as balancer:
        await balancer.apply(web)
        with Members(site) as members, ExitStack() as stack:
            pairs = await join(stack, members, site, VIPS[4], 8)
            await balancer.apply(without(web, *(host.name for host in site.members), drain_s=1))
            for client, accepted in pairs:
                await greet(client, accepted)
            for pair in pairs:
                await ended(pair)
        await balancer.until_idle()
        counted = (await balancer.counters()).members
        assert sum(found.new_flows for found in counted.values()) == 8
