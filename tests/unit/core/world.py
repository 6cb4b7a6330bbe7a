"""A small network for the tests of the packet core: a few frontends, their members, and frames in few words."""

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address

from asynclb.datapath.core import Core, Leaver, NextHop, Plan, build_image
from asynclb.datapath.core.leaving import Leaving, MemberName, member_names
from asynclb.datapath.core.reset import checksum
from asynclb.model import BackendPool, Frontend, Health, LoadBalancingRule, Member, Scope
from asynclb.net.address import Address, Prefix
from asynclb.net.flow import Protocol
from asynclb.net.flowhash import Distribution
from asynclb.tables.compile import compile_tables
from asynclb.tables.row import Delivery, FrontendKey, Row
from asynclb.tables.snat import SnatRule, SnatSlice
from asynclb.tables.tables import Tables

ANYONE: tuple[Prefix, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
OURS = bytes.fromhex("02000000aa01")
CLIENT_LINK = bytes.fromhex("02000000cc01")
MEMBERS_OURS = bytes.fromhex("02000000aa02")
CLIENTS, SERVERS = 11, 12  # interfaces
SECOND = 1_000_000_000


def member_link(index: int) -> bytes:
    """Return the link address of the member with a next hop index."""
    return bytes((2, 0, 0, 0, 0xBB, index))


def pool(name: str, *addresses: str) -> BackendPool:
    """Return a pool whose members are named by their order."""
    return BackendPool(name, tuple(Member(f"m{i}", ip_address(a)) for i, a in enumerate(addresses)))


def row(
    backend: BackendPool,
    address: str,
    port: int = 80,
    backend_port: int | None = None,
    *,
    protocol: Protocol = Protocol.TCP,
    delivery: Delivery = Delivery.NAT,
    symmetric: bool = False,
    distribution: Distribution = Distribution.FIVE_TUPLE,
    allow: tuple[Prefix, ...] = ANYONE,
    idle_timeout_s: float = 240.0,
    tcp_reset: bool = False,
) -> Row:
    """Return the row of one rule; its name says where it listens."""
    vip = ip_address(address)
    name = f"{protocol}-{address}-{port}"
    frontend = Frontend(f"f-{address}", vip, Scope.PUBLIC, allow, routed=delivery is Delivery.ROUTED)
    rule = LoadBalancingRule(
        *(name, frontend.name, protocol, port, port if backend_port is None else backend_port, backend.name),
        distribution=distribution,
        floating_ip=delivery is Delivery.FLOATING,
        idle_timeout_s=idle_timeout_s,
        tcp_reset=tcp_reset,
    )
    return Row(FrontendKey(vip, port, protocol), rule, frontend, backend, delivery, symmetric)


def outbound(
    backend: BackendPool,
    *addresses: str,
    ports: int = 8,
    first: int = 200,
    protocols: tuple[Protocol, ...] = (Protocol.TCP, Protocol.UDP),
    direct: tuple[Prefix, ...] = (),
    idle_timeout_s: float = 240.0,
    tcp_reset: bool = False,
) -> SnatRule:
    """Return an outbound rule that gives each member so many ports of each address, from block `first` on."""
    count = ports // 8
    slices = {
        member.name: tuple(
            SnatSlice(f"f-{a}", ip_address(a), tuple(range(first + i * count, first + i * count + count)))
            for a in addresses
        )
        for i, member in enumerate(backend.members)
    }
    return SnatRule(f"out-{backend.name}", backend, protocols, slices, direct, idle_timeout_s, tcp_reset)


def ha(backend: BackendPool, address: str, **options: object) -> Row:
    """Return the row of an HA-ports rule."""
    return row(backend, address, 0, 0, protocol=Protocol.ALL, **options)  # type: ignore[arg-type] # passed on


@dataclass
class World:
    """Tables with a plan, and the core that executes them."""

    tables: Tables
    plan: Plan
    hops: dict[int, NextHop]

    def core(self, max_flows: int = 1_000) -> Core:
        """Return a core that knows the tables and every next hop."""
        core = Core(max_flows, max_rules=64, max_members=256, max_next_hops=256)
        core.publish(build_image(self.tables, self.plan))
        for index, hop in self.hops.items():
            core.set_next_hop(index, hop)
        core.set_interface(CLIENTS, OURS)
        return core


def world(
    *rows: Row,
    seed: int = 7,
    generation: int = 1,
    routed: dict[tuple[int, int], FrontendKey] | None = None,
    local: frozenset[Address] = frozenset(),
    mtu: int = 1500,
    return_hops: bool = False,
    outbound: tuple[SnatRule, ...] = (),
) -> World:
    """Compile rows and number everything in them."""
    tables = compile_tables(rows, Health({}), seed=seed, generation=generation, outbound=outbound)
    pools = {r.pool.name: r.pool for r in rows}
    members = {(p.name, m.name): (p, m) for p in pools.values() for m in p.members}
    outsiders = [(r.place, m.name) for r in outbound for m in r.pool.members]
    addresses = sorted({m.address for _, m in members.values()}, key=lambda a: (a.version, int(a)))
    hops = {a: i for i, a in enumerate(addresses)}
    plan = Plan(
        rules={name: i for i, name in enumerate((*(r.rule.name for r in rows), *(r.name for r in outbound)))},
        members={key: i for i, key in enumerate((*members, *outsiders))},
        next_hops=hops,
        routed=routed or {},
        return_hops=dict.fromkeys((r.key.address for r in rows), 0) if return_hops else {},
        local=local,
        sources={address: i for i, address in enumerate(sorted({a for r in outbound for a in r.sources}, key=int))},
    )
    return World(tables, plan, {i: NextHop(SERVERS, member_link(i), MEMBERS_OURS, mtu) for i in hops.values()})


def followed(before: World, *rows: Row, generation: int = 2) -> World:
    """Return what comes after a world: what is not there any more leaves, and all keep their numbers."""
    old = [entry.row for entry in before.tables.entries.values()]
    leaving = Leaving().followed(old, rows, 0.0)
    ids: dict[MemberName, int] = {name: before.plan.members[name[:2]] for name in member_names(old)}
    for name in member_names(rows):
        ids.setdefault(name, len(ids))
    hops = dict(before.plan.next_hops)
    for _, _, address in ids:
        hops.setdefault(address, len(hops))
    rules = dict(before.plan.rules)
    for found in rows:
        if found.key not in before.tables.entries:
            rules[found.rule.name] = len(before.plan.rules) + len(rules)
    plan = replace(
        before.plan,
        rules=rules,
        members={(pool, name): ids[pool, name, address] for pool, name, address in member_names(rows)},
        next_hops=hops,
        leaving=tuple(Leaver(gone, before.plan.rules[gone.rule.name]) for gone in leaving.rows),
        left={name: ids[name] for name in member_names(leaving.rows)},
    )
    tables = compile_tables(rows, Health({}), seed=before.tables.seed, generation=generation)
    known = next(iter(before.hops.values()))
    return World(tables, plan, {i: replace(known, destination=member_link(i)) for i in hops.values()})


def _pseudo(source: Address, destination: Address, protocol: int, size: int) -> bytes:
    if source.version == 4:
        return source.packed + destination.packed + struct.pack("!BBH", 0, protocol, size)
    return source.packed + destination.packed + struct.pack("!II", size, protocol)


def with_checksum(source: Address, destination: Address, protocol: int, body: bytes) -> bytes:
    """Fill in the checksum of a transport that has one."""
    offset = {6: 16, 17: 6, 33: 6, 136: 6, 1: 2, 58: 2}.get(protocol)
    if offset is None or len(body) < offset + 2:
        return body
    pseudo = b"" if protocol == 1 else _pseudo(source, destination, protocol, len(body))
    value = checksum(pseudo + body[:offset] + b"\0\0" + body[offset + 2 :])
    return body[:offset] + (value or (0xFFFF if protocol == 17 else 0)).to_bytes(2, "big") + body[offset + 2 :]


@dataclass(frozen=True)
class Packet:
    """What a frame is made of; `bytes(packet)` is the frame with right checksums."""

    source: str
    destination: str
    protocol: int
    body: bytes
    to: bytes = OURS
    via: bytes = CLIENT_LINK
    vlan: bytes = b""
    options: bytes = b""
    fragment: int = 0
    identification: int = 1
    raw: bool = False
    hops: int = 64

    def __bytes__(self) -> bytes:
        return self.to + self.via + self.vlan + self.type + self.network

    @property
    def type(self) -> bytes:
        """The Ethernet type."""
        return b"\x08\x00" if ":" not in self.source else b"\x86\xdd"

    @property
    def network(self) -> bytes:
        """The packet from its network header on."""
        source, destination = ip_address(self.source), ip_address(self.destination)
        body = self.body if self.raw else with_checksum(source, destination, self.protocol, self.body)
        if source.version == 6:
            return self._version6(source, destination, body)
        size = 20 + len(self.options)
        head = struct.pack("!BBHHHBBH", 0x40 | size // 4, 0, size + len(body), self.identification, self.fragment, 64,
                           self.protocol, 0)  # fmt: skip
        head += source.packed + destination.packed + self.options
        return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + body

    def _version6(self, source: Address, destination: Address, body: bytes) -> bytes:
        next_header = self.protocol
        if self.fragment:
            more, offset = self.fragment >> 13 & 1, self.fragment & 0x1FFF
            body = struct.pack("!BBHI", next_header, 0, offset << 3 | more, self.identification) + body
            next_header = 44
        if self.options:
            body, next_header = bytes((next_header,)) + self.options[1:] + body, 60
        return (
            struct.pack("!IHBB", 6 << 28, len(body), next_header, self.hops) + source.packed + destination.packed + body
        )


def tcp(
    source: str, sport: int, destination: str, dport: int, flags: int = 2, payload: bytes = b"", **more: object
) -> Packet:
    """Return a TCP packet; `flags` 2 is SYN, 16 ACK, 1 FIN, 4 RST."""
    body = struct.pack("!HHIIBBHHH", sport, dport, 1000, 2000, 0x50, flags, 512, 0, 0) + payload
    return Packet(source, destination, 6, body, **more)  # type: ignore[arg-type] # passed on


def udp(source: str, sport: int, destination: str, dport: int, payload: bytes = b"hi", **more: object) -> Packet:
    """Return a UDP packet."""
    body = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    return Packet(source, destination, 17, body, **more)  # type: ignore[arg-type] # passed on


def icmp_error(source: str, destination: str, quoted: bytes, *, kind: int | None = None, **more: object) -> Packet:
    """Return "destination unreachable" (or "packet too big" by `kind`) with a quoted packet."""
    four = ":" not in source
    body = struct.pack("!BBHI", kind if kind is not None else (3 if four else 1), 4, 0, 1400) + quoted
    return Packet(source, destination, 1 if four else 58, body, **more)  # type: ignore[arg-type] # passed on


def read(frame: bytes) -> tuple[str, int, str, int]:
    """Return source, port, destination, port of a frame without VLAN tags, options and extension headers."""
    if frame[12:14] == b"\x08\x00":
        at, source, destination = 34, ip_address(frame[26:30]), ip_address(frame[30:34])
    else:
        at, source, destination = 54, ip_address(frame[22:38]), ip_address(frame[38:54])
    sport, dport = struct.unpack_from("!HH", frame, at)
    return str(source), sport, str(destination), dport


def right(frame: bytes) -> bool:
    """Return whether the header's and the transport's checksums are right, of a whole packet without extras."""
    if frame[12:14] == b"\x08\x00":
        source, destination, protocol = ip_address(frame[26:30]), ip_address(frame[30:34]), frame[23]
        if checksum(frame[14:34]):
            return False
        body = frame[34 : 14 + int.from_bytes(frame[16:18], "big")]
    else:
        source, destination, protocol = ip_address(frame[22:38]), ip_address(frame[38:54]), frame[20]
        body = frame[54 : 54 + int.from_bytes(frame[18:20], "big")]
    pseudo = b"" if protocol == 1 else _pseudo(source, destination, protocol, len(body))
    return checksum(pseudo + body) == 0


def changed(frame: bytes, offset: int, value: bytes) -> bytes:
    """Return the frame with other bytes at an offset."""
    return frame[:offset] + value + frame[offset + len(value) :]
