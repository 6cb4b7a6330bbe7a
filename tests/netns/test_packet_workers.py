"""The packet datapath with two workers: flows are pinned, numbers add up, and a worker may die."""

import asyncio
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from asynclb.datapath.packet import PacketDatapath
from asynclb.events import Event
from asynclb.lab import PATIENCE_S, Lab, Process, Site
from tests.netns.balancer import Balancer
from tests.netns.balancer import balancer as driven
from tests.netns.packet_site import VIPS, UdpMembers, address_of, ask, ha_rule, once, rule
from tests.netns.proxy_site import BOTH, TRIES, Members, greet
from tests.netns.spokes import Spokes, Talks, Witness
from tests.netns.test_packet_symmetry import one_each

CONFIG = """
version: 1
datapath: packet
workers: 2
shutdown_drain: 0s
frontends: {{web: {{address: 203.0.113.10, allow: [10.0.0.0/8]}}}}
backend_pools: {{web: {{members: [{members}]}}}}
rules:
  - {{name: all, frontend: web, protocol: all, frontend_port: 0, backend_port: 0, backend_pool: web}}
"""
WORKERS = 2
CLIENTS = 64
PORT = 5300


@pytest.fixture
async def balancer(site: Site) -> AsyncIterator[Balancer]:
    """Give the test the packet datapath with two workers on the balancer's host."""
    async with driven(site.lb, partial(PacketDatapath, workers=WORKERS)) as found:
        yield found


async def many_clients(site: Site, version: int, stack: ExitStack) -> list[socket.socket]:
    """Return a datagram socket from each of many addresses of one client's network, connected to the VIP."""
    host = site.clients[0]
    own, bits, extra = address_of(host, version), "32" if version == 4 else "128", () if version == 4 else ("nodad",)
    device = (await host.check_output("ip", "-o", "route", "get", VIPS[version])).split(" dev ")[1].split()[0]
    sockets = []
    for number in range(100, 100 + CLIENTS):
        address = own[: own.rindex("." if version == 4 else ":") + 1] + str(number)
        await host.check_output("ip", "address", "add", f"{address}/{bits}", "dev", device, *extra)
        sock = host.open_socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
        stack.enter_context(sock)
        sock.setblocking(False)
        sock.bind((address, 0))
        sock.connect((VIPS[version], PORT))
        sockets.append(sock)
    return sockets


async def pids(balancer: Balancer) -> dict[int, int]:
    """Return the process of each worker."""
    return {int(str(f["worker"])): int(str(f["pid"])) for f in balancer.events.of(Event.WORKER_STARTED)}


def shares(balancer: Balancer) -> list[int]:
    """Return how many flows each worker has made: read where the datapath lives."""
    running = balancer._driver.proxy._running
    return [sum(m.new_flows for m in w.flows.counters().rules.values()) for w in running._crew._workers]


