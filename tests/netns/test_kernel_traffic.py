"""Real traffic through the kernel datapath: what holds for the packet datapath holds here, by tc and by XDP."""

from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from asynclb.lab import STANDARD, Lab, Site
from tests.netns.balancer import Balancer
from tests.netns.kernel_site import kernel
from tests.netns.packet_site import VIPS, Frames, UdpMembers, ask, rule, udp_rule, wrong_checksum
from tests.netns.proxy_site import BOTH, Members, greet
from tests.netns.test_packet_host import (
    test_a_client_hears_of_the_vip_only,
    test_a_frontend_on_the_hosts_own_address,
    test_a_member_that_is_replaced,
    test_members_addressed_directly,
    test_probes_of_the_host_reach_members,
    test_two_rules_for_one_member_port_are_refused,
    test_what_members_begin_themselves,
    test_what_no_rule_names_is_silent,
)
from tests.netns.test_packet_traffic import (
    test_a_member_reaches_its_own_vip,
    test_bulk_arrives_unchanged,
    test_datagrams_in_fragments,
    test_every_port_of_an_address,
    test_floating_members_answer_themselves,
    test_members_see_the_client,
    test_path_mtu_discovery,
    test_sources_that_are_not_allowed,
)

__all__ = [
    "test_a_client_hears_of_the_vip_only",
    "test_a_frontend_on_the_hosts_own_address",
    "test_a_member_reaches_its_own_vip",
    "test_a_member_that_is_replaced",
    "test_bulk_arrives_unchanged",
    "test_datagrams_in_fragments",
    "test_every_port_of_an_address",
    "test_floating_members_answer_themselves",
    "test_members_addressed_directly",
    "test_members_see_the_client",
    "test_path_mtu_discovery",
    "test_probes_of_the_host_reach_members",
    "test_sources_that_are_not_allowed",
    "test_two_rules_for_one_member_port_are_refused",
    "test_what_members_begin_themselves",
    "test_what_no_rule_names_is_silent",
]


@pytest.fixture
async def balancer(site: Site) -> AsyncIterator[Balancer]:
    """Give the test the kernel datapath on the balancer's host, in the place of the packet datapath."""
    async with kernel(site.lb) as found:
        yield found


@BOTH
@pytest.mark.parametrize("attach", ["tc", "xdp", "xdp-generic"])
async def test_checksums_on_a_wire_without_offloads(version: int, attach: str) -> None:
    """Where no device completes checksums, every frame that a member or a client receives has right ones."""
    async with Lab(f"checksums-{attach}", offload=False) as lab:
        site = await STANDARD.build(lab)
        with ExitStack() as stack:
            captures = [stack.enter_context(Frames(host)) for host in (*site.clients, *site.members)]
            async with kernel(site.lb, attach=attach) as balancer:
                await balancer.apply(rule(site, version), udp_rule(site, version))
                assert await balancer.ask(lambda driver: driver.proxy.mode(rule(site))) == attach.partition("-")[0]
                with Members(site, version) as members, UdpMembers(site, version):
                    for client in site.clients:
                        async with members.joined(client, VIPS[version]) as (near, far):
                            assert far.peer == near.name
                            await greet(near, far)
                            await near.send(bytes(range(256)) * 100)
                            assert await far.exactly(25_600) == bytes(range(256)) * 100
                        with client.udp(VIPS[version], 53) as sock:
                            await ask(sock, b"odd")
                found = await balancer.counters()
            frames = [frame for capture in captures for frame in capture.received()]
    assert found.rules["web"].new_flows == 2
    assert found.rules["web"].bytes_in > 2 * 25_600
    assert len(frames) > 20
    assert [(wrong, frame.hex()) for frame in frames if (wrong := wrong_checksum(frame))] == []
