"""One set of flows of every protocol over HA-ports rules: each reaches the member that the tables name.

The answers: `asynclb.tables.lookup`, which is the law; the native core and its oracle on frames; the packet datapath
with sockets of real hosts. The proxy carries no HA ports.
"""

import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from asynclb.datapath.core.oracle.oracle import Oracle
from asynclb.errors import HostError
from asynclb.lab import STANDARD, Lab, require_root, require_tools
from asynclb.net.flow import Flow
from asynclb.net.flowhash import Distribution
from asynclb.tables.compile import compile_tables
from asynclb.tables.lookup import Verdict, choose, lookup
from asynclb.tables.row import Delivery, FrontendKey
from tests.netns.packet_site import VIPS, UdpMembers, address_of, ask, ha_rule, packets
from tests.netns.proxy_site import Members
from tests.unit.core.world import CLIENTS, OURS, SERVERS, Packet, World, ha, member_link, pool, tcp, udp, world
from tests.unit.proxy.world import SEED, Protocol, health_of

VERSIONS = pytest.mark.parametrize("version", [pytest.param(4, id="IPv4"), pytest.param(6, id="IPv6")])
NETWORKS = {4: ("198.51.100.{}", "10.9.0.{}", "10.1.0.{}"), 6: ("2001:db8:9::{}", "fd00:9::{}", "2001:db8:1::{}")}
"""Clients, servers behind appliances, members."""


def frames(version: int, destination: str) -> Iterator[tuple[Flow, Packet]]:
    """Yield flows of every protocol with a packet of each: ports where there are some, an echo's identifier as one."""
    icmp, request = {4: (1, 8), 6: (58, 128)}[version]
    for number in range(1, 13):
        source = NETWORKS[version][0].format(number)
        ports = 40_000 + number, 10 * number
        bodies = {
            132: (ports, struct.pack("!HHII", *ports, 1, 0)),
            47: ((0, 0), struct.pack("!HH", 0, 0x0800) + b"tunnel"),
            50: ((0, 0), struct.pack("!II", 7, number)),
            89: ((0, 0), b"whatever"),
            icmp: ((number, 0), struct.pack("!BBHHH", request, 0, 0, number, 1)),
        }
        ends = ip_address(source), ip_address(destination)
        yield Flow(ends[0], ports[0], ends[1], ports[1], 6), tcp(source, ports[0], destination, ports[1])
        yield Flow(ends[0], ports[0], ends[1], ports[1], 17), udp(source, ports[0], destination, ports[1])
        for protocol, ((sport, dport), body) in bodies.items():
            yield Flow(ends[0], sport, ends[1], dport, protocol), Packet(source, destination, protocol, body)


def one_rule(version: int, delivery: Delivery, distribution: Distribution) -> tuple[World, str]:
    """Return a network with one HA-ports rule, and where its clients send to."""
    _, servers, members = NETWORKS[version]
    backend = pool("pool", *(members.format(10 + n) for n in range(5)))
    vip = ip_address(VIPS[version])
    routed = delivery is Delivery.ROUTED
    key = FrontendKey(vip, 0, Protocol.ALL)
    options: dict[str, Any] = {"delivery": delivery, "distribution": distribution, "symmetric": routed}
    interfaces = {(CLIENTS, version): key, (SERVERS, version): key} if routed else {}
    return world(ha(backend, str(vip), **options), seed=SEED, routed=interfaces), servers.format(1) if routed else str(
        vip
    )


@VERSIONS
@pytest.mark.parametrize("delivery", Delivery)
@pytest.mark.parametrize("distribution", Distribution)
def test_the_core_and_its_oracle(version: int, delivery: Delivery, distribution: Distribution) -> None:
    """A packet of each flow leaves for the member that the tables name; routed ones also the other way round."""
    found, destination = one_rule(version, delivery, distribution)
    (entry,) = found.tables.entries.values()
    core, oracle = found.core(), Oracle(found.tables, found.plan, found.hops, {CLIENTS: OURS})
    back_core = found.core()
    for flow, packet in frames(version, destination):
        verdict = choose(SEED, entry, flow)
        assert isinstance(verdict, Verdict)
        assert delivery is Delivery.ROUTED or lookup(found.tables, flow) == verdict
        want = member_link(found.plan.next_hops[verdict.member.address])
        results = [one.process(bytes(packet), ifindex=CLIENTS, now_ns=1) for one in (core, oracle)]
        assert [result.frame[:6] for result in results] == [want, want], flow
        if delivery is Delivery.ROUTED and packet.protocol in (6, 17, 47, 50, 89):
            back = reverse(flow, packet)
            assert back_core.process(bytes(back), ifindex=SERVERS, now_ns=1).frame[:6] == want, flow
    core.close()
    back_core.close()


def reverse(flow: Flow, packet: Packet) -> Packet:
    """Return a packet of the other direction."""
    source, destination = str(flow.destination), str(flow.source)
    if packet.protocol in (6, 17):
        make = tcp if packet.protocol == 6 else udp
        return make(source, flow.destination_port, destination, flow.source_port)
    return Packet(source, destination, packet.protocol, packet.body)


@pytest.mark.netns
@VERSIONS
async def test_the_packet_datapath_between_real_hosts(version: int) -> None:
    """Each flow, to any port, from its own client's address and port, reaches the member that the tables name."""
    try:
        require_root("network namespaces")
        require_tools("ip", "setpriv")
    except HostError as error:
        pytest.skip(str(error))
    async with Lab("conformance-ha") as lab:
        site = await STANDARD.build(lab)
        names = {address_of(host, version): host.name for host in site.members}
        async with packets(site.lb) as balancer:
            for turn, distribution in enumerate(Distribution):
                row = ha_rule(site, version, distribution=distribution)
                await balancer.apply(row)
                tables = compile_tables([row], health_of([row]), seed=SEED, generation=1)
                for number in range(8):
                    host = site.clients[number % 2]
                    source, port = (address_of(host, version), 42_000 + 100 * turn + number), 7_000 + number
                    ends = ip_address(source[0]), ip_address(VIPS[version])
                    wanted = {p: lookup(tables, Flow(ends[0], source[1], ends[1], port, p)) for p in (6, 17)}
                    with UdpMembers(site, version, port=port), host.udp(VIPS[version], port, source=source) as sock:
                        by_udp = (await ask(sock))[0]
                    with Members(site, version, port=port) as members:
                        async with members.joined(host, VIPS[version], port, source=source) as (client, accepted):
                            by_tcp = names[accepted.name[0]]
                            client.reset()
                    found = [v.member.name for v in (wanted[17], wanted[6]) if isinstance(v, Verdict)]
                    assert found == [by_udp, by_tcp]