@BOTH
async def test_flows_are_shared_and_counted_once(site: Site, balancer: Balancer, version: int) -> None:
    """Datagrams of many clients are all answered, both workers take part, and the numbers are those of one balancer."""
    await balancer.apply(ha_rule(site, version))
    with UdpMembers(site, version, port=PORT), ExitStack() as stack:
        sockets = await many_clients(site, version, stack)
        await asyncio.gather(*map(ask, sockets))  # and every neighbour is known from here on
        before = (await balancer.counters()).rules[f"ha{version}"]
        for _ in range(3):
            assert all(await asyncio.gather(*(once(sock, b"?", wait_s=PATIENCE_S) for sock in sockets)))
    assert all(share > CLIENTS // 8 for share in shares(balancer)), shares(balancer)
    assert sum(shares(balancer)) == CLIENTS
    counters = await balancer.counters()
    counted = counters.rules[f"ha{version}"]
    assert (counted.packets_in - before.packets_in, counted.packets_out - before.packets_out) == (3 * CLIENTS,) * 2
    assert counted.new_flows == CLIENTS
    flows = [flow for flow in await balancer.flows() if flow.protocol == "udp"]
    assert Counter(flow.client for flow in flows).most_common(1)[0][1] == 1
    assert len(flows) == CLIENTS
    assert all(flow.bytes_in and flow.bytes_out for flow in flows)


@BOTH
async def test_every_kind_of_packet_meets_its_worker(site: Site, balancer: Balancer, version: int) -> None:
    """Connections, pings, and datagrams in fragments of many clients come through, one as another."""
    await balancer.apply(ha_rule(site, version))
    with Members(site, version, port=80) as members, UdpMembers(site, version, port=PORT), ExitStack() as stack:
        sockets = await many_clients(site, version, stack)
        await asyncio.gather(*map(ask, sockets))
        for sock in sockets:
            answer = await once(sock, b"x" * 4_000, wait_s=PATIENCE_S)
            assert answer is not None
            assert answer.endswith(b"x" * 4_000)
        for sock in sockets[:8]:
            await site.clients[0].check_output("ping", "-c1", "-W5", "-I", sock.getsockname()[0], VIPS[version])
        for host in site.clients:
            async with members.joined(host, VIPS[version], 80) as (client, accepted):
                await greet(client, accepted)


@BOTH
async def test_a_member_that_is_a_client(site: Site, balancer: Balancer, version: int) -> None:
    """A member reaches its own VIP, whichever member is chosen: both halves meet one worker."""
    await balancer.apply(ha_rule(site, version))
    served: set[str] = set()
    with UdpMembers(site, version, port=PORT):
        for _ in range(TRIES):
            with site.members[0].udp(VIPS[version], PORT) as sock:
                served.add((await ask(sock))[0])
            if len(served) == len(site.members):
                break
    assert served == {host.name for host in site.members}


async def test_a_worker_that_is_killed(site: Site, balancer: Balancer) -> None:
    """The other one goes on, it returns with its flows, an event says so, and no number ever falls."""
    await balancer.apply(ha_rule(site))
    with UdpMembers(site, port=PORT), ExitStack() as stack:
        sockets = await many_clients(site, 4, stack)
        await asyncio.gather(*map(ask, sockets))
        before = await balancer.counters()
        owners = {flow.client: flow.target for flow in await balancer.flows() if flow.protocol == "udp"}
        os.kill((await pids(balancer))[1], signal.SIGKILL)
        answers = await asyncio.gather(*(once(sock, b"!", wait_s=PATIENCE_S) for sock in sockets))
        assert all(answers), "what came while the worker was away waits in its ring"
        died = balancer.events.of(Event.WORKER_DIED)
        assert [(event["worker"], event["why"]) for event in died] == [(1, "killed by SIGKILL")]
        assert len(balancer.events.of(Event.WORKER_STARTED)) == WORKERS + 1
        after = await balancer.counters()
        assert after.rules["ha4"].packets_in == before.rules["ha4"].packets_in + CLIENTS
        assert after.rules["ha4"].new_flows == before.rules["ha4"].new_flows
        assert after.flows == before.flows
        assert {f.client: f.target for f in await balancer.flows() if f.protocol == "udp"} == owners


async def test_tables_change_while_a_worker_is_away(site: Site, balancer: Balancer) -> None:
    """A worker that comes back has the tables of now, not those that its predecessor knew."""
    await balancer.apply(ha_rule(site))
    for pid in (await pids(balancer)).values():
        os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_S):
        while len(balancer.events.of(Event.WORKER_DIED)) < WORKERS:
            await asyncio.sleep(0.001)
    await balancer.apply(ha_rule(site), down=["be1", "be2"])
    with UdpMembers(site, port=PORT) as members, ExitStack() as stack:
        sockets = await many_clients(site, 4, stack)
        await asyncio.gather(*map(ask, sockets))
        assert set(members.served) == {"be3"}


