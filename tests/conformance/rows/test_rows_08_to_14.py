"""Rows 8 to 14: ports that clash, floating IP, HA ports."""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from typing import Any

import pytest

from asynclb.config.checks.deliveries import BACKEND_PORT_CLASH
from asynclb.lab import PATIENCE_S, Host
from asynclb.lab.namespace import ip_batch
from tests.conformance.rows.bed import (
    PORT,
    Bed,
    address_of,
    frontend,
    internal_vip,
    nat_rule,
    pool,
    rule,
    shares,
    vip,
)
from tests.conformance.rows.services import services

pytestmark = pytest.mark.asyncio(loop_scope="session")

HA: dict[str, Any] = {"protocol": "all", "frontend_port": 0, "backend_port": 0}
AZURE_PROBES: dict[str, Any] = {"probes": {}, "compat": "azure"}
RAW = {47: struct.pack("!HH", 0, 0x0800), 50: struct.pack("!II", 7, 1), 132: struct.pack("!HHII", 4000, 4001, 1, 0)}
"""GRE, ESP and SCTP: protocol number -> how a packet of it begins."""


async def test_row_08_backend_ports_that_clash(bed: Bed) -> None:
    """Two rules of one kind for one port of a member are refused with Azure's code, unless floating."""
    frontends = {"vip": frontend(internal_vip(8)), "two": frontend(internal_vip(8, more=1))}
    second = rule("second", frontend="two")
    await bed.load(frontends=frontends, rules=[rule()])
    with bed.serving():
        refused = await bed.refused(frontends=frontends, rules=[rule(), second], **AZURE_PROBES)
        assert refused.codes == {BACKEND_PORT_CLASH}
        await bed.visit(internal_vip(8))
        with pytest.raises(OSError):  # noqa: PT011  unreachable, or no answer
            await bed.visit(internal_vip(8, more=1))
        other_port = {**second, "backend_port": PORT + 1}
        with bed.serving(PORT + 1):
            await bed.load(frontends=frontends, rules=[rule(), other_port], **AZURE_PROBES)
            assert (await bed.visit(internal_vip(8))).asked[1] == PORT
            assert (await bed.visit(internal_vip(8, more=1))).asked[1] == PORT + 1


async def test_row_08_floating_rules_share_a_port(bed: Bed) -> None:
    """Two floating rules may use one port of a member: it tells them apart by the VIP."""
    both = [internal_vip(8), internal_vip(8, more=1)]
    if bed.datapath == "proxy":
        return  # no floating IP, which is row 9; what clashes is refused there as well, above
    rules = [rule(name, frontend=name, floating_ip=True, backend_port=80) for name in ("vip", "two")]
    parts = {"frontends": {"vip": frontend(both[0]), "two": frontend(both[1])}, "rules": rules}
    await bed.load(**parts, **AZURE_PROBES)
    with floating(bed, both[0], 80), floating(bed, both[1], 80):
        assert [(await bed.visit(one)).asked for one in both] == [(one, 80) for one in both]


@contextmanager
def floating(bed: Bed, address: str, *ports: int) -> Iterator[None]:
    """Give a VIP to every member, on its loopback, with the service on some of its ports."""
    hosts = bed.members.values()
    for host in hosts:
        ip_batch([f"addr add {address}/32 dev lo"], namespace=host.namespace)
    try:
        with services((host, address, port) for host in hosts for port in ports):
            yield
    finally:
        for host in hosts:
            ip_batch([f"addr del {address}/32 dev lo"], namespace=host.namespace)


async def test_row_09_floating_ip(bed: Bed) -> None:
    """The destination at the member stays the VIP, and the member answers the client itself; probes go elsewhere."""
    rules = [
        rule(floating_ip=True, backend_port=80),
        rule("dns", protocol="udp", frontend_port=53, floating_ip=True, backend_port=53),
    ]
    await bed.load(frontends={"vip": frontend(vip(9))}, rules=rules)
    with floating(bed, vip(9), 80, 53):
        found = [await bed.visit(vip(9)), await bed.ask(vip(9), 53)]
        assert [answer.asked for answer in found] == [(vip(9), 80), (vip(9), 53)]
        assert {answer.client[0] for answer in found} == {address_of("cli1")}


