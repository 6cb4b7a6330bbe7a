"""UDP through the transparent proxy, between real hosts: whole datagrams, the client's address, and who moves when."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from asynclb.lab import PATIENCE_S, VIP4, Host, Site
from asynclb.model import AdminState, ProxyProtocol
from asynclb.net.drop import Drop
from asynclb.net.flow import Protocol
from asynclb.tables.row import Row
from tests.netns.balancer import Balancer, balancer
from tests.netns.proxy_site import BACKEND_PORT, BOTH, VIPS, Capture, address_of, rule, udp_socket
from tests.unit.proxy.world import member, pool, row

PORT = 5300


@pytest.fixture
async def proxy(site: Site) -> AsyncIterator[Balancer]:
    """Give the test a proxy on the balancer's host."""
    async with balancer(site.lb) as found:
        yield found


def udp_rule(site: Site, version: int = 4, **fields: Any) -> Row:
    """Return a UDP rule to every member."""
    return rule(site, version, port=PORT, protocol=Protocol.UDP, **fields)


class Peers:
    """A UDP socket on every member. Owner: a test."""

    def __init__(self, stack: ExitStack, site: Site, version: int = 4) -> None:
        self.socks = {
            host.name: stack.enter_context(udp_socket(host, address_of(host, version), BACKEND_PORT))
            for host in site.members
        }

    async def receive(self) -> tuple[str, bytes, tuple[str, int]]:
        """Return the next datagram: the member that got it, the bytes, and who sent it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for name, sock in self.socks.items():
                    try:
                        data, (address, port, *_) = sock.recvfrom(1 << 16)
                    except BlockingIOError:
                        continue
                    return name, data, (address, port)
                await asyncio.sleep(0.002)

    def send(self, name: str, data: bytes, to: tuple[str, int]) -> None:
        """Let a member send."""
        self.socks[name].sendto(data, to)

    async def answer(self, data: bytes = b"answer") -> str:
        """Receive one datagram and answer it; return the member's name."""
        name, _, client = await self.receive()
        self.send(name, data, client)
        return name


@contextmanager
def client_of(host: Host, vip: str, *, port: int = PORT, source: int = 0) -> Any:
    """Open a client's connected socket: the kernel lets in only what comes from the VIP and port."""
    own = address_of(host, 6 if ":" in vip else 4)
    with host.udp(vip, port, source=(own, source)) as sock:
        yield sock


async def ask(client: socket.socket, peers: Peers, text: bytes = b"question") -> str:
    """Send a question, let the member answer, and return the member's name."""
    client.send(text)
    name = await peers.answer()
    assert await receive(client) == b"answer"
    return name


async def receive(client: socket.socket) -> bytes:
    """Return the next datagram that the VIP sent."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.get_running_loop().sock_recv(client, 1 << 16)


async def receive_from(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    """Return the next datagram and its sender; uvloop has no sock_recvfrom."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                data, (address, port, *_) = sock.recvfrom(1 << 16)
            except BlockingIOError:
                await asyncio.sleep(0.002)
                continue
            return data, (address, port)


@BOTH
async def test_the_member_sees_the_client_and_the_vip_answers(site: Site, proxy: Balancer, version: int) -> None:
    """A member sees the client's address and port; the reply comes from the VIP and the port that was asked."""
    await proxy.apply(udp_rule(site, version))
    with ExitStack() as stack:
        peers = Peers(stack, site, version)
        client = stack.enter_context(client_of(site.clients[0], VIPS[version]))
        client.send(b"question")
        name, data, seen = await peers.receive()
        assert (data, seen) == (b"question", client.getsockname()[:2])
        peers.send(name, b"answer", seen)
        assert await receive(client) == b"answer"
        found = await proxy.counters()
        count = found.rules["web"]
        assert (count.bytes_in, count.bytes_out, count.packets_in, count.packets_out) == (8, 6, 1, 1)
        assert (count.flows, count.new_flows) == (1, 1)
        (flow,) = await proxy.flows()
        assert (flow.protocol, flow.member, flow.bytes_in, flow.bytes_out) == ("udp", name, 8, 6)


