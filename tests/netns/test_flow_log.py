"""What each datapath tells of flows that begin and end, by real traffic: sizes, members, durations and reasons."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from asynclb.datapath.kernel import KernelDatapath
from asynclb.datapath.lifetimes import Describe, End, Lifetime, Listeners
from asynclb.datapath.packet import PacketDatapath
from asynclb.datapath.proxy import ProxyDatapath
from asynclb.lab import PATIENCE_S, VIP4, Site
from tests.netns.balancer import Balancer, balancer
from tests.netns.packet_site import UdpMembers, ask, udp_rule
from tests.netns.proxy_site import BACKEND_PORT, Members, address_of, rule, udp_socket

KINDS: dict[str, Callable[..., Any]] = {"proxy": ProxyDatapath, "packet": PacketDatapath, "kernel": KernelDatapath}


@dataclass
class Log:
    """What was told so far. Owner: a test."""

    flows: list[Lifetime] = field(default_factory=list)

    def tell(self, _count: int, describe: Describe) -> None:
        """Keep the words."""
        self.flows += describe()

    async def end(self, client: str) -> Lifetime:
        """Return the end of a client's flow, which is told once."""
        async with asyncio.timeout(PATIENCE_S):
            while not (found := [flow for flow in self.flows if flow.end and flow.client == client]):
                await asyncio.sleep(0.05)
        assert len(found) == 1
        return found[0]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name a datapath."""
    return str(request.param)


@asynccontextmanager
async def told(site: Site, kind: str) -> AsyncIterator[tuple[Balancer, Log]]:
    """Run a datapath that tells a log of its flows."""
    log = Log()
    async with balancer(site.lb, KINDS[kind]) as found:
        await found.ask(lambda driver: driver.proxy.tell_flows(Listeners(log.tell, log.tell)))
        yield found, log


async def test_a_connection_that_was_closed(site: Site, kind: str) -> None:
    """A start and an end are told of a connection: its member, the bytes both ways, and that both ends closed it."""
    async with told(site, kind) as (datapath, log):
        await datapath.apply(rule(site))
        client = f"{address_of(site.clients[0])}:41000"
        with Members(site) as members:
            source = (address_of(site.clients[0]), 41000)
            async with members.joined(site.clients[0], VIP4, source=source) as (wire, accepted):
                await wire.send(b"x" * 1_000)
                assert await accepted.exactly(1_000) == b"x" * 1_000
                await accepted.send(b"y" * 3_000)
                assert await wire.exactly(3_000) == b"y" * 3_000
                member = accepted.sock.getsockname()
            flow = await log.end(client)
        assert flow.end is End.CLOSED
        assert (flow.place.rule, flow.place.frontend_address, flow.place.protocol) == ("web", f"{VIP4}:80", "tcp")
        assert flow.place.member_address == f"{member[0]}:{member[1]}"
        assert address_of(next(host for host in site.members if host.name == flow.place.member)) == member[0]
        overhead = 0 if kind == "proxy" else (flow.packets_in + flow.packets_out) * 54
        assert flow.bytes_in + flow.bytes_out >= 4_000 + overhead
        if kind == "proxy":
            assert (flow.bytes_in, flow.bytes_out) == (1_000, 3_000)
        assert flow.packets_in >= 4
        assert flow.packets_out >= 3
        starts = [found for found in log.flows if found.end is None and found.client == client]
        assert [start.place.member for start in starts] == [flow.place.member]


async def test_a_connection_that_was_reset(site: Site, kind: str) -> None:
    """An end that resets its connection is told as the reason."""
    async with told(site, kind) as (datapath, log):
        await datapath.apply(rule(site))
        with Members(site) as members:
            source = (address_of(site.clients[0]), 41001)
            async with members.joined(site.clients[0], VIP4, source=source) as (wire, _):
                wire.reset()
            flow = await log.end(f"{source[0]}:{source[1]}")
        assert flow.end is End.RESET


async def test_datagrams_until_nothing_comes(site: Site, kind: str) -> None:
    """A UDP flow ends when it is idle, and its packets are those that were sent and answered."""
    async with told(site, kind) as (datapath, log):
        await datapath.apply(udp_rule(site, idle_timeout_s=2.0))
        source = (address_of(site.clients[0]), 41002)
        with UdpMembers(site), udp_socket(site.clients[0], *source) as sock:
            sock.connect((VIP4, 53))
            served = [(await ask(sock, b"0123456789"))[0] for _ in range(3)]
            flow = await log.end(f"{source[0]}:{source[1]}")
        assert flow.end is End.IDLE
        assert (flow.packets_in, flow.packets_out) == (3, 3)
        assert served == [flow.place.member] * 3
        assert flow.bytes_in == 3 * (10 if kind == "proxy" else 14 + 20 + 8 + 10)
        assert flow.place.member_address.endswith(f":{BACKEND_PORT}")


async def test_flows_that_are_open_at_the_end(site: Site, kind: str) -> None:
    """A datapath that stops tells of the flows that it ends."""
    async with told(site, kind) as (datapath, log):
        await datapath.apply(rule(site))
        with Members(site) as members:
            source = (address_of(site.clients[0]), 41003)
            async with members.joined(site.clients[0], VIP4, source=source):
                await datapath.close()
        assert [flow.end for flow in log.flows if flow.end] == [End.STOPPED]