async def test_row_09_floating_ip_with_another_port(bed: Bed) -> None:
    """The VIP stays, the port becomes the backend port, and clients are answered from the port that they asked."""
    rules = [
        rule(floating_ip=True, backend_port=8080),
        rule("dns", protocol="udp", frontend_port=53, floating_ip=True, backend_port=5353),
    ]
    ports = nat_rule("ssh", frontend_port=2222, member="be1", floating_ip=True, backend_port=22)
    await bed.load(frontends={"vip": frontend(vip(9))}, rules=rules, inbound_nat_rules=[ports])
    warned = [one["where"] for one in bed.warnings if "answer from" in one["rule"]]
    assert warned == ["rules[0].backend_port", "rules[1].backend_port", "inbound_nat_rules[0].backend_port"]
    with floating(bed, vip(9), 8080, 5353, 22):
        found = [await bed.visit(vip(9)), await bed.ask(vip(9), 53), await bed.visit(vip(9), 2222)]
        assert [answer.asked for answer in found] == [(vip(9), 8080), (vip(9), 5353), (vip(9), 22)]
        assert {answer.client[0] for answer in found} == {address_of("cli1")}
        assert found[2].member == "be1"
        async with bed.stream(vip(9)) as (wire, _):
            assert wire.peer == (vip(9), 80)
            await wire.send(b"both ways")
            assert await wire.exactly(9) == b"both ways"
        refused = await bed.refused(
            frontends={"vip": frontend(vip(9))},
            rules=[*rules, rule("same", frontend_port=81, floating_ip=True, backend_port=8080)],
        )
        assert refused.codes == {BACKEND_PORT_CLASH}
        assert (await bed.visit(vip(9))).asked == (vip(9), 8080)


async def test_row_10_ha_ports(bed: Bed) -> None:
    """One rule carries every port of TCP and UDP, and ping."""
    await bed.load(frontends={"vip": frontend(internal_vip(10))}, rules=[rule(**HA)])
    ports = (1, 22, 443, 65535)
    with bed.serving(*ports):
        for port in ports:
            assert (await bed.visit(internal_vip(10), port)).asked[1] == port
            assert (await bed.ask(internal_vip(10), port)).asked[1] == port
        found = {
            (await bed.visit(internal_vip(10), 443, source_port=source)).member for source in range(43_000, 43_040)
        }
        assert found == set(bed.members)
    with ExitStack() as stack:
        heard = {name: stack.enter_context(raw(host, socket.IPPROTO_ICMP)) for name, host in bed.members.items()}
        await bed.client().check_output("ping", "-c", "2", "-i", "0.1", "-W", "5", internal_vip(10))
        assert sorted(count(sock, "cli1") for sock in heard.values()) == [0, 0, 0, 2]


async def test_row_11_every_protocol(bed: Bed) -> None:
    """All packets of a GRE, ESP or SCTP flow arrive at one member and one only; several flows meet several members."""
    vips = [internal_vip(11, more=number) for number in range(3)]
    names = [f"vip{number}" for number in range(3)]
    rules = [rule(name, frontend=name, backend_pool=name, **HA) for name in names]
    frontends = {name: frontend(address) for name, address in zip(names, vips, strict=True)}
    takers = set()
    for name, address, one in zip(names, vips, rules, strict=True):
        pools = {name: pool(*bed.members)}
        await bed.load(frontends={name: frontends[name]}, backend_pools=pools, rules=[one])
        for protocol, header in RAW.items():
            for client in ("cli1", "cli2"):
                takers.add(await home(bed, client, address, protocol, header))
    assert len(takers) > 1


async def home(bed: Bed, client: str, address: str, protocol: int, header: bytes) -> str:
    """Send ten packets of one flow; return the one member that got them all."""
    with ExitStack() as stack:
        members = {name: stack.enter_context(raw(host, protocol)) for name, host in bed.members.items()}
        sender = stack.enter_context(raw(bed.client(int(client[3:])), protocol))
        for _ in range(10):
            sender.sendto(header + bytes(20), (address, 0))
        counts = dict.fromkeys(members, 0)
        async with asyncio.timeout(PATIENCE_S):
            while sum(counts.values()) < 10:
                await asyncio.sleep(0.02)
                counts = {name: counts[name] + count(sock, client) for name, sock in members.items()}
    (taker,) = (name for name, found in counts.items() if found)
    return taker


