"""`attach: xdp` on cables whose other end has no ring for frames, and frames that leave by where they came."""

from contextlib import ExitStack

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
