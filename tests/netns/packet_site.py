"""The standard lab as the tests of the packet datapath use it: rules, members that answer datagrams, raw captures."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from asynclb.datapath.packet import PacketDatapath
from asynclb.lab import PATIENCE_S, Host, Site
from asynclb.net.flow import Protocol
from asynclb.tables.row import Row
from tests.netns.balancer import Balancer, balancer
from tests.netns.proxy_site import BACKEND_PORT, VIPS, address_of, rule
from tests.unit.proxy.wire import Closing

_ETH_P_ALL = 3
_PACKET_OTHERHOST, _PACKET_OUTGOING = 3, 4  # a switch floods what is for hosts that it does not know


@asynccontextmanager
async def packets(host: Host) -> AsyncIterator[Balancer]:
    """Run the packet datapath in a host for the length of a block."""
    async with balancer(host, PacketDatapath) as found:
        yield found


def udp_rule(site: Site, version: int = 4, **fields: Any) -> Row:
    """Return a UDP rule from a VIP that nobody owns to every member."""
    return rule(site, version, port=53, name="dns", protocol=Protocol.UDP, **fields)


def ha_rule(site: Site, version: int = 4, **fields: Any) -> Row:
    """Return an HA-ports rule from a VIP that nobody owns to every member."""
    return rule(site, version, port=0, backend_port=0, name=f"ha{version}", protocol=Protocol.ALL, **fields)


class UdpMembers(Closing):
    """Answers datagrams on every member: with its name, the client as it sees it, and what came. Owner: a test."""

    def __init__(self, site: Site, version: int = 4, *, port: int = BACKEND_PORT, address: str | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._stack = ExitStack()
        self.served: list[str] = []
        for host in site.members:
            sock = host.open_socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
            self._stack.enter_context(sock)
            sock.setblocking(False)
            sock.bind((address or address_of(host, version), port))
            self._loop.add_reader(sock, self._answer, host.name, sock)
            self._stack.callback(self._loop.remove_reader, sock)

    def close(self) -> None:
        """Close what is open."""
        self._stack.close()

    def _answer(self, name: str, sock: socket.socket) -> None:
        data, peer = sock.recvfrom(1 << 16)
        self.served.append(name)
        sock.sendto(f"{name} {peer[0]} {peer[1]} ".encode() + data, peer)


async def ask(sock: socket.socket, data: bytes = b"?", *, wait_s: float = PATIENCE_S) -> tuple[str, str, int]:
    """Send a datagram until an answer comes; return who answers, and the client as it is seen there."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        answer = await once(sock, data, wait_s=min(1.0, wait_s))
        if answer is not None:
            name, address, port, echoed = answer.split(b" ", 3)
            assert echoed == data
            return name.decode(), address.decode(), int(port)
    raise TimeoutError("nobody answers")


async def once(sock: socket.socket, data: bytes, *, wait_s: float) -> bytes | None:
    """Send one datagram and return what comes back, if something does."""
    sock.send(data)
    try:
        async with asyncio.timeout(wait_s):
            return await asyncio.get_running_loop().sock_recv(sock, 1 << 16)
    except TimeoutError:
        return None


class Frames(Closing):
    """Whole frames that are for a host and reach it. Owner: a test."""

    def __init__(self, host: Host) -> None:
        self._sock = host.open_socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._sock.setblocking(False)

    def close(self) -> None:
        """Close what is open."""
        self._sock.close()

    def received(self) -> list[bytes]:
        """Return what came in since the last call."""
        found: list[bytes] = []
        while True:
            try:
                frame, (_, _, direction, *_) = self._sock.recvfrom(1 << 17)
            except BlockingIOError:
                return found
            if direction not in (_PACKET_OTHERHOST, _PACKET_OUTGOING):
                found.append(frame)


def ones_complement(data: bytes) -> int:
    """Return the folded sum of 16-bit words: 0xFFFF over anything whose checksum is right. Source: RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def crc32c(data: bytes) -> int:
    """Return the checksum of SCTP. Source: RFC 9260, appendix A."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F6_3B78 if crc & 1 else 0)
    return crc ^ 0xFFFF_FFFF


def wrong_checksum(frame: bytes) -> str | None:
    """Return which checksum of a whole IPv4 or IPv6 packet without extensions is wrong, if one is."""
    packet = frame[14:]
    if frame[12:14] == b"\x08\x00":
        size = 4 * (packet[0] & 15)
        if ones_complement(packet[:size]) != 0xFFFF:
            return "IPv4 header"
        addresses, protocol, body = packet[12:20], packet[9], packet[size : int.from_bytes(packet[2:4], "big")]
    elif frame[12:14] == b"\x86\xdd":
        addresses, protocol, body = packet[8:40], packet[6], packet[40 : 40 + int.from_bytes(packet[4:6], "big")]
    else:
        return None
    return None if _is_right(addresses, protocol, body) else f"protocol {protocol}"


def _is_right(addresses: bytes, protocol: int, body: bytes) -> bool:
    """Return whether the checksum of a transport is right, and that of an IPv4 header that an error quotes."""
    if protocol == 132:
        return crc32c(body[:8] + bytes(4) + body[12:]) == int.from_bytes(body[8:12], "little")
    if protocol == 47:
        return not body[0] & 0x80 or ones_complement(body) == 0xFFFF
    if protocol == 1 and body[0] in (3, 11) and ones_complement(body[8:28]) != 0xFFFF:
        return False
    pseudo = b"" if protocol == 1 else addresses + struct.pack("!II", len(body), protocol)
    return protocol not in (1, 6, 17, 58) or ones_complement(pseudo + body) == 0xFFFF


__all__ = [
    "BACKEND_PORT",
    "VIPS",
    "Frames",
    "UdpMembers",
    "address_of",
    "ask",
    "crc32c",
    "ha_rule",
    "once",
    "ones_complement",
    "packets",
    "rule",
    "udp_rule",
    "wrong_checksum",
]
