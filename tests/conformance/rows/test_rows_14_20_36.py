"""Rows 14, 20, 32 and 36, which need more of a lab than the others: appliances, certificates, both ends of a flow."""

import asyncio
import socket
import ssl
import struct
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from asynclb.lab.namespace import ip_batch
from tests.conformance.rows.bed import (
    Bed,
    address_of,
    answer_to,
    frontend,
    health,
    internal_vip,
    pool,
    rule,
    vip,
)
from tests.conformance.rows.services import services
from tests.conformance.rows.test_rows_15_to_27 import HTTP, Http
from tests.conformance.rows.test_rows_38_to_48 import SWEEP_S, both_ends

pytestmark = pytest.mark.asyncio(loop_scope="session")

LEFT, RIGHT = "10.77.0.1", "10.77.0.2"
"""Addresses of the two clients, each reached by the other by way of the balancer and an appliance."""

_ETH_P_ALL = 3
FLOWS = range(45_000, 45_500)


@contextmanager
def appliances(bed: Bed) -> Iterator[dict[str, socket.socket]]:
    """Make members forward, and the clients reach each other by way of the balancer; yield what members receive."""
    lb, (left, right) = bed.site.lb, bed.site.clients
    ip_batch([f"addr add {LEFT}/32 dev lo"], namespace=left.namespace)
    ip_batch([f"addr add {RIGHT}/32 dev lo"], namespace=right.namespace)
    ways = [f"{LEFT}/32 via {address_of('cli1')}", f"{RIGHT}/32 via {address_of('cli2')}"]
    ip_batch([f"route add {way}" for way in ways], namespace=lb.namespace)
    with ExitStack() as stack:
        stack.callback(ip_batch, [f"route del {way}" for way in ways], namespace=lb.namespace)
        stack.callback(ip_batch, [f"addr del {LEFT}/32 dev lo"], namespace=left.namespace)
        stack.callback(ip_batch, [f"addr del {RIGHT}/32 dev lo"], namespace=right.namespace)
        seen = {}
        for name, host in bed.members.items():
            with host.entered():
                Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
                Path("/proc/sys/net/ipv4/conf/all/send_redirects").write_text("0")
            sock = host.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
            seen[name] = stack.enter_context(sock)
            sock.setblocking(False)
        yield seen


def passed(sock: socket.socket) -> set[tuple[str, int]]:
    """Return (sender, the client's port) of the datagrams that a member received."""
    found: set[tuple[str, int]] = set()
    while True:
        try:
            packet, (_, _, direction, *_) = sock.recvfrom(2048)
        except BlockingIOError:
            return found
        if direction != socket.PACKET_OUTGOING and packet[0] == 0x45 and packet[9] == socket.IPPROTO_UDP:
            sender, ports = str(IPv4Address(packet[12:16])), struct.unpack_from("!HH", packet, 20)
            found.add((sender, ports[0] if sender == LEFT else ports[1]))


async def test_row_14_flow_symmetry(bed: Bed) -> None:
    """Both directions of every flow that is routed through a frontend pass one and the same member."""
    hub = {"vip": frontend(internal_vip(14), interface="front", routed=True)}
    await bed.load(frontends=hub, rules=[rule(protocol="all", frontend_port=0, backend_port=0)])
    homes: dict[int, set[str]] = defaultdict(set)
    ways: dict[int, set[str]] = defaultdict(set)
    with appliances(bed) as seen, services([(bed.client(2), RIGHT, 7)]):
        for port in FLOWS:
            with bed.client().udp(RIGHT, 7, source=(LEFT, port)) as sock:
                assert (await answer_to(sock)).client == (LEFT, port)
            for name, capture in seen.items():  # at once: a capture holds a few hundred packets
                for sender, met in passed(capture):
                    homes[met].add(name)
                    ways[met].add(sender)
    assert {port: len(homes[port]) for port in FLOWS} == dict.fromkeys(FLOWS, 1)
    assert all(ways[port] == {LEFT, RIGHT} for port in FLOWS)
    assert {name for found in homes.values() for name in found} == set(bed.members)


async def certificate(bed: Bed, *, days: int = 1) -> ssl.SSLContext:
    """Return a server's context with a self-signed certificate in `cert.pem`; -1 day: it expired yesterday."""
    key, cert, asked = (bed.site.lb.directory / name for name in ("key.pem", "cert.pem", "asked.pem"))
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=member")
    named = ("-addext", "subjectAltName=DNS:member")
    await bed.site.lb.check_output("openssl", "req", "-new", *curve, *named, "-keyout", key, "-out", asked)
    signed = ("-copy_extensions", "copy", "-signkey", key, "-days", str(days), "-out", cert)
    await bed.site.lb.check_output("openssl", "x509", "-req", "-in", asked, *signed)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


