"""Two networks with firewalls in between that track every flow: what a routed HA-ports frontend is for.

    end1 10.1.1.10 -- spoke1 -- hub -- spoke2 -- 10.1.2.10 end2
                                 | inner 10.0.0.1
                     nva1 .11, nva2 .12, nva3 .13

The same with fd00:<n>::/64. The hub balances what comes by either spoke over the firewalls, whose one leg is on the
inner network; what they pass on, the hub routes. A firewall that has not seen a flow's first packet drops the others
and counts them, so asymmetry shows twice: as loss, and in what the firewalls received.
"""

import asyncio
import re
import socket
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from asynclb.lab import PATIENCE_S, Host, Lab
from asynclb.model import BackendPool
from asynclb.net.flow import Protocol
from asynclb.tables.row import Delivery, Row
from tests.netns.packet_site import Frames, once
from tests.unit.proxy.wire import Closing, Wire, connect
from tests.unit.proxy.world import member, pool, row

SERVICE = 7
_ICMP = {4: (1, 8, 0), 6: (58, 128, 129)}  # protocol, echo request, echo reply

FIREWALL = f"""
table inet firewall {{
  counter strange {{ }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct state new tcp flags & (syn | ack) == syn tcp dport {SERVICE} accept
    ct state new udp dport {SERVICE} accept
    ct state new icmp type echo-request accept
    ct state new icmpv6 type echo-request accept
    counter name strange drop
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    icmpv6 type nd-redirect drop
  }}
}}
"""

End = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow by what its client sends; an echo's id stands for both ports."""

    protocol: int
    client: End
    server: End

    @property
    def back(self) -> "Flow":
        """What its server sends."""
        return Flow(self.protocol, self.server, self.client)


@dataclass(frozen=True, slots=True)
class Spokes:
    """The hosts, and both address families of each."""

    hub: Host
    ends: tuple[Host, Host]
    appliances: tuple[Host, ...]

    @classmethod
    async def build(cls, lab: Lab, appliances: int = 3) -> "Spokes":
        """Bring everything up, with the firewalls and what both ends answer."""
        hub = lab.host("hub", forwarding=True)
        ends = lab.host("end1"), lab.host("end2")
        walls = tuple(lab.host(f"nva{n}", forwarding=True) for n in range(1, appliances + 1))
        for n, end in enumerate(ends, 1):
            lab.link(end, f"10.1.{n}.10/24 fd00:{n}::10/64", hub, f"10.1.{n}.1/24 fd00:{n}::1/64")
            for gateway in (f"10.1.{n}.1", f"fd00:{n}::1"):
                end.route("default", via=gateway)
            end.sysctl("net.ipv4.ping_group_range", "0 0")
        inner = {wall: f"10.0.0.{10 + n}/24 fd00:a::{10 + n}/64" for n, wall in enumerate(walls, 1)}
        lab.switch("inner", {hub: "10.0.0.1/24 fd00:a::1/64"} | inner)
        for wall in walls:
            wall.sysctl("net.ipv4.conf.default.send_redirects", 0)  # it has one leg, and is meant to
            wall.sysctl("net.netfilter.nf_conntrack_tcp_loose", 0)  # a connection begins with its handshake
            wall.route("default", via="10.0.0.1")
            wall.route("default", via="fd00:a::1")
        await lab.up()
        for wall in walls:
            await wall.check_output("nft", "-f", wall.write("firewall.nft", FIREWALL))
        for end in ends:
            await end.tcp_server(SERVICE)
            await end.udp_server(SERVICE)
        return cls(hub, ends, walls)

    def rows(self, version: int, count: int | None = None) -> list[Row]:
        """Return a routed HA-ports rule for each spoke, over the first `count` appliances."""
        inner = {4: "10.0.0.{}", 6: "fd00:a::{}"}[version]
        walls = self.appliances[:count]
        backend = pool((member(wall.name, inner.format(10 + n)) for n, wall in enumerate(walls, 1)), name="walls")
        return [routed(inner.format(200 + n), backend, end.name) for n, end in enumerate(self.ends, 1)]

    def address(self, end: int, version: int) -> str:
        """Return the address of an end, 0 or 1."""
        return f"10.1.{end + 1}.10" if version == 4 else f"fd00:{end + 1}::10"

    async def strange(self) -> int:
        """Return how many packets the firewalls could not place in a flow that they knew."""
        listed = [await wall.check_output("nft", "list", "counters") for wall in self.appliances]
        return sum(int(found) for text in listed for found in re.findall(r"packets (\d+)", text))


