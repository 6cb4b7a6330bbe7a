"""One set of flows over everything that balances: whatever carries a flow, it reaches the member that the tables name.

The answers: `asynclb.tables.lookup`, which is the law; the native core and its oracle on a frame of the flow; the
datapaths with sockets of real hosts, the kernel's by tc and by both kinds of XDP.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import product
from typing import Any

import pytest

from asynclb.datapath.core.oracle.oracle import Oracle
from asynclb.datapath.packet import PacketDatapath
from asynclb.datapath.proxy import ProxyDatapath
from asynclb.errors import HostError
from asynclb.lab import STANDARD, Lab, Site, require_root, require_tools
from asynclb.net.flow import PROTOCOL_NUMBERS, Flow
from asynclb.net.flowhash import Distribution
from asynclb.tables.compile import compile_tables
from asynclb.tables.lookup import Verdict, lookup
from asynclb.tables.row import Row
from asynclb.tables.tables import Tables
from tests.netns.balancer import balancer
from tests.netns.kernel_site import attached, kernel_kind, needs_kernel
from tests.netns.packet_site import UdpMembers, ask
from tests.netns.proxy_site import VIPS, Members, address_of
from tests.unit.core.world import CLIENTS, OURS, World, member_link, tcp, udp
from tests.unit.core.world import world as numbered
from tests.unit.proxy.wire import connect
from tests.unit.proxy.world import SEED, Protocol, health_of, member, pool, row

PORTS = range(41_000, 41_006)
BACKEND_PORT = 8080
DATAPATHS: dict[str, Callable[..., Any]] = {
    "proxy": ProxyDatapath,
    "packet": PacketDatapath,
    "kernel-tc": kernel_kind(attached("tc")),
    "kernel-xdp": kernel_kind(attached("xdp")),
    "kernel-xdp-generic": kernel_kind(attached("xdp-generic")),
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One rule and the health of its pool."""

    version: int
    protocol: Protocol
    distribution: Distribution
    weights: tuple[int, ...]
    down: tuple[str, ...]

    def row(self, port: int) -> Row:
        """Return the scenario's rule on a port of its own."""
        network = {4: "10.0.2.{}", 6: "2001:db8:2::{}"}[self.version]
        members = [member(f"be{n}", network.format(10 + n), weight=weight) for n, weight in enumerate(self.weights, 1)]
        fields: dict[str, Any] = {"protocol": self.protocol, "distribution": self.distribution, "name": f"rule-{port}"}
        return row(VIPS[self.version], port, pool(members, name=f"pool-{port}"), BACKEND_PORT + port, **fields)

    def flows(self, port: int) -> Iterator[Flow]:
        """Return some flows of two clients."""
        clients = {4: "10.0.1.{}", 6: "2001:db8:1::{}"}[self.version]
        for number, source_port in product((1, 2), PORTS):
            source, vip = ip_address(clients.format(10 + number)), ip_address(VIPS[self.version])
            yield Flow(source, source_port, vip, port, PROTOCOL_NUMBERS[self.protocol])


SCENARIOS = {
    1_000 + number: Scenario(version, protocol, distribution, *pooled)
    for number, (version, protocol, distribution, pooled) in enumerate(
        product(
            (4, 6),
            (Protocol.TCP, Protocol.UDP),
            Distribution,
            (((100, 100, 100), ()), ((10, 100, 40), ()), ((100, 100, 100), ("be2",))),
        )
    )
}


def health_rows(scenarios: dict[int, Scenario]) -> tuple[list[Row], Tables]:
    """Return the rows of some scenarios that have the same members down, and their tables."""
    rows = [scenario.row(port) for port, scenario in scenarios.items()]
    down = next(iter(scenarios.values())).down
    return rows, compile_tables(rows, health_of(rows, down), seed=SEED, generation=1)


def by_health() -> list[dict[int, Scenario]]:
    """Return the scenarios in groups that have the same members down."""
    downs = sorted({scenario.down for scenario in SCENARIOS.values()})
    return [{port: found for port, found in SCENARIOS.items() if found.down == down} for down in downs]


def expected(tables: Tables, flow: Flow) -> str:
    """Return the member that the tables name."""
    found = lookup(tables, flow)
    assert isinstance(found, Verdict)
    return found.member.name


@pytest.mark.parametrize("scenarios", by_health(), ids=["all up", "one down"])
def test_the_core_and_its_oracle(scenarios: dict[int, Scenario]) -> None:
    """A frame of each flow leaves for the member that the tables name, and so it does in the oracle."""
    rows, tables = health_rows(scenarios)
    plan = numbered(*rows)
    world = World(tables, plan.plan, plan.hops)
    core, oracle = world.core(), Oracle(tables, plan.plan, plan.hops, {CLIENTS: OURS})
    for port, scenario in scenarios.items():
        make = tcp if scenario.protocol is Protocol.TCP else udp
        addresses = {m.name: m.address for m in scenario.row(port).pool.members}
        for flow in scenario.flows(port):
            frame = bytes(make(str(flow.source), flow.source_port, str(flow.destination), port))
            want = member_link(plan.plan.next_hops[addresses[expected(tables, flow)]])
            for result in (
                core.process(frame, ifindex=CLIENTS, now_ns=1),
                oracle.process(frame, ifindex=CLIENTS, now_ns=1),
            ):
                assert result.frame[:6] == want, flow
    core.close()


@pytest.mark.netns
@pytest.mark.parametrize("scenarios", by_health(), ids=["all up", "one down"])
@pytest.mark.parametrize("datapath", DATAPATHS)
async def test_datapaths_between_real_hosts(datapath: str, scenarios: dict[int, Scenario]) -> None:
    """Each flow, from its own client's address and port, reaches the member that the tables name."""
    try:
        require_root("network namespaces")
        require_tools("ip", "setpriv")
    except HostError as error:
        pytest.skip(str(error))
    if datapath.startswith("kernel"):
        needs_kernel()
    rows, tables = health_rows(scenarios)
    async with Lab(f"conformance-{datapath}", offload="xdp" not in datapath) as lab:
        site = await STANDARD.build(lab)
        async with balancer(site.lb, DATAPATHS[datapath]) as found:
            await found.apply(*rows, down=next(iter(scenarios.values())).down)
            for port, scenario in scenarios.items():
                for flow in scenario.flows(port):
                    assert await _served_by(site, scenario, flow) == expected(tables, flow), flow


async def _served_by(site: Site, scenario: Scenario, flow: Flow) -> str:
    host = next(host for host in site.clients if address_of(host, scenario.version) == str(flow.source))
    source, vip, port = (
        (str(flow.source), flow.source_port),
        str(flow.destination),
        BACKEND_PORT + flow.destination_port,
    )
    if scenario.protocol is Protocol.UDP:
        with UdpMembers(site, scenario.version, port=port) as members:
            with host.udp(vip, flow.destination_port, source=source) as sock:
                await ask(sock)
            return members.served[-1]
    with ExitStack() as stack:
        listening = stack.enter_context(Members(site, scenario.version, port=port))
        client = stack.enter_context(await connect(vip, flow.destination_port, host=host, source=source))
        accepted = stack.enter_context(await listening.accept())
        name = next(host.name for host in site.members if address_of(host, scenario.version) == accepted.name[0])
        client.reset()
        return name
