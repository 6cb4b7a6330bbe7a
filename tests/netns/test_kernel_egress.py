"""Members behind what XDP cannot redirect to: frames go through the kernel's own routing, and none is lost."""

from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import replace

import pytest

from asynclb.datapath.base import HostSettings
from asynclb.events import Event
from asynclb.lab import STANDARD, Lab, Site
from asynclb.lab.namespace import ip_batch
from asynclb.net.drop import Drop
from tests.netns.egress import Way, through, tunnels
from tests.netns.kernel_site import kernel, pins_of
from tests.netns.packet_site import VIPS, UdpMembers, ask, once, rule, udp_rule
from tests.netns.proxy_site import BOTH, Members, greet
from tests.netns.test_packet_own_mtu import NARROW, PATH_MTU, hears_what_fits

ASKED = 30
BLOCK = bytes(range(256)) * 200


async def converse(site: Site, version: int) -> None:
    """Check that connections, streams and datagrams pass both ways between every client and a member."""
    with Members(site, version) as members, UdpMembers(site, version):
        for client in site.clients:
            async with members.joined(client, VIPS[version]) as (near, far):
                assert far.peer == near.name
                await greet(near, far)
                await near.send(BLOCK)
                assert await far.exactly(len(BLOCK)) == BLOCK
                await far.send(BLOCK)
                assert await near.exactly(len(BLOCK)) == BLOCK
            with client.udp(VIPS[version], 53) as sock:
                assert (await ask(sock))[1:] == sock.getsockname()[:2]
                for _ in range(ASKED):
                    assert await once(sock, b"again", wait_s=2)


async def serves(version: int, attach: str, way: Callable[[Site], AbstractContextManager[tuple[str, ...]]]) -> None:
    """Check that nothing is lost where something is put between the balancer and others."""
    async with Lab("egress", offload=False) as lab:
        site = await STANDARD.build(lab)
        with way(site) as names:
            where = HostSettings(dict.fromkeys(("front", "back", *names), attach))
            async with kernel(site.lb, settings=where) as balancer:
                await balancer.apply(rule(site, version), udp_rule(site, version))
                await converse(site, version)
                found = await balancer.counters()
    assert found.rules["web"].new_flows == found.rules["web"].syn == len(site.clients)
    assert {reason: number for reason, number in found.drops.items() if number} == {}


@BOTH
@pytest.mark.parametrize("attach", ["tc", "xdp", "xdp-generic"])
@pytest.mark.parametrize("way", list(Way))
async def test_members_behind_other_devices(version: int, attach: str, way: Way) -> None:
    """Connections, streams and datagrams pass both ways, and no datagram of a flow that goes on is lost."""
    await serves(version, attach, lambda site: through(site, way))


@BOTH
@pytest.mark.parametrize("attach", ["tc", "xdp", "xdp-generic"])
async def test_clients_behind_tunnels(version: int, attach: str) -> None:
    """Clients whose frames have no link header are served as others are, whatever carries the members' frames."""
    await serves(version, attach, lambda site: tunnels(site.lb, "front", site.clients))


@BOTH
async def test_a_narrow_tunnel_to_members(version: int, site: Site) -> None:
    """A client hears what fits, from the VIP."""
    with through(site, Way.TUN) as names:
        ip_batch([f"link set dev {name} mtu {NARROW}" for name in names], namespace=site.lb.namespace)
        async with kernel(site.lb) as balancer:
            await balancer.apply(udp_rule(site, version))
            await hears_what_fits(site, version)


@BOTH
async def test_a_narrow_tunnel_to_clients(version: int, site: Site) -> None:
    """A member hears what fits, and its stream goes on with that."""
    with tunnels(site.lb, "front", site.clients) as names:
        ip_batch([f"link set dev {name} mtu {NARROW}" for name in names], namespace=site.lb.namespace)
        async with kernel(site.lb) as balancer:
            await balancer.apply(rule(site, version))
            with Members(site, version) as members:
                async with members.joined(site.clients[0], VIPS[version]) as (near, far):
                    await far.send(BLOCK)
                    assert await near.exactly(len(BLOCK)) == BLOCK
                    assert far.sock.getsockopt(*PATH_MTU[version]) == NARROW
            assert (await balancer.counters()).drops[Drop.TOO_BIG]


async def test_a_wish_for_xdp_on_a_tunnel() -> None:
    """Tc carries it instead, which is told once by each process, also by one that takes it over, and shown."""
    async with Lab("wish", offload=False) as lab:
        site = await STANDARD.build(lab)
        with through(site, Way.TUN) as names, Members(site) as members:
            where = HostSettings(dict.fromkeys(("front", *names), "xdp"), leave=True)
            for settings in (where, replace(where, leave=False)):
                async with kernel(site.lb, settings=settings) as balancer:
                    await balancer.apply(rule(site))
                    await balancer.apply(rule(site), udp_rule(site))
                    said = [found["value"] for found in balancer.events.of(Event.HOST_LIMIT) if names[0] in str(found)]
                    assert said == ["cannot read packets without a link header"]
                    shown = {found.interface: found for found in await balancer.ask(lambda on: on.proxy.attachments())}
                    assert {(shown[name].mode, shown[name].instead) for name in names} == {("tcx", said[0])}
                    assert (shown["front"].mode, shown["front"].instead) == ("xdp", "")
                    async with members.joined(site.clients[0], VIPS[4]) as (near, far):
                        await greet(near, far)


async def test_connections_through_a_tunnel_outlive_the_process(site: Site) -> None:
    """What a tunnel carries is taken over as the rest is."""
    with through(site, Way.TUN) as names, Members(site) as members:
        where = HostSettings(dict.fromkeys(("front", "back", *names), "auto"), leave=True)
        async with AsyncExitStack() as stack:
            async with kernel(site.lb, settings=where) as balancer:
                await balancer.apply(rule(site))
                near, far = await stack.enter_async_context(members.joined(site.clients[0], VIPS[4]))
                await greet(near, far)
            await greet(near, far)
            async with kernel(site.lb, settings=replace(where, leave=False)) as balancer:
                await balancer.apply(rule(site))
                assert balancer.events.of(Event.DATAPATH_ADOPTED)
                await greet(near, far)
                async with members.joined(site.clients[1], VIPS[4]) as (other, taken):
                    await greet(other, taken)
    assert pins_of(site.lb) == []
