"""Rows 49 to 59: what members open themselves leaves from ports of a frontend's address.

The first client's host is the world outside: it runs the service that says whom it sees.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import pairwise
from typing import Any

import pytest

from asynclb.admin.tables_text import table_text
from asynclb.lab import PATIENCE_S, Host
from tests.conformance.rows.bed import SILENCE_S, Bed, address_of, frontend, line, pool, rule, vip
from tests.conformance.rows.services import Answer, services
from tests.unit.proxy.wire import Listener, Wire, connect

pytestmark = pytest.mark.asyncio(loop_scope="session")

OUTSIDE, OTHER = 7000, 7001
SHORT_S = 1.0
CLOSED_S = 10.5  # how long a closed connection keeps its port, and a little


def outbound(**fields: Any) -> dict[str, Any]:
    """Return an outbound rule of the pool `web` by the frontend `vip`; private addresses are translated to as well."""
    usual = {"name": "out", "frontends": ["vip"], "backend_pool": "web", "direct": [], "allocated_ports": 8}
    return {key: value for key, value in {**usual, **fields}.items() if value is not None}


@contextmanager
def world(bed: Bed) -> Iterator[str]:
    """Run the outside service on two ports of both clients; yield the first one's address."""
    with services((host, address_of(host.name), port) for host in bed.site.clients for port in (OUTSIDE, OTHER)):
        yield address_of("cli1")


@asynccontextmanager
async def going(
    bed: Bed, member: str, *, source_port: int = 0, to: str = "cli1", port: int = OUTSIDE
) -> AsyncIterator[tuple[Wire, Answer]]:
    """Open a connection of a member's own; yield it with what the other end says."""
    host = bed.members[member]
    source = (address_of(member), source_port) if source_port else None
    with await connect(address_of(to), port, host=host, source=source) as wire:
        yield wire, Answer.read(await line(wire))


async def is_stuck(host: Host, *, port: int = OUTSIDE, to: str = "cli1") -> bool:
    """Return whether a connection of a member's own is not answered."""
    try:
        (await connect(address_of(to), port, host=host, wait_s=SILENCE_S)).close()
    except TimeoutError:
        return True
    return False


@contextmanager
def datagrams(host: Host, source_port: int) -> Iterator[socket.socket]:
    """Open a UDP socket of a member."""
    sock = host.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.setblocking(False)
        sock.bind((address_of(host.name), source_port))
        yield sock


async def asked(sock: socket.socket, to: str = "cli1", port: int = OUTSIDE) -> Answer | None:
    """Send a datagram and return what the other end says, or None if nothing comes."""
    for _ in range(2):
        sock.sendto(b"?", (address_of(to), port))
        try:
            async with asyncio.timeout(SILENCE_S):
                return Answer.read(await asyncio.get_running_loop().sock_recv(sock, 1 << 16))
        except TimeoutError:
            continue
    return None


async def figures(bed: Bed, name: str, **labels: str) -> float:
    """Return one of the SNAT metrics of a member."""
    inside = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return (await bed.metrics())[f"asynclb_snat_{name}{{{inside}}}"]


async def until_used(bed: Bed, count: int) -> None:
    """Return as soon as so many of the first member's TCP ports are in use; a datapath may count them now and then."""
    async with asyncio.timeout(PATIENCE_S):
        while await figures(bed, "ports_used", pool="web", member="be1", protocol="tcp") != count:
            await asyncio.sleep(0.1)


def slices(state: Mapping[str, Any], member: str) -> list[tuple[int, int]]:
    """Return the first and last ports of each run that a member has, by the state document."""
    (found,) = (rule for rule in state["outbound_rules"] if rule["name"] == "out")
    (mine,) = (one for one in found["members"] if one["name"] == member)
    return [tuple(map(int, run.split("-"))) for part in mine["ports"] for run in part["ranges"]]  # type: ignore[misc]


def within(port: int, runs: list[tuple[int, int]]) -> bool:
    """Return whether a port is in one of these runs."""
    return any(first <= port <= last for first, last in runs)