def routed(address: str, backend: BackendPool, interface: str) -> Row:
    """Return the row of a routed HA-ports rule for what comes by an interface."""
    found = row(address, 0, backend, 0, name=interface, protocol=Protocol.ALL, delivery=Delivery.ROUTED)
    return replace(found, frontend=replace(found.frontend, interface=interface, routed=True), symmetric=True)


class Witness(Closing):
    """What each appliance received, by flow. Owner: a test."""

    def __init__(self, spokes: Spokes) -> None:
        self._stack = ExitStack()
        self._captures = {wall.name: self._stack.enter_context(Frames(wall)) for wall in spokes.appliances}

    def close(self) -> None:
        """Close what is open."""
        self._stack.close()

    def seen(self) -> Mapping[Flow, set[str]]:
        """Return the appliances that received packets of each flow, by its direction, since the last call."""
        found: dict[Flow, set[str]] = defaultdict(set)
        for name, capture in self._captures.items():
            for frame in capture.received():
                for flow in _flow_of(frame):
                    found[flow].add(name)
        return found


def _flow_of(frame: bytes) -> Iterator[Flow]:
    packet = frame[14:]
    if frame[12:14] == b"\x08\x00":
        protocol, source, destination, body = packet[9], packet[12:16], packet[16:20], packet[4 * (packet[0] & 15) :]
    elif frame[12:14] == b"\x86\xdd":
        protocol, source, destination, body = packet[6], packet[8:24], packet[24:40], packet[40:]
    else:
        return
    if protocol in (6, 17):
        ports = struct.unpack_from("!HH", body)
    elif protocol in (1, 58) and body[0] in (8, 0, 128, 129):
        ports = struct.unpack_from("!H", body, 4) * 2
    else:
        return
    yield Flow(protocol, (str(ip_address(source)), ports[0]), (str(ip_address(destination)), ports[1]))


@dataclass(slots=True)
class Talks:
    """Open flows from one end to the other: TCP, UDP and echo requests. Owner: a test."""

    spokes: Spokes
    version: int
    stack: ExitStack
    tcp: dict[Flow, Wire] = field(default_factory=dict)
    others: dict[Flow, socket.socket] = field(default_factory=dict)

    async def begin(self, source: int, count: int) -> list[Flow]:
        """Begin that many flows of each protocol at one end, and return them."""
        server = self.spokes.address(1 - source, self.version)
        begun = []
        for _ in range(count):
            begun += [await self._tcp(source, server), self._udp(source, server), self._echo(source, server)]
        return begun

    async def exchange(self, flow: Flow, *, wait_s: float = PATIENCE_S) -> bool:
        """Say something, and return whether it comes back."""
        if flow in self.tcp:
            try:
                async with asyncio.timeout(wait_s):
                    return await self.tcp[flow].echoes()
            except TimeoutError:
                return False
        question, answer = _question(flow, self.version)
        deadline = asyncio.get_running_loop().time() + wait_s
        while asyncio.get_running_loop().time() < deadline:
            if (said := await once(self.others[flow], question, wait_s=min(1.0, wait_s))) is not None:
                return said[-len(answer) :] == answer
        return False

    async def all_answered(self, flows: list[Flow]) -> bool:
        """Return whether each of the flows is answered."""
        return all([await self.exchange(flow) for flow in flows])

    async def _tcp(self, source: int, server: str) -> Flow:
        wire = self.stack.enter_context(await connect(server, SERVICE, host=self.spokes.ends[source]))
        flow = Flow(6, wire.name, (server, SERVICE))
        self.tcp[flow] = wire
        return flow

    def _udp(self, source: int, server: str) -> Flow:
        sock = self.stack.enter_context(self.spokes.ends[source].udp(server, SERVICE))
        return self._other(17, sock, server, SERVICE)

    def _echo(self, source: int, server: str) -> Flow:
        family = socket.AF_INET if self.version == 4 else socket.AF_INET6
        protocol = _ICMP[self.version][0]
        sock = self.stack.enter_context(self.spokes.ends[source].open_socket(family, socket.SOCK_DGRAM, protocol))
        sock.setblocking(False)
        sock.connect((server, 0))
        return self._other(protocol, sock, server, sock.getsockname()[1])

    def _other(self, protocol: int, sock: socket.socket, server: str, port: int) -> Flow:
        name = sock.getsockname()
        flow = Flow(protocol, (name[0], name[1]), (server, port))
        self.others[flow] = sock
        return flow


def _question(flow: Flow, version: int) -> tuple[bytes, bytes]:
    """Return what to send, and how the answer ends."""
    if flow.protocol == 17:
        return b"question", b"question"
    return struct.pack("!BBHHH", _ICMP[version][1], 0, 0, 0, 1) + b"question", b"question"
