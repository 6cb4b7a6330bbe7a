"""`attach: xdp` on cables whose other end has no ring for frames, and frames that leave by where they came."""

from contextlib import AsyncExitStack, ExitStack

import pytest

from asynclb.datapath.base import Counters
from asynclb.events import Event
from asynclb.lab import STANDARD, Lab
from tests.netns.kernel_site import kernel, let_xdp_redirect
from tests.netns.packet_site import VIPS, rule
from tests.netns.proxy_site import BOTH, Members, greet
from tests.netns.test_changed_ports import FLOATING, floating_site, joined


def lost(counters: Counters) -> dict[str, int]:
    """Return what was dropped, by reason."""
    return {reason: number for reason, number in counters.drops.items() if number}


@BOTH
async def test_what_xdp_could_not_send_on(version: int) -> None:
    """Frames that the host's routing would not bring to their member are carried by tc, and that is told."""
    async with (
        floating_site("xdp", version, offload=False, gro=False) as site,
        kernel(site.lb, attach="xdp") as balancer,
    ):
        await balancer.apply(rule(site, version))
        assert {told["mode"] for told in balancer.events.of(Event.DATAPATH_ATTACHED)} == {"xdp"}
        await balancer.apply(rule(site, version, backend_port=80, **FLOATING))
        async with joined(site, version, member_port=80) as (client, accepted):
            assert accepted.name == (VIPS[version], 80)
            await greet(client, accepted)
        attached = [(told["interface"], told["mode"]) for told in balancer.events.of(Event.DATAPATH_ATTACHED)]
        limits = {told["what"]: told["value"] for told in balancer.events.of(Event.HOST_LIMIT)}
        assert sorted(attached[2:]) == [("back", "tcx"), ("front", "tcx")]
        assert {limits[f"XDP on {name}"] for name in ("front", "back")} == {"cannot send to back"}
        assert lost(await balancer.counters()) == {}


@pytest.mark.parametrize(
    ("device", "command", "why"),
    [
        (
            "front",
            ("ip", "link", "set", "dev", "lb", "mtu", "9000"),
            "the MTU, of the other end of a veth, is too large",
        ),
        ("lb", ("ethtool", "-L", "front", "rx", "1"), "it has fewer queues than the other end"),
    ],
)
async def test_a_cable_whose_driver_refuses_xdp(device: str, command: tuple[str, ...], why: str) -> None:
    """XDP runs in the kernel's stack there, which is told with the reason, and connections come about."""
    async with Lab("refused", offload=False) as lab:
        site = await STANDARD.build(lab)
        await lab.hosts["front"].check_output("ethtool", "-L", "lb", "tx", "2")
        await lab.hosts[device].check_output(*command)
        async with kernel(site.lb, attach="xdp") as balancer:
            await balancer.apply(rule(site))
            found = await balancer.ask(lambda driver: tuple(driver.proxy.attachments()))
            assert [(one.interface, one.mode) for one in found] == [("back", "xdp"), ("front", "xdp-generic")]
            assert [one.instead for one in found] == ["", f"its driver refuses it: {why}"]
            (told,) = [one for one in balancer.events.of(Event.HOST_LIMIT) if one["what"] == "XDP on front"]
            assert told["value"] == f"its driver refuses it: {why}"
            assert "asynclb doctor" in str(told["remedy"])
            async with AsyncExitStack() as stack:
                members = stack.enter_context(Members(site))
                await greet(*await stack.enter_async_context(members.joined(site.clients[0], VIPS[4])))


@BOTH
async def test_a_member_that_is_its_own_client(version: int) -> None:
    """What leaves by the interface that it came by is sent there, also on a veth."""
    async with Lab("turned", offload=False) as lab:
        site = await STANDARD.build(lab)
        await let_xdp_redirect(lab)
        async with kernel(site.lb, attach="xdp") as balancer:
            await balancer.apply(rule(site, version))
            with Members(site, version) as members, ExitStack() as stack:
                for client, accepted in await members.join_each(stack, site.members[0], VIPS[version]):
                    await greet(client, accepted)
            assert lost(await balancer.counters()) == {}