async def test_row_49_outbound_snat(bed: Bed) -> None:
    """Members leave as the frontend, each from its own ports, over TCP and UDP; answers reach them, large ones too."""
    await bed.load(frontends={"vip": frontend(vip(49))}, rules=[rule()], outbound_rules=[outbound(allocated_ports=64)])
    state = await bed.state()
    runs = {member: slices(state, member) for member in bed.members}
    with world(bed):
        for member in bed.members:
            async with going(bed, member) as (wire, seen):
                assert seen.client[0] == vip(49)
                assert within(seen.client[1], runs[member])
                data = bytes(range(256)) * 400
                await wire.send(data)
                assert await wire.exactly(len(data)) == data
            with datagrams(bed.members[member], 5000) as sock:
                answer = await asked(sock)
                assert answer is not None
                assert answer.client[0] == vip(49)
                assert within(answer.client[1], runs[member])
    every = sorted(run for found in runs.values() for run in found)
    assert all(one[1] < other[0] for one, other in pairwise(every))


async def test_row_49_outbound_snat_over_ipv6(bed: Bed) -> None:
    """Over IPv6 it is the same: TCP and UDP, ports of the member's own, and a ninth connection that finds none."""
    six = {"vip": frontend(vip(49, 6))}
    pools = {"web": pool(*bed.members, version=6)}
    await bed.load(frontends=six, backend_pools=pools, outbound_rules=[outbound(allocated_ports=8)])
    runs = slices(await bed.state(), "be1")
    client, member = address_of("cli1", 6), bed.members["be1"]
    place, source = (client, OUTSIDE), (address_of("be1", 6), 0)
    with services([(bed.client(), client, OUTSIDE)]):
        async with AsyncExitStack() as open_ones:
            ports = set()
            for _ in range(8):
                wire = open_ones.enter_context(await connect(*place, host=member, source=source))
                seen = Answer.read(await line(wire)).client
                assert seen[0] == vip(49, 6)
                assert within(seen[1], runs)
                ports.add(seen[1])
                assert await wire.echoes(bytes(range(256)) * 40)
            assert len(ports) == 8
            with pytest.raises(TimeoutError):
                await connect(*place, host=member, source=source, wait_s=SILENCE_S)
        with member.open_socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.bind(source)
            sock.sendto(b"?", place)
            async with asyncio.timeout(PATIENCE_S):
                told = Answer.read(await asyncio.get_running_loop().sock_recv(sock, 1 << 16))
            assert told.client[0] == vip(49, 6)
            assert within(told.client[1], runs)


async def test_row_50_snat_port_arithmetic(bed: Bed) -> None:
    """Ports come in blocks of 8, what does not fit is refused with numbers, and 0 is by the size of the pool."""
    parts: dict[str, Any] = {"frontends": {"vip": frontend(vip(50)), "more": frontend(vip(150))}}
    await bed.load(**parts, outbound_rules=[outbound()])
    refused = await bed.refused(**parts, outbound_rules=[outbound(allocated_ports=12)])
    assert refused.codes == {"SNAT_PORTS_NOT_IN_BLOCKS"}
    members = [{"name": f"m{i}", "address": f"10.0.4.{i}"} for i in range(1, 61)]
    seven = {"web": {"members": members[:7]}}
    refused = await bed.refused(**parts, backend_pools=seven, outbound_rules=[outbound(allocated_ports=10_000)])
    assert refused.codes == {"SNAT_PORTS_EXCEEDED"}
    assert "64,000" in refused.problems[0]["rule"]
    two = outbound(allocated_ports=10_000, frontends=["vip", "more"])
    await bed.load(**parts, backend_pools=seven, outbound_rules=[two])
    await bed.load(**parts, backend_pools={"web": {"members": members}}, outbound_rules=[outbound(allocated_ports=0)])
    assert await figures(bed, "ports_allocated", pool="web", member="m60") == 512