async def test_row_20_https_probe(bed: Bed) -> None:
    """A self-signed certificate is accepted, a server that wants the prober's own certificate is down."""
    context = await certificate(bed)
    probe = {**HTTP, "protocol": "https", "interval": "500ms", "timeout": "500ms", "flap_damping": False}
    parts = {"frontends": {"vip": frontend(vip(20))}, "rules": [rule(probe="tcp")], "probes": {"tcp": probe}}
    backend = {"web": pool("be1")}
    with bed.serving():
        async with Http(bed, "be1", tls=context) as server:
            await bed.load(**parts, backend_pools=backend)
            await bed.eligible("web", "be1")
            await bed.visit(vip(20))
            server.status = 503
            await bed.eligible("web")
            server.status = 200
            await bed.eligible("web", "be1")
            context.load_verify_locations(bed.site.lb.directory / "cert.pem")
            context.verify_mode = ssl.CERT_REQUIRED
            await bed.eligible("web")
            assert health(await bed.state(), "be1")["state"] == "down"
            assert await bed.is_silent(vip(20))


async def test_row_20_expired_certificate(bed: Bed) -> None:
    """With `verify` a member is down once its certificate has expired, and says so; usually nothing is verified."""
    context = await certificate(bed)
    files = [str(bed.site.lb.directory / name) for name in ("cert.pem", "key.pem")]
    probe = {**HTTP, "protocol": "https", "interval": "500ms", "timeout": "500ms", "flap_damping": False}
    verified = {**probe, "tls": {"verify": True, "server_name": "member", "ca_file": files[0]}}
    parts = {"frontends": {"vip": frontend(vip(20))}, "rules": [rule(probe="tcp")]}
    backend = {"web": pool("be1")}
    with bed.serving():
        async with Http(bed, "be1", tls=context):
            await bed.load(**parts, backend_pools=backend, probes={"tcp": verified})
            await bed.eligible("web", "be1")
            await certificate(bed, days=-1)
            context.load_cert_chain(*files)
            await bed.eligible("web")
            await bed.until(lambda state: "has expired" in health(state, "be1")["detail"], "the reason is told")
            assert await bed.is_silent(vip(20))
            await bed.load(**parts, backend_pools=backend, probes={"tcp": probe})
            await bed.eligible("web", "be1")
            await bed.visit(vip(20))


async def test_row_32_udp_stays(bed: Bed) -> None:
    """Running UDP flows stay with their members when others come; new flows go to those as well."""
    parts = {"frontends": {"vip": frontend(vip(32))}, "rules": [rule(protocol="udp")]}
    await bed.load(**parts, backend_pools={"web": pool("be1", "be2", "be3")})
    with bed.serving(), ExitStack() as stack:
        socks = [stack.enter_context(bed.asking(vip(32), source_port=port)) for port in FLOWS[:40]]
        before = [(await answer_to(sock)).member for sock in socks]
        await bed.load(**parts, backend_pools={"web": pool(*bed.members)})
        assert [(await answer_to(sock)).member for sock in socks] == before
        fresh = {(await bed.ask(vip(32), source_port=port)).member for port in FLOWS[40:80]}
        assert fresh == set(bed.members)


async def test_row_36_removal_of_a_member(bed: Bed) -> None:
    """A removed member takes nothing new; its connection goes on for the drain period, then both ends are reset."""
    parts = {"frontends": {"vip": frontend(vip(36))}, "rules": [rule()]}
    drained: dict[str, Any] = {"drain_period": "2s"}
    await bed.load(**parts, backend_pools={"web": pool(*bed.members, **drained)})
    async with both_ends(bed, 36) as (client, member):
        gone = next(name for name in bed.members if address_of(name) == member.name[0])
        stay = [name for name in bed.members if name != gone]
        await bed.load(**parts, backend_pools={"web": pool(*stay, **drained)})
        await client.send(b"still")
        assert await member.exactly(5) == b"still"
        await member.send(b"here")
        assert await client.exactly(4) == b"here"
        async with asyncio.timeout(2 + SWEEP_S):
            await asyncio.gather(client.expect_reset(), member.expect_reset())
    with bed.serving():
        assert set(await bed.visits(vip(36), FLOWS)) == set(stay)
