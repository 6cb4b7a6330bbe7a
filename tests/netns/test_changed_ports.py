"""Floating IP with another backend port, by real traffic: members serve VIP:8080, clients know VIP:80 alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from asynclb.errors import ApplyError
from asynclb.lab import PATIENCE_S, STANDARD, Host, Lab, Site
from asynclb.lab.namespace import ip_batch
from asynclb.net.drop import Drop
from asynclb.net.flow import Protocol
from asynclb.tables.row import Delivery, Row
from tests.netns.balancer import Balancer
from tests.netns.kernel_site import kernel, let_xdp_redirect
from tests.netns.packet_site import VIPS, Frames, UdpMembers, ask, packets, rule, wrong_checksum
from tests.netns.proxy_site import BOTH, greet
from tests.netns.test_packet_own_mtu import BLOCK, NARROW, PATH_MTU, pour
from tests.netns.test_packet_traffic import first_of
from tests.unit.proxy.wire import Listener, Wire, connect

MEMBER_PORT, KEPT = 8080, 443
Run = Callable[[Host], AbstractAsyncContextManager[Balancer]]
FLOATING: dict[str, Any] = {"delivery": Delivery.FLOATING, "floating_ip": True}
EVERYWHERE = pytest.mark.parametrize(
    ("run", "offload"),
    [
        pytest.param(packets, True, id="packet"),
        pytest.param(packets, False, id="packet, whole frames"),
        pytest.param(partial(kernel, attach="tc"), True, id="tc"),
        pytest.param(partial(kernel, attach="tc"), False, id="tc, whole frames"),
        pytest.param(partial(kernel, attach="xdp"), False, id="xdp"),
    ],
)


def rules(site: Site, version: int, **fields: Any) -> tuple[Row, ...]:
    """Return a rule of TCP and one of UDP that change the port, and one that does not, on one VIP."""
    return (
        rule(site, version, backend_port=MEMBER_PORT, **FLOATING, **fields),
        rule(site, version, port=53, backend_port=5353, name="dns", protocol=Protocol.UDP, **FLOATING),
        rule(site, version, port=KEPT, backend_port=KEPT, name="kept", **FLOATING),
    )


@asynccontextmanager
async def floating_site(name: str, version: int, *, offload: bool = True, gro: bool = True) -> AsyncIterator[Site]:
    """Build the standard lab with the VIP on every member's loopback."""
    async with Lab(name, offload=offload) as lab:
        site = await STANDARD.build(lab)
        if gro:
            await let_xdp_redirect(lab)
        for host in site.members:
            ip_batch([f"addr add {VIPS[version]}/{32 if version == 4 else 128} dev lo"], namespace=host.namespace)
        yield site


@asynccontextmanager
async def joined(site: Site, version: int, port: int = 80, member_port: int = MEMBER_PORT) -> AsyncIterator[list[Wire]]:
    """Open a connection; yield the client's end and the member's."""
    vip = VIPS[version]
    with ExitStack() as stack:
        listeners = [stack.enter_context(Listener(vip, member_port, host=host)) for host in site.members]
        client = stack.enter_context(await connect(vip, port, host=site.clients[0]))
        yield [client, stack.enter_context(await first_of(listeners))]


@BOTH
@EVERYWHERE
async def test_members_serve_another_port_of_the_vip(version: int, run: Run, offload: bool) -> None:
    """Members see the client and VIP:8080; the client hears VIP:80 alone, and every checksum is right."""
    vip = VIPS[version]
    async with floating_site("ports", version, offload=offload) as site, run(site.lb) as balancer:
        await balancer.apply(*rules(site, version))
        with Frames(site.clients[0]) as heard, Frames(site.members[0]) as seen:
            async with joined(site, version) as (client, accepted):
                assert (accepted.peer, accepted.name) == (client.name, (vip, MEMBER_PORT))
                await greet(client, accepted)
                await pour(client, accepted)
                await pour(accepted, client)
            async with joined(site, version, KEPT, KEPT) as (client, accepted):
                await greet(client, accepted)
            with UdpMembers(site, version, port=5353, address=vip), site.clients[0].udp(vip, 53) as sock:
                assert (await ask(sock))[1:] == sock.getsockname()[:2]
            frames, others = heard.received(), seen.received()
        counters = (await balancer.counters()).rules
    assert min(counters[name].packets_out for name in ("web", "dns")) > 0
    assert not counters["kept"].packets_out
    assert {port for frame in frames if (port := sender(frame, version)) is not None} == {80, KEPT, 53}
    if not offload:
        assert [(wrong, one.hex()) for one in (*frames, *others) if (wrong := wrong_checksum(one))] == []


