"""What each datapath tells of flows that begin and end, by real traffic: sizes, members, durations and reasons."""

import pytest

from asynclb.datapath.lifetimes import End
from asynclb.lab import VIP4, Site
from asynclb.net.address import endpoint
from tests.netns.flow_log_site import KINDS, told
from tests.netns.packet_site import UdpMembers, ask, udp_rule
from tests.netns.proxy_site import BACKEND_PORT, BOTH, VIPS, Members, address_of, rule, udp_socket

HEADER = {4: 20, 6: 40}
"""Bytes of an IP header."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name a datapath."""
    return str(request.param)


async def test_connections_that_end(site: Site, kind: str) -> None:
    """A start and an end are told of a connection: its member, the bytes both ways, and why it ended: closed, reset."""
    async with told(site, kind) as (datapath, log):
        await datapath.apply(*(rule(site, version, name=f"web{version}") for version in VIPS))
        closed = {version: await closed_connection(site, version) for version in VIPS}
        for version, member in closed.items():
            address = address_of(site.clients[0], version)
            flow = await log.end(client := endpoint(address, 41_000))
            assert (flow.end, (await log.end(endpoint(address, 41_001))).end) == (End.CLOSED, End.RESET)
            place = flow.place
            assert (place.rule, place.frontend_address) == (f"web{version}", endpoint(VIPS[version], 80))
            assert (place.protocol, place.member_address) == ("tcp", endpoint(*member))
            assert address_of(next(host for host in site.members if host.name == place.member), version) == member[0]
            overhead = 0 if kind == "proxy" else (flow.packets_in + flow.packets_out) * (34 + HEADER[version])
            assert flow.bytes_in + flow.bytes_out >= 4_000 + overhead
            if kind == "proxy":
                assert (flow.bytes_in, flow.bytes_out) == (1_000, 3_000)
            assert flow.packets_in >= 4
            assert flow.packets_out >= 3
            starts = [found for found in log.flows if found.end is None and found.client == client]
            assert [start.place.member for start in starts] == [place.member]


async def closed_connection(site: Site, version: int) -> tuple[str, int]:
    """Reset a connection, and have another say 1,000 bytes, hear 3,000 and close; return the latter's member."""
    address, vip = address_of(site.clients[0], version), VIPS[version]
    with Members(site, version) as members:
        async with members.joined(site.clients[0], vip, source=(address, 41_001)) as (wire, _):
            wire.reset()
        async with members.joined(site.clients[0], vip, source=(address, 41_000)) as (wire, accepted):
            await wire.send(b"x" * 1_000)
            assert await accepted.exactly(1_000) == b"x" * 1_000
            await accepted.send(b"y" * 3_000)
            assert await wire.exactly(3_000) == b"y" * 3_000
            return accepted.name


@BOTH
async def test_datagrams_until_nothing_comes(site: Site, kind: str, version: int) -> None:
    """A UDP flow ends when it is idle, and its packets are those that were sent and answered."""
    async with told(site, kind) as (datapath, log):
        await datapath.apply(udp_rule(site, version, idle_timeout_s=2.0))
        source = (address_of(site.clients[0], version), 41002)
        with UdpMembers(site, version), udp_socket(site.clients[0], *source) as sock:
            sock.connect((VIPS[version], 53))
            served = [(await ask(sock, b"0123456789"))[0] for _ in range(3)]
            flow = await log.end(endpoint(*source))
        assert flow.end is End.IDLE
        assert (flow.packets_in, flow.packets_out) == (3, 3)
        assert served == [flow.place.member] * 3
        assert flow.bytes_in == 3 * (10 if kind == "proxy" else 14 + HEADER[version] + 8 + 10)
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