async def test_reloads_under_traffic(site: Site, balancer: Balancer) -> None:
    """Generations take turns while many clients ask: every question is answered."""
    await balancer.apply(ha_rule(site))
    with UdpMembers(site, port=PORT), ExitStack() as stack:
        sockets = await many_clients(site, 4, stack)
        done = False

        async def visit(sock: socket.socket) -> int:
            asked = 0
            while not done:
                assert await once(sock, b"?", wait_s=PATIENCE_S)
                asked += 1
            return asked

        await asyncio.gather(*map(ask, sockets[:16]))
        visits = [asyncio.create_task(visit(sock)) for sock in sockets[:16]]
        for number in range(10):
            await balancer.apply(ha_rule(site), rule(site, 6), down=["be1"] if number % 2 else [])
        done = True
        assert all(await asyncio.gather(*visits))


async def test_closing_leaves_nothing(site: Site, balancer: Balancer) -> None:
    """After closing there is no worker, no filter and no packet socket."""
    await balancer.apply(ha_rule(site))
    found = list((await pids(balancer)).values())
    assert len(found) == WORKERS
    assert await balancer.close() == 0
    assert not [pid for pid in found if Path(f"/proc/{pid}").exists()]
    assert await site.lb.check_output("nft", "list", "ruleset") == ""
    assert len((await site.lb.check_output("cat", "/proc/net/packet")).splitlines()) == 1


@BOTH
async def test_what_is_routed_meets_one_worker_both_ways(lab: Lab, version: int) -> None:
    """Both directions of flows between two networks, by two interfaces, meet one worker and one appliance."""
    spokes = await Spokes.build(lab)
    with ExitStack() as stack, Witness(spokes) as witness:
        async with driven(spokes.hub, partial(PacketDatapath, workers=WORKERS)) as balancer:
            await balancer.apply(*spokes.rows(version))
            talks = Talks(spokes, version, stack)
            flows = [flow for end in (0, 1) for flow in await talks.begin(end, 12)]
            assert await talks.all_answered(flows)
            one_each(witness.seen(), flows)
            assert all((flow.bytes_in, flow.bytes_out) > (0, 0) for flow in await balancer.flows())
            counted = await balancer.counters()
    assert (counted.rules["end1"].new_flows, counted.rules["end2"].new_flows) == (36, 36)
    assert await spokes.strange() == 0


async def test_signals_and_the_end_of_the_process(site: Site) -> None:
    """Workers ignore what a terminal sends to all, end with a killed process at once, and with a stop in order."""
    names = ", ".join(f"{{name: {host.name}, address: {address_of(host)}}}" for host in site.members)
    config = site.lb.write("asynclb.yaml", CONFIG.format(members=names))
    balancer = await _start(site, config)
    found = _children(balancer)
    assert len(found) == WORKERS
    for pid in found:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
    with UdpMembers(site, port=PORT), ExitStack() as stack:
        sockets = await many_clients(site, 4, stack)
        await asyncio.gather(*map(ask, sockets))
        assert _children(balancer) == found
        await balancer.kill()
        async with asyncio.timeout(PATIENCE_S):
            while any(Path(f"/proc/{pid}").exists() for pid in found):
                await asyncio.sleep(0.01)
        balancer = await _start(site, config)
        found = _children(balancer)
        assert all(await asyncio.gather(*(once(sock, b"!", wait_s=PATIENCE_S) for sock in sockets)))
    assert await balancer.stop() == 0
    assert not [pid for pid in found if Path(f"/proc/{pid}").exists()]
    assert await site.lb.check_output("nft", "list", "ruleset") == ""


async def _start(site: Site, config: Path) -> Process:
    process = await site.lb.asynclb("run", config)
    await process.wait_for_log('"event": "started"')
    return process


def _children(process: Process) -> list[int]:
    lists = Path(f"/proc/{process.pid}/task").glob("*/children")  # of each thread its own
    return sorted(int(pid) for found in lists for pid in found.read_text(encoding="ascii").split())
