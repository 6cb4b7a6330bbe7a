"""Rows 8 to 14: ports that clash, floating IP, HA ports."""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import Any

import pytest

from asynclb.config.checks.deliveries import BACKEND_PORT_CLASH
from asynclb.lab.namespace import ip_batch
from tests.conformance.rows.bed import PORT, Bed, address_of, frontend, internal_vip, rule, shares, vip
from tests.conformance.rows.services import services

pytestmark = pytest.mark.asyncio(loop_scope="session")

HA: dict[str, Any] = {"protocol": "all", "frontend_port": 0, "backend_port": 0}
AZURE_PROBES: dict[str, Any] = {"probes": {}, "compat": "azure"}
GRE = 47


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
    await bed.client().check_output("ping", "-c", "2", "-i", "0.1", "-W", "5", internal_vip(10))


async def test_row_11_every_protocol(bed: Bed) -> None:
    """GRE packets of one flow arrive at exactly one member, and at several for several flows."""
    await bed.load(frontends={"vip": frontend(internal_vip(11))}, rules=[rule(**HA)])
    members = [raw(bed, name) for name in bed.members]
    client = bed.client().open_socket(socket.AF_INET, socket.SOCK_RAW, GRE)
    with client:
        takers = set()
        for _ in range(10):
            client.sendto(struct.pack("!HH", 0, 0x0800) + bytes(20), (internal_vip(11), 0))
            await asyncio.sleep(0.02)
        for sock, name in zip(members, bed.members, strict=True):
            with sock:
                if count(sock):
                    takers.add(name)
    assert len(takers) == 1


def raw(bed: Bed, name: str) -> socket.socket:
    """Return a socket that gets a member's GRE packets."""
    sock = bed.members[name].open_socket(socket.AF_INET, socket.SOCK_RAW, GRE)
    sock.setblocking(False)
    return sock


def count(sock: socket.socket) -> int:
    """Return how many packets of the client wait; check that each is for the member and from the client."""
    found = 0
    while True:
        try:
            packet, _ = sock.recvfrom(2048)
        except BlockingIOError:
            return found
        assert str(IPv4Address(packet[12:16])) == address_of("cli1")
        found += 1


async def test_row_12_ha_ports_beside_others(bed: Bed) -> None:
    """What Azure refuses beside HA ports is refused with `compat: azure`, and what it accepts carries traffic."""
    frontends = {"vip": frontend(internal_vip(12)), "two": frontend(internal_vip(12, more=1))}
    pub = {"vip": frontend(internal_vip(12)), "pub": frontend(vip(12))}
    ha, tcp = rule("ha", **HA), rule("tcp", frontend="two", backend_port=80)
    await bed.load(frontends={"vip": frontends["vip"]}, rules=[ha], **AZURE_PROBES)
    for refused in (
        [ha, tcp],
        [ha, {**tcp, "floating_ip": True}],
        [{**ha, "floating_ip": True}, tcp],
        [{**ha, "floating_ip": True}, rule("second", frontend="two", **HA)],
        [ha, rule("second", **HA)],
        [rule("ha", protocol="all", frontend_port=80, backend_port=0)],
    ):
        assert (await bed.refused(frontends=frontends, rules=refused, **AZURE_PROBES)).problems
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
