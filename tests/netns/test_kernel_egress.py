"""Members behind what XDP cannot redirect to: frames go through the kernel's own routing, and none is lost."""

import pytest

from asynclb.datapath.base import HostSettings
from asynclb.lab import STANDARD, Lab
from tests.netns.egress import Way, through
from tests.netns.kernel_site import kernel
from tests.netns.packet_site import VIPS, UdpMembers, ask, once, rule, udp_rule
from tests.netns.proxy_site import Members
from tests.netns.test_packet_traffic import BOTH, greet

ASKED = 30
BLOCK = bytes(range(256)) * 200


@BOTH
@pytest.mark.parametrize("attach", ["tc", "xdp", "xdp-generic"])
@pytest.mark.parametrize("way", [way for way in Way if way is not Way.TUN])
async def test_members_behind_other_devices(version: int, attach: str, way: Way) -> None:
    """Connections, streams and datagrams pass both ways, and no datagram of a flow that goes on is lost."""
    async with Lab(f"egress-{way}", offload=False) as lab:
        site = await STANDARD.build(lab)
        with through(site, way) as names:
            where = HostSettings(dict.fromkeys(("front", "back", *names), attach))
            async with kernel(site.lb, settings=where) as balancer:
                await balancer.apply(rule(site, version), udp_rule(site, version))
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
                found = await balancer.counters()
    assert found.rules["web"].new_flows == found.rules["web"].syn == len(site.clients)
    assert {reason: number for reason, number in found.drops.items() if number} == {}