def raw(host: Host, protocol: int) -> socket.socket:
    """Return a socket of one IP protocol on a host."""
    sock = host.open_socket(socket.AF_INET, socket.SOCK_RAW, protocol)
    sock.setblocking(False)
    return sock


def count(sock: socket.socket, client: str) -> int:
    """Return how many packets wait; check that each is from the client."""
    found = 0
    while True:
        try:
            packet, _ = sock.recvfrom(2048)
        except BlockingIOError:
            return found
        assert str(IPv4Address(packet[12:16])) == address_of(client)
        found += 1


async def test_row_12_ha_ports_beside_others(bed: Bed) -> None:
    """What Azure refuses beside HA ports is refused with `compat: azure`, and what it accepts carries traffic."""
    frontends = {"vip": frontend(internal_vip(12)), "two": frontend(internal_vip(12, more=1))}
    pub = {"vip": frontend(internal_vip(12)), "pub": frontend(vip(12))}
    ha, tcp = rule("ha", **HA), rule("tcp", frontend="two", backend_port=80)
    await bed.load(frontends={"vip": frontends["vip"]}, rules=[ha], **AZURE_PROBES)
    free = {**ha, "floating_ip": True}
    for refused, why in (
        ([ha, tcp], "an HA-ports rule and another rule"),
        ([ha, {**tcp, "floating_ip": True}], "an HA-ports rule and another rule"),
        ([free, tcp], "an HA-ports rule and another rule"),
        ([free, {**tcp, "frontend": "vip"}], "an HA-ports rule and another rule"),
        ([ha, {**tcp, "frontend": "vip", "floating_ip": True}], "an HA-ports rule and another rule"),
        ([free, rule("second", frontend="two", **HA)], "two HA-ports rules"),
        ([ha, rule("second", frontend="two", **HA)], "could not be told apart"),
        ([free, {**free, "name": "second"}], "has HA ports on frontend vip"),
        ([rule("ha", protocol="all", frontend_port=80, backend_port=0)], "takes every port (HA ports)"),
    ):
        found = await bed.refused(frontends=frontends, rules=refused, **AZURE_PROBES)
        assert any(why in problem["rule"] for problem in found.problems), (refused, str(found))
    two = {**free, "name": "second", "frontend": "two"}
    for accepted in ([free, two], [free, {**tcp, "floating_ip": True}]):
        await bed.load(frontends=frontends, rules=accepted, **AZURE_PROBES)
        with floating(bed, internal_vip(12), 22), floating(bed, internal_vip(12, more=1), 80):
            assert (await bed.visit(internal_vip(12), 22)).asked == (internal_vip(12), 22)
            assert (await bed.visit(internal_vip(12, more=1))).asked == (internal_vip(12, more=1), 80)
    await bed.load(frontends={"vip": frontends["vip"]}, rules=[ha], **AZURE_PROBES)
    with bed.serving(PORT, 22):
        assert (await bed.visit(internal_vip(12), 22)).asked[1] == 22
        await bed.load(frontends=pub, rules=[ha, rule("public", frontend="pub")], **AZURE_PROBES)
        assert (await bed.visit(internal_vip(12), 22)).asked[1] == 22
        assert (await bed.visit(vip(12))).asked[1] == PORT
        both = [{**ha, "floating_ip": True}, {**tcp, "frontend": "vip", "floating_ip": True}]
        await bed.load(frontends={"vip": frontends["vip"]}, rules=both, **AZURE_PROBES)
        with floating(bed, internal_vip(12), 80, 22):
            assert (await bed.visit(internal_vip(12), 80)).asked == (internal_vip(12), 80)
            assert (await bed.visit(internal_vip(12), 22)).asked == (internal_vip(12), 22)


async def test_row_13_ha_ports_on_a_public_frontend(bed: Bed) -> None:
    """Refused with `compat: azure`; without, it carries every port as an internal one does."""
    frontends = {"vip": frontend(vip(13))}
    refused = await bed.refused(frontends=frontends, rules=[rule(**HA)], **AZURE_PROBES)
    assert any("public frontend" in problem["rule"] for problem in refused.problems)
    await bed.load(frontends=frontends, rules=[rule(**HA)])
    with bed.serving(22, 443):
        found = [(await bed.visit(vip(13), port)).asked[1] for port in (22, 443)]
        assert found == [22, 443]
        assert len(shares(await bed.visits(vip(13), range(44_000, 44_040), 443))) == len(bed.members)
