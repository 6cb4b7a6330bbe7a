"""HA ports in every shape, by real traffic: frontends that share a pool, other rules beside them, reserves."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from asynclb.errors import ApplyError
from asynclb.lab import PATIENCE_S, Host, Lab, Site
from asynclb.lab.namespace import ip_batch
from asynclb.net.drop import Drop
from asynclb.tables.row import Delivery, Row
from tests.netns.balancer import Balancer
from tests.netns.packet_site import VIPS, UdpMembers, address_of, ask, ha_rule, once, packets, rule, udp_rule
from tests.netns.proxy_site import BOTH, TRIES, Members, greet
from tests.netns.spokes import SERVICE, Spokes, Talks, Witness
from tests.netns.test_packet_symmetry import one_each
from tests.unit.proxy.wire import connect
from tests.unit.proxy.world import Protocol, pool, row

OTHERS = {4: "203.0.113.11", 6: "2001:db8:ff::11"}
FLOATING: dict[str, Any] = {"delivery": Delivery.FLOATING, "floating_ip": True}
PORT = 7000
ALL = ("be1", "be2", "be3")
CONFIG = """
version: 1
datapath: packet
shutdown_drain: 0s
frontends: {{any: {{address: 203.0.113.10, allow: [10.0.0.0/8]}}}}
backend_pools: {{any: {{members: [{members}]}}}}
probes: {{alive: {{protocol: tcp, port: 22, interval: 100ms, timeout: 100ms, threshold: 2}}}}
rules:
  - {{name: any, frontend: any, protocol: all, frontend_port: 0, backend_pool: any, probe: alive}}
"""
FAILOVER_S = 2 * 0.1 + 0.1
"""Two checks, 100 ms apart, and the time that the second is given."""
FRESH = 40
"""New flows at once, of which one at least meets one of three members, but once in 10^7 runs."""


@pytest.fixture
async def balancer(site: Site) -> AsyncIterator[Balancer]:
    """Give the test the packet datapath on the balancer's host."""
    async with packets(site.lb) as found:
        yield found


def own(site: Site, *vips: str) -> None:
    """Give members the VIPs, as floating IP asks of them."""
    for host in site.members:
        ip_batch([f"addr add {vip}/{128 if ':' in vip else 32} dev lo" for vip in vips], namespace=host.namespace)


def with_members(found: Row, **changes: dict[str, Any]) -> Row:
    """Return the row with members changed by name."""
    members = (replace(member, **changes.get(member.name, {})) for member in found.pool.members)
    return replace(found, pool=replace(found.pool, members=tuple(members)))


async def are_served_by(
    site: Site,
    version: int,
    *members: str,
    clients: Sequence[Host] = (),
    vip: str | None = None,
    port: int = PORT,
    least: int = 9,
) -> int:
    """Begin new UDP flows until each of these members has had one, and no other has; return how many there were."""
    found: set[str] = set()
    for number in range(TRIES):
        hosts = clients or site.clients
        with hosts[number % len(hosts)].udp(vip or VIPS[version], port) as sock:
            found.add((await ask(sock))[0])
        assert found <= set(members)
        if number + 1 >= least and found == set(members):
            return number + 1
    raise AssertionError(f"{TRIES} flows met only {found}")


@BOTH
async def test_several_floating_frontends_over_one_pool(site: Site, balancer: Balancer, version: int) -> None:
    """Each VIP is answered for by itself, by the same members, on the same ports at the same time."""
    vips = (VIPS[version], OTHERS[version])
    own(site, *vips)
    await balancer.apply(
        ha_rule(site, version, **FLOATING),
        replace_name(ha_rule(site, version, address=vips[1], **FLOATING), "other"),
    )
    for vip in vips:
        with UdpMembers(site, version, port=PORT, address=vip):
            await are_served_by(site, version, *ALL, vip=vip, least=30)
        await site.clients[0].check_output("ping", "-c", "2", "-i", "0.05", "-W", "5", vip)
    rules = (await balancer.counters()).rules
    assert all(rules[name].new_flows >= 31 for name in (f"ha{version}", "other"))


def replace_name(found: Row, name: str) -> Row:
    """Return the row under another name of its rule."""
    return replace(found, rule=replace(found.rule, name=name))


