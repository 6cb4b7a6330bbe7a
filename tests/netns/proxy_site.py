"""The standard lab as the tests of the proxy use it: rules over its members, both ends of a connection, captures."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from ipaddress import ip_address
from typing import Any

import pytest

from asynclb.lab import PATIENCE_S, VIP4, VIP6, Host, Site
from asynclb.lab.topology import client_addresses, member_addresses
from asynclb.tables.row import Row
from tests.unit.proxy.wire import Closing, Listener, Wire, connect
from tests.unit.proxy.world import member, pool, row

BOTH = pytest.mark.parametrize("version", [pytest.param(4, id="IPv4"), pytest.param(6, id="IPv6")])
VIPS = {4: VIP4, 6: VIP6}
BACKEND_PORT = 8080
TRIES = 200
"""So many flows from random ports leave none of three equal members out, but once in 10^34 runs."""

_ETH_P_ALL = 3
_PACKET_OUTGOING = 4


def address_of(host: Host, version: int = 4) -> str:
    """Return the address of a client or member of the standard lab."""
    addresses = client_addresses(int(host.name[3:])) if host.name[:3] == "cli" else member_addresses(int(host.name[2:]))
    return addresses[version == 6]


def rule(site: Site, version: int = 4, *, address: str | None = None, port: int = 80, **fields: Any) -> Row:
    """Return a rule from a VIP that nobody owns to every member of the site."""
    members = [member(host.name, address_of(host, version)) for host in site.members]
    backend = pool(members, name=f"pool{version}")
    return row(address or VIPS[version], port, backend, fields.pop("backend_port", BACKEND_PORT), **fields)


class Members(Closing):
    """Listens on every member of the site. Owner: a test."""

    def __init__(self, site: Site, version: int = 4, *, port: int = BACKEND_PORT) -> None:
        self._stack = ExitStack()
        self.listeners = {
            host.name: self._stack.enter_context(Listener(address_of(host, version), port, host=host))
            for host in site.members
        }

    def close(self) -> None:
        """Close what is open."""
        self._stack.close()

    async def accept(self) -> Wire:
        """Return the next connection, whichever member it comes to."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for listener in self.listeners.values():
                if (found := listener.take()) is not None:
                    return found
            await asyncio.sleep(0.002)
        raise AssertionError("nobody connects to any member")

    @asynccontextmanager
    async def joined(
        self, client: Host, vip: str, port: int = 80, *, source: tuple[str, int] | None = None
    ) -> AsyncIterator[tuple[Wire, Wire]]:
        """Open a connection and accept it; yield the client's end and the member's."""
        with await connect(vip, port, host=client, source=source) as wire, await self.accept() as accepted:
            yield wire, accepted

    async def join_each(self, stack: ExitStack, client: Host, vip: str, port: int = 80) -> list[tuple[Wire, Wire]]:
        """Open connections until every member has one; return both ends of each, the client's first."""
        found: list[tuple[Wire, Wire]] = []
        while len(met := {accepted.name[0] for _, accepted in found}) < len(self.listeners):
            assert len(found) < TRIES, f"{TRIES} connections met only {met}"
            wire = stack.enter_context(await connect(vip, port, host=client))
            found.append((wire, stack.enter_context(await self.accept())))
        return found

    def waiting(self) -> int:
        """Return how many connections wait, and close them."""
        return sum(listener.waiting() for listener in self.listeners.values())


async def greet(client: Wire, accepted: Wire) -> None:
    """Check that bytes pass both ways."""
    await client.send(b"hello")
    assert await accepted.exactly(5) == b"hello"
    await accepted.send(b"welcome")
    assert await client.exactly(7) == b"welcome"


async def serves(site: Site, version: int = 4) -> None:
    """Check that a client reaches a member through the VIP, and bytes pass both ways."""
    with Members(site, version) as members:
        async with members.joined(site.clients[0], VIPS[version]) as (client, accepted):
            await greet(client, accepted)


async def served_meanwhile(site: Site, change: Callable[[int], Awaitable[None]], changes: int = 30) -> set[str]:
    """Let clients come without a pause while something changes; check that each is served, and return by whom."""
    done = False
    seen: set[str] = set()

    async def visit(number: int) -> None:
        while not done:
            with await connect(VIP4, 80, host=site.clients[number % 2]) as client:
                await client.send(b"?")
                assert await client.exactly(1) == b"!"

    async def serve() -> None:
        with Members(site) as members:
            while True:
                with await members.accept() as accepted:
                    assert await accepted.exactly(1) == b"?"
                    seen.add(accepted.name[0])
                    await accepted.send(b"!")

    serving = asyncio.create_task(serve())
    visitors = [asyncio.create_task(visit(number)) for number in range(4)]
    for number in range(changes):
        await change(number)
        await asyncio.sleep(0.02)
    done = True
    await asyncio.gather(*visitors)
    serving.cancel()
    await asyncio.wait([serving])
    return seen


class Capture(Closing):
    """What a host receives on all of its interfaces, as one line a packet. Owner: a test."""

    def __init__(self, host: Host) -> None:
        self._sock = host.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._sock.setblocking(False)

    def close(self) -> None:
        """Close what is open."""
        self._sock.close()

    def received(self, *, port: int | None = None) -> list[str]:
        """Return what came since the last call: TCP with its flags, ICMP, UDP; with `port`, only what names it."""
        return [text for text, ports in self._packets() if port is None or not ports or port in ports]

    def _packets(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        while True:
            try:
                packet, (_, _, direction, *_) = self._sock.recvfrom(1 << 16)
            except BlockingIOError:
                return
            if direction != _PACKET_OUTGOING and packet and packet[0] >> 4 in (4, 6):
                found = _describe(packet)
                if found is not None:
                    yield found


def _describe(packet: bytes) -> tuple[str, tuple[int, ...]] | None:
    if packet[0] >> 4 == 4:
        source, protocol, payload = packet[12:16], packet[9], packet[4 * (packet[0] & 15) :]
    else:
        source, protocol, payload = packet[8:24], packet[6], packet[40:]
    name = str(ip_address(source))
    if protocol in (1, 58):
        errors = payload[0] < (128 if protocol == 58 else 8) and payload[0] > 0
        return (f"{name} icmp {payload[0]}", ()) if errors else None
    if protocol not in (6, 17):
        return None
    ports = struct.unpack_from("!HH", payload)
    if protocol == 17:
        return f"{name} udp {ports[0]}", ports
    flags = "".join(letter for bit, letter in enumerate("FSRPAU") if payload[13] >> bit & 1)
    return f"{name} tcp {ports[0]} {flags}", ports


@contextmanager
def udp_socket(host: Host, address: str, port: int) -> Iterator[socket.socket]:
    """Bind a non-blocking UDP socket in a host."""
    with host.open_socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((address, port))
        yield sock
