"""The packet datapath while things change: members, rules, generations, and the process itself."""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from asynclb.lab import VIP4, Host, Lab, Process, Site
from asynclb.model import BackendPool
from asynclb.net.flow import Protocol
from asynclb.tables.row import Delivery, Row
from tests.netns.balancer import Balancer
from tests.netns.packet_site import VIPS, UdpMembers, address_of, ask, ha_rule, packets, rule, udp_rule
from tests.netns.proxy_site import BOTH, Members, greet, served_meanwhile
from tests.unit.proxy.wire import Listener, Wire, connect
from tests.unit.proxy.world import member, pool, row

FLOWS = 16  # each way; both ways together they leave out one of two appliances once in 2 * 10^9 runs
CONFIG = """
version: 1
datapath: packet
shutdown_drain: 0s
frontends: {{web: {{address: 203.0.113.10, allow: [10.0.0.0/8]}}}}
backend_pools: {{web: {{members: [{members}]}}}}
rules:
  - {{name: web, frontend: web, protocol: tcp, frontend_port: 80, backend_port: 8080, backend_pool: web}}
"""


@pytest.fixture
async def balancer(site: Site) -> AsyncIterator[Balancer]:
    """Give the test the packet datapath on the balancer's host."""
    async with packets(site.lb) as found:
        yield found


@BOTH
async def test_a_member_that_fails_its_probe(site: Site, balancer: Balancer, version: int) -> None:
    """New flows avoid it, established TCP stays with it, and UDP moves to another member."""
    rows = (rule(site, version), udp_rule(site, version))
    await balancer.apply(*rows)
    with Members(site, version) as members, UdpMembers(site, version), ExitStack() as stack:
        sock = stack.enter_context(site.clients[0].udp(VIPS[version], 53))
        lost, *_ = await ask(sock)
        pairs = await members.join_each(stack, site.clients[0], VIPS[version])
        await balancer.apply(*rows, down=[lost])
        gone = address_of(next(host for host in site.members if host.name == lost), version)
        for client, accepted in pairs:
            await greet(client, accepted)
        assert (await ask(sock))[0] != lost
        for _ in range(12):
            client, accepted = await _join(stack, members, site, version)
            assert accepted.name[0] != gone


async def _join(stack: ExitStack, members: Members, site: Site, version: int) -> tuple[Wire, Wire]:
    client = stack.enter_context(await connect(VIPS[version], 80, host=site.clients[0]))
    return client, stack.enter_context(await members.accept())


async def test_generations_take_turns_while_clients_come(site: Site, balancer: Balancer) -> None:
    """Two generations that give new flows to different members take turns: every client is served to its end."""
    lost = (("be2", "be3"), ("be1", "be3"))
    await balancer.apply(rule(site), down=lost[1])
    seen = await served_meanwhile(site, lambda number: balancer.apply(rule(site), down=lost[number % 2]))
    assert seen == {address_of(host) for host in site.members[:2]}


async def test_a_reload_keeps_what_is_open(site: Site, balancer: Balancer) -> None:
    """Other rules come and go, the pool grows and shrinks by others: open connections notice nothing."""
    await balancer.apply(rule(site))
    with Members(site) as members, ExitStack() as stack:
        pairs = [await _join(stack, members, site, 4) for _ in range(6)]
        for rows in ((rule(site), ha_rule(site, 6)), (rule(site), rule(site, address="203.0.113.11", name="other",
                     backend_port=8081)), (rule(site, idle_timeout_s=300),)):  # fmt: skip
            await balancer.apply(*rows)
            for client, accepted in pairs:
                await greet(client, accepted)


async def test_a_rule_that_is_removed(site: Site, balancer: Balancer) -> None:
    """Its clients get no answer any more; a rule that stays goes on."""
    other = rule(site, address="203.0.113.11", name="other", backend_port=8081)
    await balancer.apply(rule(site), other)
    with Members(site) as members, Members(site, port=8081) as others, ExitStack() as stack:
        await _join(stack, members, site, 4)
        await balancer.apply(other)
        with pytest.raises((TimeoutError, OSError)):
            await connect(VIP4, 80, host=site.clients[0], wait_s=0.3)
        async with others.joined(site.clients[0], "203.0.113.11") as (client, accepted):
            await greet(client, accepted)


async def test_a_killed_instance_is_followed_by_another(site: Site) -> None:
    """After kill -9 and a start, connections go on, with what members said meanwhile; after a stop all is gone."""
    names = ", ".join(f"{{name: {host.name}, address: {address_of(host)}}}" for host in site.members)
    config = site.lb.write("asynclb.yaml", CONFIG.format(members=names))
    balancer = await _start(site, config)
    with Members(site) as members, ExitStack() as stack:
        pairs = [await _join(stack, members, site, 4) for _ in range(6)]
        await balancer.kill()
        assert "asynclb_packet" in await site.lb.check_output("nft", "list", "tables")
        for _, accepted in pairs:
            await accepted.send(b"while nobody is there")
        balancer = await _start(site, config)
        for client, _ in pairs:
            await client.send(b"hello")
        for client, accepted in pairs:
            assert await accepted.exactly(5) == b"hello"
            assert await client.exactly(21) == b"while nobody is there"
        client, accepted = await _join(stack, members, site, 4)
        await greet(client, accepted)
    assert await balancer.stop() == 0
    assert await site.lb.check_output("nft", "list", "ruleset") == ""