@BOTH
async def test_a_floating_and_a_translating_frontend_over_one_pool(
    site: Site, balancer: Balancer, version: int
) -> None:
    """Azure refuses it, and it works here: a member sees the first VIP as it is, and its own address for the other."""
    own(site, OTHERS[version])
    floating = replace_name(ha_rule(site, version, address=OTHERS[version], **FLOATING), "floating")
    await balancer.apply(ha_rule(site, version), floating)
    with UdpMembers(site, version, port=PORT):
        await are_served_by(site, version, *ALL)
    with UdpMembers(site, version, port=PORT, address=OTHERS[version]):
        await are_served_by(site, version, *ALL, vip=OTHERS[version])


async def test_two_translating_frontends_over_one_pool_are_refused(site: Site, balancer: Balancer) -> None:
    """Nobody could tell whose reply a packet is: refused with the reason and a remedy, and nothing changes."""
    await balancer.apply(ha_rule(site))
    with pytest.raises(ApplyError) as caught:
        await balancer.apply(ha_rule(site), replace_name(ha_rule(site, address=OTHERS[4]), "other"))
    (problem,) = caught.value.problems
    assert problem.code == "RulesOfSameLoadBalancerTypeUseSameBackendPortProtocolAndIPConfig"
    assert "delivers to member 'be1' on port any, as rule 'ha4' does" in problem.rule
    assert "replies could not be told apart" in problem.rule
    assert "`floating_ip: true`" in problem.remedy
    with UdpMembers(site, port=PORT):
        await are_served_by(site, 4, *ALL)


@BOTH
async def test_rules_of_one_port_beside_ha_ports(site: Site, balancer: Balancer, version: int) -> None:
    """On one frontend the rule for a port wins, with its own pool and port; every other port is HA ports'."""
    only = udp_rule(site, version)
    only = replace(only, pool=pool(only.pool.members[:1], name="only"))
    web = rule(site, version)
    await balancer.apply(ha_rule(site, version), only, web)
    with UdpMembers(site, version), UdpMembers(site, version, port=PORT):
        to_the_port = await are_served_by(site, version, "be1", port=53)
        to_others = await are_served_by(site, version, *ALL)
    with Members(site, version) as members, Members(site, version, port=81) as others:
        async with members.joined(site.clients[0], VIPS[version]) as (client, accepted):
            await greet(client, accepted)
        async with others.joined(site.clients[0], VIPS[version], 81) as (client, accepted):
            await greet(client, accepted)
    rules = (await balancer.counters()).rules
    found = tuple(rules[name].new_flows for name in ("dns", "web", f"ha{version}"))
    assert found == (to_the_port, 1, to_others + 1)


@BOTH
async def test_a_frontend_of_its_own_beside_routed_ones(lab: Lab, version: int) -> None:
    """Appliances that routes lead through are reached by a VIP as well; both keep their flows apart."""
    spokes = await Spokes.build(lab)
    rows = spokes.rows(version)
    direct = replace_name(ha_rule_over(rows[0], VIPS[version]), "direct")
    for wall in spokes.appliances:
        await wall.tcp_server(SERVICE)
    with ExitStack() as stack, Witness(spokes) as witness:
        async with packets(spokes.hub) as balancer:
            await balancer.apply(*rows, direct)
            talks = Talks(spokes, version, stack)
            flows = [flow for end in (0, 1) for flow in await talks.begin(end, 4)]
            for end in spokes.ends:
                wire = stack.enter_context(await connect(VIPS[version], SERVICE, host=end))
                assert await wire.echoes()
            assert await talks.all_answered(flows)
            one_each(witness.seen(), flows)
            assert (await balancer.counters()).rules["direct"].new_flows == 2
    assert await spokes.strange() == 0


def ha_rule_over(routed: Row, address: str) -> Row:
    """Return an HA-ports rule that translates, from a VIP to a routed rule's pool."""
    return row(address, 0, routed.pool, 0, protocol=Protocol.ALL)


@BOTH
async def test_members_reach_their_own_frontend(site: Site, balancer: Balancer, version: int) -> None:
    """By TCP and UDP on any port, whoever is chosen; what cannot be told apart by ports is dropped with a reason."""
    await balancer.apply(ha_rule(site, version))
    with Members(site, version, port=PORT) as members, UdpMembers(site, version, port=PORT), ExitStack() as stack:
        for client, accepted in await members.join_each(stack, site.members[0], VIPS[version], PORT):
            await greet(client, accepted)
        await are_served_by(site, version, *ALL, clients=site.members[:1])
    ping = await site.members[0].run("ping", "-c", "1", "-W", "1", VIPS[version])
    assert await ping.wait() == 1
    await balancer.until_dropped(Drop.NO_HAIRPIN)