@BOTH
async def test_datagrams_stay_whole(site: Site, proxy: Balancer, version: int) -> None:
    """Empty datagrams and the largest ones, fragmented on the wire, arrive as they were sent, both ways."""
    await proxy.apply(udp_rule(site, version))
    with ExitStack() as stack:
        peers = Peers(stack, site, version)
        client = stack.enter_context(client_of(site.clients[0], VIPS[version]))
        for size in (0, 1, 1472, 1473, 9000, 65507, 0):
            client.send(bytes(size))
            name, data, seen = await peers.receive()
            assert len(data) == size
            assert seen == client.getsockname()[:2]
            peers.send(name, b"x" * size, seen)
            assert await receive(client) == b"x" * size
        assert (await proxy.counters()).rules["web"].packets_in == 7


async def test_a_member_whose_port_is_closed_for_a_while(site: Site, proxy: Balancer) -> None:
    """ICMP errors of a member without a listener end nothing: when it listens, the same session goes on."""
    only = [member("be1", address_of(site.members[0]))]
    await proxy.apply(row(VIP4, PORT, only, BACKEND_PORT, protocol=Protocol.UDP))
    with client_of(site.clients[0], VIP4) as client:
        for _ in range(5):
            client.send(b"anybody?")
            await asyncio.sleep(0.02)
        with ExitStack() as stack:
            peers = Peers(stack, site)
            assert await ask(client, peers) == "be1"
        assert (await proxy.counters()).rules["web"].new_flows == 1


async def test_idle_sessions_end(site: Site, proxy: Balancer) -> None:
    """A session without datagrams for the timeout is gone, and the next datagram opens another."""
    await proxy.apply(udp_rule(site, idle_timeout_s=1))
    with ExitStack() as stack:
        peers = Peers(stack, site)
        client = stack.enter_context(client_of(site.clients[0], VIP4))
        first = await ask(client, peers)
        await proxy.until_idle()
        assert await ask(client, peers) == first
        assert (await proxy.counters()).rules["web"].new_flows == 2


async def test_a_session_moves_only_when_its_member_may_not_have_it(site: Site, proxy: Balancer) -> None:
    """It stays while other members come and go, and moves at the next datagram when its own goes down or leaves."""
    with ExitStack() as stack:
        peers = Peers(stack, site)
        client = stack.enter_context(client_of(site.clients[0], VIP4))
        await proxy.apply(udp_rule(site))
        first = await ask(client, peers)
        others = [host.name for host in site.members if host.name != first]
        for down in ([others[0]], others, []):
            await proxy.apply(udp_rule(site), down=down)
            assert await ask(client, peers) == first
        await proxy.apply(udp_rule(site), down=[first])
        second = await ask(client, peers)
        assert second != first
        await proxy.apply(udp_rule(site))
        assert await ask(client, peers) == second
        admin = udp_rule(site)
        members = [replace(m, admin_state=AdminState.DOWN) if m.name == second else m for m in admin.pool.members]
        await proxy.apply(replace(admin, pool=pool(members, name=admin.pool.name)))
        third = await ask(client, peers)
        assert third != second
        left = [m for m in admin.pool.members if m.name != third]
        await proxy.apply(replace(admin, pool=pool(left, name=admin.pool.name)))
        assert await ask(client, peers) != third


async def test_a_draining_member_keeps_its_sessions_for_the_period(site: Site, proxy: Balancer) -> None:
    """Admin state drain: the session stays until the drain period is over, and then moves."""
    with ExitStack() as stack:
        peers = Peers(stack, site)
        client = stack.enter_context(client_of(site.clients[0], VIP4))
        found = udp_rule(site)
        await proxy.apply(found)
        first = await ask(client, peers)
        members = [replace(m, admin_state=AdminState.DRAIN) if m.name == first else m for m in found.pool.members]
        await proxy.apply(replace(found, pool=pool(members, name=found.pool.name, drain_s=2)))
        assert await ask(client, peers) == first
        await proxy.until_idle()
        assert await ask(client, peers) != first


