"""What each datapath tells of flows whose rule or member changes meanwhile: each end once, with its own reason."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import pytest

from asynclb.datapath.lifetimes import End, Lifetime
from asynclb.lab import PATIENCE_S, VIP4, Site
from asynclb.model import AdminState, BackendPool
from asynclb.net.flowhash import Distribution
from asynclb.tables.row import Row
from tests.netns.flow_log_site import KINDS, Log, told
from tests.netns.packet_site import UdpMembers, ask, udp_rule
from tests.netns.proxy_site import Members, address_of, rule, udp_socket
from tests.netns.test_packet_leaving import without

Change = Callable[[Row, str], list[Row]]
"""Makes the next rules of a rule and the member that a flow has."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name a datapath."""
    return str(request.param)


def draining(row: Row, name: str) -> list[Row]:
    """Drain a member for a second."""
    members = tuple(replace(m, admin_state=AdminState.DRAIN) if m.name == name else m for m in row.pool.members)
    return [replace(row, pool=BackendPool(row.pool.name, members, 1))]


def member_removed(row: Row, name: str) -> list[Row]:
    """Remove a member; its connections have a second."""
    return [without(row, name, drain_s=1)]


def rule_removed(_row: Row, _name: str) -> list[Row]:
    """Remove the rule; its connections have the second that its pool says."""
    return []


async def tcp_end(site: Site, kind: str, change: Change) -> Lifetime:
    """Return what is told of an open connection after a change."""
    async with told(site, kind) as (datapath, log):
        web = without(rule(site), drain_s=1)
        await datapath.apply(web)
        source = (address_of(site.clients[0]), 41010)
        with Members(site) as members:
            async with members.joined(site.clients[0], VIP4, source=source) as (wire, accepted):
                member = member_at(site, accepted.name[0])
                await datapath.apply(*change(web, member))
                flow = await log.end(f"{source[0]}:{source[1]}")
                await asyncio.gather(wire.expect_reset(), accepted.expect_reset())
        assert flow.place.member == member
        assert (flow.place.rule, flow.place.frontend) == (web.rule.name, web.frontend.name)
    return flow


async def udp_end(site: Site, kind: str, change: Change) -> Lifetime:
    """Return what is told of a UDP flow after a change, although it says nothing more."""
    async with told(site, kind) as (datapath, log):
        dns = without(udp_rule(site), drain_s=1)
        await datapath.apply(dns)
        source = (address_of(site.clients[0]), 41011)
        with UdpMembers(site), udp_socket(site.clients[0], *source) as sock:
            sock.connect((VIP4, 53))
            member = (await ask(sock, b"0123456789"))[0]
            await datapath.apply(*change(dns, member))
            flow = await log.end(f"{source[0]}:{source[1]}")
        assert flow.place.member == member
        assert (flow.place.rule, flow.place.frontend) == (dns.rule.name, dns.frontend.name)
        assert flow.place.member_address.endswith(f":{dns.rule.backend_port}")
        assert (flow.packets_in, flow.packets_out) == (1, 1)
    return flow


def member_at(site: Site, address: str) -> str:
    """Return whose address it is."""
    return next(host.name for host in site.members if address_of(host) == address)


@pytest.mark.parametrize(
    ("change", "end"), [(draining, End.DRAINED), (member_removed, End.DRAINED), (rule_removed, End.REMOVED)]
)
async def test_a_connection_whose_member_or_rule_leaves(site: Site, kind: str, change: Change, end: End) -> None:
    """Its end is told when the drain period is over: drained, or that its rule was removed."""
    assert (await tcp_end(site, kind, change)).end is end


@pytest.mark.parametrize("change", [draining, member_removed, rule_removed])
async def test_datagrams_whose_member_or_rule_leaves(site: Site, kind: str, change: Change) -> None:
    """A UDP flow that says nothing more is told of as well, with its rule's and its member's name."""
    flow = await udp_end(site, kind, change)
    kept = change is draining or (change is member_removed and kind == "proxy")
    assert flow.end is (End.DRAINED if kept else End.REMOVED)


@pytest.mark.parametrize("distribution", [Distribution.FIVE_TUPLE, Distribution.SOURCE_IP])
async def test_datagrams_that_move(site: Site, kind: str, distribution: Distribution) -> None:
    """When its member is down a client's next datagram meets another one: an end and a start, each with its member."""
    async with told(site, kind) as (datapath, log):
        dns = udp_rule(site, distribution=distribution)
        await datapath.apply(dns)
        with UdpMembers(site), ExitStack() as stack:
            clients = []
            for port in (41012, 41013):
                source = (address_of(site.clients[0]), port)
                sock = stack.enter_context(udp_socket(site.clients[0], *source))
                sock.connect((VIP4, 53))
                clients.append((sock, f"{source[0]}:{port}", (await ask(sock))[0]))
            if kind == "kernel":  # whose sweep has to see them first
                for _, client, _ in clients:
                    await log.start(client)
            down = {member for _, _, member in clients}
            assert distribution is Distribution.FIVE_TUPLE or len(down) == 1
            await datapath.apply(dns, down=down)
            for sock, client, before in clients:
                after = (await ask(sock))[0]
                assert after not in down
                await moved(log, client, before, after)
                flow = await log.end(client)
                assert (flow.end, flow.place.member, flow.packets_in) == (End.MOVED, before, 1)


async def moved(log: Log, client: str, before: str, after: str) -> None:
    """Wait until it was told that a client's flow has begun anew with another member."""
    async with asyncio.timeout(PATIENCE_S):
        while len(starts := [flow for flow in log.flows if flow.end is None and flow.client == client]) < 2:
            await asyncio.sleep(0.05)
    assert [flow.place.member for flow in starts] == [before, after]


async def test_a_reload_ends_nothing(site: Site, kind: str) -> None:
    """The same rules again, and a rule that changes, are no end; a connection's one end comes when it closes."""
    async with told(site, kind) as (datapath, log):
        web = rule(site)
        await datapath.apply(web)
        source = (address_of(site.clients[0]), 41014)
        with Members(site) as members:
            async with members.joined(site.clients[0], VIP4, source=source) as (wire, accepted):
                await wire.send(b"before")
                assert await accepted.exactly(6) == b"before"
                await datapath.apply(web)
                changed = rule(site, idle_timeout_s=77.0, distribution=Distribution.SOURCE_IP)
                await datapath.apply(changed)
                await wire.send(b"after")
                assert await accepted.exactly(5) == b"after"
                assert not log.ends(f"{source[0]}:{source[1]}")
                member = member_at(site, accepted.name[0])
            flow = await log.end(f"{source[0]}:{source[1]}")
        assert (flow.end, flow.place.rule, flow.place.member) == (End.CLOSED, "web", member)
        if kind == "proxy":
            assert flow.bytes_in == 11
