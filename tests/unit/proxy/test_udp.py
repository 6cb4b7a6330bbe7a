"""UDP frontends on the loopback, without privileges: whole datagrams, sessions, and silence."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from asynclb.lab import PATIENCE_S
from asynclb.net.drop import Drop
from asynclb.net.flow import Protocol
from asynclb.tables.row import Row
from tests.unit.proxy.conftest import VIP
from tests.unit.proxy.wire import descriptors, free_port, until
from tests.unit.proxy.world import Clock, Driver, local, member, row


@contextmanager
def bound(address: str, port: int = 0) -> Iterator[socket.socket]:
    """Bind a UDP socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((address, port))
        yield sock


async def receive(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    """Return the next datagram and who sent it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return sock.recvfrom(1 << 16)
            except BlockingIOError:
                await asyncio.sleep(0.001)


def udp_rule(port: int, backend_port: int, *names: str, **fields: Any) -> Row:
    """Return a UDP rule whose member `beN` is at the Nth local address."""
    members = [member(name, local(int(name[2:]))) for name in names or ("be2",)]
    return row(VIP, port, members, backend_port, protocol=Protocol.UDP, transparent=False, **fields)


def udp_port() -> int:
    """Return a port that is free for UDP on the VIP."""
    return free_port(VIP, kind=socket.SOCK_DGRAM)


async def test_a_session_goes_both_ways_with_whole_datagrams(driver: Driver) -> None:
    """Datagrams of every size pass whole, empty ones too, and replies come from the VIP and port that were asked."""
    with bound(local(2)) as server, bound(local(9)) as client:
        port = udp_port()
        await driver.apply(udp_rule(port, server.getsockname()[1]))
        for size in (5, 0, 65507, 0, 1):
            client.sendto(bytes(size), (VIP, port))
            data, proxy = await receive(server)
            assert len(data) == size
            server.sendto(b"r" * size, proxy)
            assert await receive(client) == (b"r" * size, (VIP, port))
        count = driver.proxy.counters().rules["web"]
        assert (count.packets_in, count.packets_out, count.bytes_in, count.bytes_out) == (5, 5, 65513, 65513)
        assert (count.new_flows, count.flows) == (1, 1)


async def test_bursts_pass_in_order(driver: Driver) -> None:
    """More datagrams than one turn takes arrive all, and in the order of sending."""
    with bound(local(2)) as server, bound(local(9)) as client:
        port = udp_port()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        await driver.apply(udp_rule(port, server.getsockname()[1]))
        for number in range(150):
            client.sendto(number.to_bytes(2, "big"), (VIP, port))
        for number in range(150):
            data, _ = await receive(server)
            assert int.from_bytes(data, "big") == number


async def test_a_member_that_is_not_there_ends_no_session(driver: Driver) -> None:
    """Errors about datagrams to a closed port are read and forgotten; when the member is back the session goes on."""
    port, closed = udp_port(), free_port(local(2), kind=socket.SOCK_DGRAM)
    await driver.apply(udp_rule(port, closed))
    with bound(local(9)) as client:
        for _ in range(10):
            client.sendto(b"?", (VIP, port))
            await asyncio.sleep(0.005)
        with bound(local(2), closed) as server:
            client.sendto(b"!", (VIP, port))
            assert (await receive(server))[0] == b"!"
        assert driver.proxy.counters().rules["web"].new_flows == 1


async def test_idle_sessions_close_their_sockets(driver: Driver, clock: Clock) -> None:
    """Sessions that say nothing for the timeout end, and with them their descriptors."""
    with bound(local(2)) as server:
        port = udp_port()
        await driver.apply(udp_rule(port, server.getsockname()[1], idle_timeout_s=240))
        before = descriptors()
        with ExitStack() as clients:
            for _ in range(50):
                clients.enter_context(bound(local(9))).sendto(b"?", (VIP, port))
            await until(lambda: driver.proxy.counters().rules["web"].new_flows == 50, "fifty sessions")
            await clock.passes(200)
            assert driver.proxy.counters().flows == 50
            await clock.passes(41)
        await until(lambda: driver.proxy.counters().flows == 0, "no sessions")
        await until(lambda: descriptors() == before, "no descriptors")
        assert not list(driver.proxy.flows())


@pytest.mark.parametrize("reason", [Drop.NO_ELIGIBLE_MEMBER, Drop.SOURCE_NOT_ALLOWED])
async def test_who_may_not_is_dropped_and_counted(driver: Driver, reason: Drop) -> None:
    """Without an eligible member, or from a source that is not allowed, nothing reaches a member."""
    with bound(local(2)) as server, bound(local(9)) as client:
        port = udp_port()
        allow = [f"{local(2)}/32"] if reason is Drop.SOURCE_NOT_ALLOWED else None
        down = ["be2"] if reason is Drop.NO_ELIGIBLE_MEMBER else []
        await driver.apply(udp_rule(port, server.getsockname()[1], allow=allow), down=down)
        client.sendto(b"?", (VIP, port))
        await until(lambda: driver.proxy.counters().drops[reason] == 1, "it is counted")
        with pytest.raises(BlockingIOError):
            server.recv(1)


async def test_a_session_leaves_a_member_that_goes_down(driver: Driver) -> None:
    """The next datagram after its member went down goes to another one; the session before it is counted out."""
    with bound(local(2)) as two, bound(local(3), two.getsockname()[1]) as three, bound(local(9)) as client:
        port = udp_port()
        rule = udp_rule(port, two.getsockname()[1], "be2", "be3")
        servers = {"be2": two, "be3": three}
        await driver.apply(rule)
        client.sendto(b"1", (VIP, port))
        await until(lambda: driver.proxy.counters().flows == 1, "a session")
        (flow,) = driver.proxy.flows()
        assert (await receive(servers[flow.member]))[0] == b"1"
        await driver.apply(rule, down=[flow.member])
        client.sendto(b"2", (VIP, port))
        other = "be3" if flow.member == "be2" else "be2"
        assert (await receive(servers[other]))[0] == b"2"
        assert driver.proxy.counters().flows == 1


async def test_a_removed_rule_gives_its_port_back(driver: Driver) -> None:
    """UDP has no drain: with its rule a session ends at once, and the port is free for others."""
    with bound(local(2)) as server, bound(local(9)) as client:
        port = udp_port()
        await driver.apply(udp_rule(port, server.getsockname()[1]))
        client.sendto(b"?", (VIP, port))
        await receive(server)
        await driver.apply()
        assert driver.proxy.counters().flows == 0
        with bound(VIP, port):
            pass


async def test_sessions_without_a_descriptor_are_dropped(driver: Driver) -> None:
    """Above the limit of descriptors a new session is refused and counted; the open one goes on."""
    with bound(local(2)) as server, bound(local(9)) as client, bound(local(9)) as late:
        port = udp_port()
        await driver.apply(udp_rule(port, server.getsockname()[1]))
        client.sendto(b"?", (VIP, port))
        await receive(server)
        shared = driver.proxy._shared
        assert shared is not None
        shared.max_descriptor = 3
        late.sendto(b"?", (VIP, port))
        await until(lambda: driver.proxy.counters().drops[Drop.FLOW_TABLE_FULL] == 1, "it is counted")
        client.sendto(b"!", (VIP, port))
        assert (await receive(server))[0] == b"!"