@BOTH
async def test_one_client_port_to_two_frontends_of_one_member(site: Site, proxy: Balancer, version: int) -> None:
    """Replies to one client port find the frontend that each belongs to, also when sessions come and go."""
    only = [member("be1", address_of(site.members[0], version))]
    ports = (PORT, PORT + 1)
    rows = [
        row(VIPS[version], port, only, BACKEND_PORT, name=f"udp-{port}", protocol=Protocol.UDP, idle_timeout_s=1)
        for port in ports
    ]
    await proxy.apply(*rows)
    host = site.clients[0]
    with ExitStack() as stack:
        peers = Peers(stack, site, version)
        own = stack.enter_context(udp_socket(host, address_of(host, version), 40003))
        for _ in range(2):
            for port in ports:
                own.sendto(b"question", (VIPS[version], port))
                name, _, seen = await peers.receive()
                assert seen[0] == address_of(host, version)
                peers.send(name, str(port).encode(), seen)
                data, sender = await receive_from(own)
                assert (int(data), sender) == (port, (VIPS[version], port))
            await proxy.until_idle()


async def test_silence(site: Site, proxy: Balancer) -> None:
    """Without an eligible member, from a source that is not allowed, or without a rule: no answer, no ICMP, counted."""
    with ExitStack() as stack:
        peers = Peers(stack, site)
        one, two = (stack.enter_context(client_of(host, VIP4)) for host in site.clients)
        captures = [stack.enter_context(Capture(host)) for host in site.clients]
        names = [host.name for host in site.members]
        await proxy.apply(udp_rule(site), down=names)
        one.send(b"anybody?")
        await proxy.until_dropped(Drop.NO_ELIGIBLE_MEMBER)
        await proxy.apply(udp_rule(site, allow=[address_of(site.clients[0])]))
        await ask(one, peers)
        two.send(b"anybody?")
        await proxy.until_dropped(Drop.SOURCE_NOT_ALLOWED)
        await asyncio.sleep(0.1)
        assert captures[1].received() == []
        assert captures[0].received() == [f"{VIP4} udp {PORT}"]
        assert (await proxy.counters()).rules["web"].packets_in == 1


async def test_a_member_reaches_its_own_vip(site: Site, proxy: Balancer) -> None:
    """A member's datagrams to the VIP are answered, whichever member they lead to."""
    await proxy.apply(udp_rule(site))
    with ExitStack() as stack:
        peers = Peers(stack, site)
        served = set()
        for _ in range(40):
            client = stack.enter_context(client_of(site.members[0], VIP4))
            served.add(await ask(client, peers))
        assert served == {host.name for host in site.members}


async def test_many_clients_at_once(site: Site, proxy: Balancer) -> None:
    """Hundreds of sessions, each with its own answers; afterwards none is left, nor a descriptor."""
    await proxy.apply(udp_rule(site, idle_timeout_s=2))
    with ExitStack() as stack:
        peers = Peers(stack, site)
        clients = [stack.enter_context(client_of(site.clients[n % 2], VIP4)) for n in range(300)]
        for number, client in enumerate(clients):
            client.send(struct.pack("!I", number))
        for _ in clients:
            name, data, seen = await peers.receive()
            peers.send(name, data, seen)
        for number, client in enumerate(clients):
            assert await receive(client) == struct.pack("!I", number)
        assert (await proxy.counters()).flows == 300
        await proxy.until_idle()
        assert await proxy.flows() == []


@BOTH
async def test_the_client_is_named_ahead_of_every_datagram(site: Site, proxy: Balancer, version: int) -> None:
    """With PROXY v2 each datagram to a member begins with the header for UDP; replies are passed on as they are."""
    only = [member("be1", address_of(site.members[0], version))]
    await proxy.apply(
        row(
            VIPS[version], PORT, only, BACKEND_PORT, protocol=Protocol.UDP,
            transparent=False, proxy_protocol=ProxyProtocol.V2,
        )
    )  # fmt: skip
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with ExitStack() as stack:
        peers = Peers(stack, site, version)
        client = stack.enter_context(client_of(site.clients[0], VIPS[version]))
        own, port, *_ = client.getsockname()
        addresses = socket.inet_pton(family, own) + socket.inet_pton(family, VIPS[version])
        header = (
            b"\r\n\r\n\0\r\nQUIT\n\x21"
            + bytes([0x12 if version == 4 else 0x22])
            + struct.pack("!H", len(addresses) + 4)
        )
        header += addresses + struct.pack("!HH", port, PORT)
        for text in (b"one", b"", b"three"):
            client.send(text)
            _, data, seen = await peers.receive()
            assert data == header + text
            peers.send("be1", text, seen)
            assert await receive(client) == text