async def test_a_member_that_speaks_first_after_a_kill(lab: Lab) -> None:
    """On a host that routes nothing, what members say finds its client though the new process knows no flow."""
    client, router = lab.host("client"), lab.host("router", forwarding=True)
    lb, backend = lab.host("lb"), lab.host("be1")
    lab.link(client, "10.8.1.2/24", router, "10.8.1.1/24")
    lab.link(router, "10.8.2.1/24", lb, "10.8.2.2/24")
    lab.link(lb, "10.8.3.1/24", backend, "10.8.3.2/24")
    for host, gateway in ((client, "10.8.1.1"), (lb, "10.8.2.1"), (backend, "10.8.3.1")):
        host.route("default", via=gateway)
    router.route(VIP4, via="10.8.2.2")
    await lab.up()
    config = lb.write("asynclb.yaml", CONFIG.format(members="{name: be1, address: 10.8.3.2}"))
    balancer = await _start_on(lb, config)
    with (
        Listener("10.8.3.2", 8080, host=backend) as listener,
        await connect(VIP4, 80, host=client) as wire,
        await listener.accept() as accepted,
    ):
        await greet(wire, accepted)
        await balancer.kill()
        balancer = await _start_on(lb, config)
        await accepted.send(b"still there?")
        assert await wire.exactly(12) == b"still there?"
        await greet(wire, accepted)
    assert await balancer.stop() == 0


async def _start(site: Site, config: Path) -> Process:
    return await _start_on(site.lb, config)


async def _start_on(host: Host, config: Path) -> Process:
    process = await host.asynclb("run", config)
    await process.wait_for_log("started")
    return process


@BOTH
async def test_both_directions_by_one_appliance(lab: Lab, version: int) -> None:
    """Two spokes, two appliances: a flow that either side begins passes the same appliance in both directions."""
    hub = lab.host("hub", forwarding=True)
    spokes = [lab.host(f"spoke{n}") for n in (1, 2)]
    appliances = [lab.host(f"nva{n}", forwarding=True) for n in (1, 2)]
    for n, host in enumerate(spokes, 1):
        lab.link(host, f"10.1.{n}.10/24 fd00:{n}::10/64", hub, f"10.1.{n}.1/24 fd00:{n}::1/64")
        for gateway in (f"10.1.{n}.1", f"fd00:{n}::1"):
            host.route("default", via=gateway)
    inside = {hub: "10.0.0.1/24 fd00:a::1/64"}
    lab.switch("inner", inside | {host: f"10.0.0.{10 + n}/24 fd00:a::{10 + n}/64" for n, host in enumerate(appliances)})
    for host in appliances:
        host.route("default", via="10.0.0.1")
        host.route("default", via="fd00:a::1")
    await lab.up()
    spoke, inner = {4: ("10.1.{}.10", "10.0.0.{}"), 6: ("fd00:{}::10", "fd00:a::{}")}[version]
    backend = pool([member(host.name, inner.format(10 + n)) for n, host in enumerate(appliances)])
    async with packets(hub) as balancer:
        await balancer.apply(*(_routed(inner.format(200 + n), backend, f"spoke{n}") for n in (1, 2)))
        for here, there in ((0, 1), (1, 0)):
            server = await spokes[there].udp_server(7000, "whoami")
            for _ in range(FLOWS):
                with spokes[here].udp(spoke.format(there + 1), 7000) as sock:
                    assert (await ask(sock))[1] == spoke.format(here + 1)
            await server.kill()
        counted = (await balancer.counters()).members
        flows = await balancer.flows()
    assert all(counted["pool", host.name].new_flows for host in appliances)
    assert len(flows) == 2 * FLOWS
    assert all(flow.bytes_in and flow.bytes_out for flow in flows)


def _routed(address: str, backend: BackendPool, interface: str) -> Row:
    found = row(address, 0, backend, 0, name=interface, protocol=Protocol.ALL, delivery=Delivery.ROUTED)
    return replace(found, frontend=replace(found.frontend, interface=interface, routed=True), symmetric=True)


@BOTH
async def test_room_for_flows_is_told(site: Site, balancer: Balancer, version: int) -> None:
    """Beside the number of flows stands how many there can be, also before there are any."""
    await balancer.apply(udp_rule(site, version))
    before = await balancer.counters()
    with UdpMembers(site, version), site.clients[0].udp(VIPS[version], 53) as sock:
        await ask(sock)
        await balancer.until(lambda counters: counters.flows > 0, "the flow is counted")
    counters = await balancer.counters()
    assert before.flows == 0
    assert before.capacity >= counters.capacity >= 20_000