async def test_row_51_cost_of_inbound_ports(bed: Bed) -> None:
    """A rule's port costs the address 8 ports, and its block is never used."""
    parts: dict[str, Any] = {"frontends": {"vip": frontend(vip(51))}, "backend_pools": {"web": pool("be1")}}
    whole = {"allocation": "shared", "allocated_ports": None}
    await bed.load(**parts, outbound_rules=[outbound(**whole)])
    assert await figures(bed, "ports_allocated", pool="web", member="be1") == 64_000
    await bed.load(**parts, rules=[rule()], outbound_rules=[outbound(**whole)])
    assert await figures(bed, "ports_allocated", pool="web", member="be1") == 63_992
    own = rule("own", frontend_port=1028, backend_port=8081)
    await bed.load(**parts, rules=[own], outbound_rules=[outbound()])
    with world(bed):
        seen = set()
        async with AsyncExitStack() as open_ones:
            for _ in range(8):
                _wire, answer = await open_ones.enter_async_context(going(bed, "be1"))
                seen.add(answer.client[1])
    assert seen == set(range(1032, 1040))


async def test_row_52_reuse_of_tcp_ports(bed: Bed) -> None:
    """With 8 ports, the ninth connection to one destination fails; to another port or address there is room."""
    await bed.load(frontends={"vip": frontend(vip(52))}, outbound_rules=[outbound()])
    with world(bed):
        async with AsyncExitStack() as open_ones:
            ports = set()
            for _ in range(8):
                _wire, seen = await open_ones.enter_async_context(going(bed, "be1"))
                ports.add(seen.client[1])
            assert len(ports) == 8
            assert await is_stuck(bed.members["be1"])
            for to, port in (("cli1", OTHER), ("cli2", OUTSIDE)):
                _wire, seen = await open_ones.enter_async_context(going(bed, "be1", to=to, port=port))
                assert seen.client[1] in ports


async def test_row_53_udp(bed: Bed) -> None:
    """A UDP source has one port for an address; with 8 ports the ninth source fails there, and not elsewhere."""
    await bed.load(frontends={"vip": frontend(vip(53))}, outbound_rules=[outbound()])
    with world(bed):
        async with AsyncExitStack() as open_ones:
            socks = [open_ones.enter_context(datagrams(bed.members["be1"], 5300 + i)) for i in range(9)]
            answers = [await asked(sock) for sock in socks[:8]]
            ports = {answer.client[1] for answer in answers if answer is not None}
            assert len(ports) == 8
            again = await asked(socks[0], port=OTHER)
            assert again is not None
            assert answers[0] is not None
            assert again.client == answers[0].client
            assert await asked(socks[8]) is None
            assert await asked(socks[8], to="cli2") is not None


async def test_row_54_exhaustion(bed: Bed) -> None:
    """A member without a free port fails, is counted and told of; others are not; a freed port serves again."""
    await bed.load(frontends={"vip": frontend(vip(54))}, outbound_rules=[outbound()])
    with world(bed):
        async with AsyncExitStack() as open_ones:
            for _ in range(7):
                await open_ones.enter_async_context(going(bed, "be1"))
            async with going(bed, "be1"):
                assert await is_stuck(bed.members["be1"])
            closed_s = time.monotonic()  # which frees its port later
            assert await is_stuck(bed.members["be1"])
            async with going(bed, "be2") as (_wire, seen):
                assert seen.client[0] == vip(54)
            assert await figures(bed, "connections_total", pool="web", member="be1", state="failed") > 0
            assert await figures(bed, "connections_total", pool="web", member="be2", state="failed") == 0
            await until_used(bed, 8)
            told, _heads, fullest, *_ = table_text("outbound", await bed.state(), await bed.counters()).splitlines()
            assert told.startswith("! be1 of pool web uses 8 of its 8 SNAT ports (rule out, tcp)")
            assert fullest.split()[:7] == ["out", "web", "be1", "8", "8", "0", "0"]
            await bed.process.wait_for_log("SnatPortExhaustion")
            await asyncio.sleep(closed_s + CLOSED_S - time.monotonic())
            async with going(bed, "be1") as (_wire, seen):
                assert seen.client[0] == vip(54)


async def test_row_55_several_addresses(bed: Bed) -> None:
    """The second address is used when the first has no port left."""
    frontends = {"vip": frontend(vip(55)), "second": frontend(vip(155))}
    rules = [outbound(frontends=["vip", "second"], allocated_ports=16)]
    await bed.load(frontends=frontends, outbound_rules=rules)
    with world(bed):
        async with AsyncExitStack() as open_ones:
            seen = [(await open_ones.enter_async_context(going(bed, "be1")))[1].client[0] for _ in range(16)]
    assert seen == [vip(55)] * 8 + [vip(155)] * 8