def sender(frame: bytes, version: int) -> int | None:
    """Return the port that a TCP or UDP frame comes from, if it is one."""
    at, kind = (34, frame[23]) if version == 4 else (54, frame[20])
    wanted = b"\x08\x00" if version == 4 else b"\x86\xdd"
    return int.from_bytes(frame[at : at + 2], "big") if frame[12:14] == wanted and kind in (6, 17) else None


@BOTH
@EVERYWHERE
async def test_what_ends_and_fails_names_the_right_port(version: int, run: Run, offload: bool) -> None:
    """Fragments find their port, "port unreachable" its socket, both ends of an idle connection believe the reset."""
    vip = VIPS[version]
    async with floating_site("ends", version, offload=offload) as site, run(site.lb) as balancer:
        await balancer.apply(*rules(site, version, idle_timeout_s=1.0, tcp_reset=True))
        with site.clients[0].udp(vip, 53) as sock:
            with UdpMembers(site, version, port=5353, address=vip):
                assert (await ask(sock, BLOCK[:4_000]))[1:] == sock.getsockname()[:2]
            sock.send(b"nobody is there any more")
            with pytest.raises(ConnectionRefusedError):
                async with asyncio.timeout(PATIENCE_S):
                    await asyncio.get_running_loop().sock_recv(sock, 100)
        async with joined(site, version) as (client, accepted):
            await greet(client, accepted)
            await asyncio.gather(client.expect_reset(), accepted.expect_reset())


@BOTH
@EVERYWHERE
async def test_answers_over_a_narrow_link_of_our_own(version: int, run: Run, offload: bool) -> None:
    """A member that has the VIP itself believes what it is told of the size, and its answer arrives whole."""
    async with floating_site("narrow", version, offload=offload) as site:
        ip_batch([f"link set dev front mtu {NARROW}"], namespace=site.lb.namespace)
        async with run(site.lb) as balancer:
            await balancer.apply(*rules(site, version))
            async with joined(site, version) as (client, accepted):
                await pour(accepted, client)
                assert accepted.sock.getsockopt(*PATH_MTU[version]) == NARROW
            assert (await balancer.counters()).drops[Drop.TOO_BIG] >= 1


@EVERYWHERE
async def test_connections_survive_a_change_of_the_port(run: Run, offload: bool) -> None:
    """Those who are there stay on the port that they came to, and hear VIP:80; new ones meet the new port."""
    async with floating_site("moves", 4, offload=offload) as site, run(site.lb) as balancer:
        await balancer.apply(*rules(site, 4))
        async with joined(site, 4) as (client, accepted):
            await balancer.apply(rule(site, 4, backend_port=MEMBER_PORT + 1, **FLOATING))
            await greet(client, accepted)
            async with joined(site, 4, member_port=MEMBER_PORT + 1) as (other, taken):
                await greet(other, taken)
            await greet(client, accepted)


@pytest.mark.parametrize("run", [packets, kernel], ids=["packet", "kernel"])
async def test_answers_that_could_be_anybodys_are_refused(run: Run) -> None:
    """Two rules whose members answer from one port of the VIP, whether that is the client's or not: nothing changes."""
    async with floating_site("same", 4) as site, run(site.lb) as balancer:
        first = rule(site, 4, backend_port=MEMBER_PORT, **FLOATING)
        await balancer.apply(first)
        for port in (81, MEMBER_PORT):
            second = rule(site, 4, port=port, backend_port=MEMBER_PORT, name="other", **FLOATING)
            with pytest.raises(ApplyError) as caught:
                await balancer.apply(first, second)
            (problem,) = caught.value.problems
            assert "has members answer from 203.0.113.10 on port 8080, as rule 'web' does" in problem.rule
        async with joined(site, 4) as (client, accepted):
            await greet(client, accepted)
