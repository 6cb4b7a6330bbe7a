"""`asynclb doctor` where veths have `attach: xdp`: what loses frames is found, and mended by the printed commands."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from asynclb.doctor import Finding, Level, examine
from asynclb.lab import STANDARD, VIP4, Host, Lab, Site
from tests.netns.kernel_site import kernel
from tests.netns.proxy_site import Members, greet, rule
from tests.netns.test_doctor_member import shell

CONFIG = """\
version: 1
interfaces: {front: {attach: xdp}, back: {attach: xdp}}
frontends: {web: {address: 203.0.113.10, allow: [0.0.0.0/0]}}
backend_pools: {web: {members: [{name: a, address: 10.0.2.11}]}}
rules: [{name: web, frontend: web, protocol: tcp, frontend_port: 80, backend_pool: web, datapath: kernel}]
"""
CABLES = ("front", "back")


async def said(host: Host, of: tuple[str, ...] = CABLES) -> list[Finding]:
    """Return what the doctor has against interfaces of a host."""
    config = host.write("asynclb.yaml", CONFIG)

    def look() -> tuple[Finding, ...]:
        with host.entered():
            return examine(str(config))

    found = await asyncio.to_thread(look)
    return [one for one in found if one.subject in of and one.level is not Level.OK]


async def reaches(site: Site) -> bool:
    """Return whether a connection comes about through XDP on both interfaces, and carries data."""
    async with AsyncExitStack() as stack:
        balancer = await stack.enter_async_context(kernel(site.lb, attach="xdp"))
        await balancer.apply(rule(site))
        members = stack.enter_context(Members(site))
        try:
            async with asyncio.timeout(3):
                await greet(*await stack.enter_async_context(members.joined(site.clients[0], VIP4)))
        except TimeoutError:
            return False
        return True


async def test_cables_that_leave_checksums_to_devices() -> None:
    """With the usual offloads and GRO at the other ends nothing comes about; the printed commands mend just that."""
    async with Lab("sums") as lab:
        site = await STANDARD.build(lab)
        for switch in CABLES:
            await lab.hosts[switch].check_output("ethtool", "-K", "lb", "gro", "on")
        found = await said(site.lb)
        assert [(one.level, one.subject) for one in found] == [(Level.FAIL, "back"), (Level.FAIL, "front")]
        assert all("leaves checksums to the device: what XDP sends on arrives broken" in one.found for one in found)
        assert all(one.mend.endswith(" ethtool -K lb tx off") for one in found)
        assert not await reaches(site)
        await shell(site.lb, *(one.mend for one in found))
        assert await said(site.lb) == []
        assert await reaches(site)


async def test_cables_without_a_ring() -> None:
    """Other ends without GRO take no frames of XDP's; one command for each mends both, GRO and checksums."""
    async with Lab("rings") as lab:
        site = await STANDARD.build(lab)
        found = await said(site.lb)
        assert {one.level for one in found} == {Level.WARN}
        assert sum("has neither GRO nor XDP" in one.found for one in found) == 2
        mends = {one.mend for one in found}
        assert len(mends) == 2
        assert all(mend.endswith(" ethtool -K lb tx off gro on") for mend in mends)
        await shell(site.lb, *mends)
        assert await said(site.lb) == []
        assert await reaches(site)


@pytest.mark.parametrize(
    ("host", "commands", "told"),
    [
        ("front", ("ip link set dev lb mtu 3507",), "its other end (lb) has MTU 3,507"),
        ("lb", ("ethtool -L front rx 1", "ip netns exec $FRONT ethtool -L lb tx 2"), "sends by 2 queues and it rec"),
    ],
)
async def test_cables_whose_driver_refuses(host: str, commands: tuple[str, ...], told: str) -> None:
    """Too large an MTU or too many queues at the other end: the driver takes XDP after the printed command."""
    async with Lab("driver", offload=False) as lab:
        site = await STANDARD.build(lab)
        for switch in CABLES:
            await lab.hosts[switch].check_output("ethtool", "-K", "lb", "gro", "on")
        await shell(lab.hosts[host], *(line.replace("$FRONT", lab.hosts["front"].namespace) for line in commands))
        assert await modes(site) == {"back": "xdp", "front": "xdp-generic"}
        (found,) = await said(site.lb)
        assert (found.level, found.subject) == (Level.WARN, "front")
        assert told in found.found
        await shell(site.lb, found.mend)
        assert await said(site.lb) == []
        assert await modes(site) == {"back": "xdp", "front": "xdp"}


async def modes(site: Site) -> dict[str, str]:
    """Return how the kernel datapath attaches where it is told `attach: xdp`."""
    async with kernel(site.lb, attach="xdp") as balancer:
        await balancer.apply(rule(site))
        found = await balancer.ask(lambda driver: tuple(driver.proxy.attachments()))
        return {one.interface: one.mode for one in found}