@BOTH
async def test_members_of_weight_zero(site: Site, balancer: Balancer, version: int) -> None:
    """It takes no new flow, also when it is the last one; the flows that it has stay with it."""
    with Members(site, version, port=PORT) as members, UdpMembers(site, version, port=PORT), ExitStack() as stack:
        found = ha_rule(site, version)
        await balancer.apply(found)
        pairs = await members.join_each(stack, site.clients[0], VIPS[version], PORT)
        passive = with_members(found, be3={"weight": 0})
        await balancer.apply(passive)
        await are_served_by(site, version, "be1", "be2", least=20)
        for client, accepted in pairs:
            await greet(client, accepted)
        await balancer.apply(passive, down=["be1", "be2"])
        with site.clients[0].udp(VIPS[version], PORT) as sock:
            assert await once(sock, b"?", wait_s=0.3) is None
        await balancer.until_dropped(Drop.NO_ELIGIBLE_MEMBER)


@BOTH
async def test_members_that_stand_by(site: Site, balancer: Balancer, version: int) -> None:
    """They take over when no active member is left, in the order of their priorities, and step back afterwards."""
    found = with_members(ha_rule(site, version), be2={"priority": 1}, be3={"priority": 2})
    with Members(site, version, port=PORT) as members, UdpMembers(site, version, port=PORT), ExitStack() as stack:
        await balancer.apply(found)
        await are_served_by(site, version, "be1")
        await balancer.apply(found, down=["be1"])
        await are_served_by(site, version, "be2")
        client = stack.enter_context(await connect(VIPS[version], PORT, host=site.clients[0]))
        accepted = stack.enter_context(await members.accept())
        assert accepted.name[0] == address_of(site.members[1], version)
        await balancer.apply(found, down=["be1", "be2"])
        await are_served_by(site, version, "be3")
        await balancer.apply(found)
        await are_served_by(site, version, "be1")
        await greet(client, accepted)


async def test_new_flows_are_fine_within_the_threshold(site: Site) -> None:
    """A member is unplugged: after as many checks as its probe asks for, new flows meet the others; it returns."""
    names = ", ".join(f"{{name: {host.name}, address: {address_of(host)}}}" for host in site.members)
    config = site.lb.write("asynclb.yaml", CONFIG.format(members=names))
    for host in site.members:
        await host.tcp_server(22)
    process = await site.lb.asynclb("run", config)
    await process.wait_for_log("started")
    with UdpMembers(site, port=PORT) as members:
        await are_served_by(site, 4, *ALL)
        with ExitStack() as stack:
            fresh = [stack.enter_context(site.clients[0].udp(VIPS[4], PORT)) for _ in range(FRESH)]
            await power(site, "be1", "down")
            unplugged = time.monotonic()
            answers = await asyncio.gather(*(once(sock, b"?", wait_s=0.1) for sock in fresh))
        assert None in answers, "nobody noticed that a member is away"
        last_failure = await last_failed(site, for_s=3.0)
        assert last_failure - unplugged < FAILOVER_S + 1.0  # a second for a busy machine
        await power(site, "be1", "up")
        members.served.clear()
        async with asyncio.timeout(PATIENCE_S):
            while "be1" not in members.served:
                with site.clients[0].udp(VIPS[4], PORT) as sock:
                    await ask(sock)
    assert await process.stop() == 0


async def power(site: Site, member: str, state: str) -> None:
    """Unplug a member from its switch, or plug it in again."""
    namespace = site.members[0].namespace.removesuffix("be1") + "back"
    await asyncio.to_thread(ip_batch, [f"link set dev {member} {state}"], namespace=namespace)


async def last_failed(site: Site, *, for_s: float) -> float:
    """Begin a new flow every few milliseconds for a while; return when the last one began that got no answer, or 0."""
    end, failed = time.monotonic() + for_s, 0.0
    while (now := time.monotonic()) < end:
        with site.clients[0].udp(VIPS[4], PORT) as sock:
            if await once(sock, b"?", wait_s=0.1) is None:
                failed = now
        await asyncio.sleep(0.005)
    return failed