async def test_row_56_rules_that_share_a_frontend(bed: Bed) -> None:
    """With `compat: azure` the frontend of a rule may be used only if that has `disable_outbound_snat`.

    With it, and without an outbound rule, there is no way out.
    """
    parts: dict[str, Any] = {"frontends": {"vip": frontend(vip(56))}, "probes": {}}
    out = outbound(direct=None)
    refused = await bed.refused(**parts, compat="azure", rules=[rule()], outbound_rules=[out])
    assert refused.codes == {"OUTBOUND_SNAT_ENABLED"}
    closed = rule(disable_outbound_snat=True)
    await bed.load(**parts, compat="azure", rules=[closed], outbound_rules=[out])
    await bed.load(**parts, rules=[closed])
    async with outside_address(bed) as address:
        with services([(bed.client(), address, OUTSIDE)]), pytest.raises(TimeoutError):
            await connect(address, OUTSIDE, host=bed.members["be1"], wait_s=SILENCE_S)
        await bed.load(**parts, rules=[closed], outbound_rules=[out])
        with (
            services([(bed.client(), address, OUTSIDE)]),
            await connect(address, OUTSIDE, host=bed.members["be1"]) as wire,
        ):
            assert Answer.read(await line(wire)).client[0] == vip(56)


@asynccontextmanager
async def outside_address(bed: Bed) -> AsyncIterator[str]:
    """Give the first client a public address; the balancer has a route to it."""
    address, client, lb = "198.51.100.11", bed.client(), bed.site.lb
    await client.check_output("ip", "address", "add", f"{address}/32", "dev", "lo")
    await lb.check_output("ip", "route", "add", f"{address}/32", "via", address_of("cli1"))
    try:
        yield address
    finally:
        await lb.check_output("ip", "route", "del", f"{address}/32")
        await client.check_output("ip", "address", "del", f"{address}/32", "dev", "lo")


async def test_row_57_protocol(bed: Bed) -> None:
    """A rule of TCP translates no UDP, which does not arrive untranslated either."""
    await bed.load(frontends={"vip": frontend(vip(57))}, outbound_rules=[outbound(protocol="tcp")])
    with world(bed):
        async with going(bed, "be1") as (_wire, seen):
            assert seen.client[0] == vip(57)
        with datagrams(bed.members["be1"], 5700) as sock:
            assert await asked(sock) is None
    assert (await bed.metrics())[f'asynclb_drops_total{{datapath="{bed.datapath}",reason="snat_protocol"}}'] > 0


async def test_row_58_idle_timeout(bed: Bed) -> None:
    """A silent connection ends at its time: both ends are reset, and its port is free."""
    rules = [outbound(idle_timeout=f"{SHORT_S:g}s", tcp_reset=True)]
    await bed.load(frontends={"vip": frontend(vip(58))}, outbound_rules=rules)
    with Listener(address_of("cli1"), host=bed.client()) as listener:
        place = address_of("cli1"), listener.port
        with (
            await connect(*place, host=bed.members["be1"]) as wire,
            await listener.accept() as other,
        ):
            assert other.peer[0] == vip(58)
            for one, two in ((wire, other), (other, wire)):
                await one.send(b"hello")
                assert await two.exactly(5) == b"hello"
            async with asyncio.timeout(SHORT_S + 8):
                await asyncio.gather(wire.expect_reset(), other.expect_reset())
    await until_used(bed, 0)


async def test_row_59_independent_of_probes(bed: Bed) -> None:
    """A member that its probe has down still goes out."""
    await bed.load(frontends={"vip": frontend(vip(59))}, rules=[rule(probe="tcp")], outbound_rules=[outbound()])
    bed.probed["be1"].down()
    await bed.eligible("web", "be2", "be3", "be4")
    with world(bed):
        async with going(bed, "be1") as (_wire, seen):
            assert seen.client[0] == vip(59)
