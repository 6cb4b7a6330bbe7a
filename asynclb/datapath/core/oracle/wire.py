"""From bytes to what they mean. C twin: parse.h, whose order of checks decides which reason a broken packet gets."""

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_network

from asynclb.datapath.core.layout import CONSTANTS
from asynclb.net.address import Address
from asynclb.net.drop import Drop
from asynclb.net.flow import Flow

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
_VLANS = (0x8100, 0x88A8)
ICMP, TCP, UDP, DCCP, ICMP6, SCTP, UDPLITE = 1, 6, 17, 33, 58, 132, 136
_FRAGMENT = 44
_EXTENSIONS = {0, 43, _FRAGMENT, 60, 135, 139, 140}
TRANSPORT_BYTES = {TCP: 20, SCTP: 12, DCCP: 12, 51: 12, UDP: 8, UDPLITE: 8, ICMP: 8, ICMP6: 8, 50: 8, 47: 4}
"""How many bytes of a transport header must be there."""
_PORTS = {TCP, UDP, SCTP, DCCP, UDPLITE}


class Part(IntEnum):
    """Which part of a datagram a packet is."""

    WHOLE = 0
    FIRST = 1
    LATER = 2


class Form(IntEnum):
    """Whether a packet is ordinary, an ICMP error, or never leaves its link."""

    PLAIN = 0
    ERROR = 1
    LINK = 2


@dataclass(frozen=True, slots=True)
class Network:
    """A network header: addresses, and offsets into the frame. `end` is the packet's, not the frame's."""

    version: int
    source: Address
    destination: Address
    l3: int
    l4: int = 0
    end: int = 0
    protocol: int = 0
    part: Part = Part.WHOLE
    fragment_id: int = 0


@dataclass(frozen=True, slots=True)
class Parsed:
    """A frame. `reason` says what is wrong with it; `net` is there as soon as the addresses can be read."""

    type: int
    reason: Drop | None = None
    net: Network | None = None
    flow: Flow | None = None
    form: Form = Form.PLAIN
    tcp_flags: int = 0
    quoted: Network | None = None
    inner: Flow | None = None


def parse(frame: bytes) -> Parsed | None:
    """Parse a frame; None when it has no link header."""
    at = 14
    if len(frame) < at:
        return None
    kind = _be16(frame, 12)
    for _ in range(CONSTANTS["VLAN_TAGS"]):
        if kind not in _VLANS:
            break
        if len(frame) < at + 4:
            return None
        kind = _be16(frame, at + 2)
        at += 4
    if kind not in (IPV4, IPV6):
        return Parsed(kind)
    return _parse_packet(frame, kind, at)


def _parse_packet(frame: bytes, kind: int, at: int) -> Parsed:
    net, reason = _network(frame, 4 if kind == IPV4 else 6, at, len(frame), quoted=False)
    if net is None or reason:
        return Parsed(kind, reason, net)
    flow, reason = parse_flow(frame, net, quoted=False)
    if reason:
        return Parsed(kind, reason, net)
    parsed = Parsed(kind, None, net, flow)
    if net.part is Part.LATER:
        return parsed
    if net.protocol == TCP:
        size = (frame[net.l4 + 12] >> 4) * 4
        if size < 20 or (net.part is Part.WHOLE and size > net.end - net.l4):
            return replace(parsed, reason=Drop.BAD_HEADER)
        return replace(parsed, tcp_flags=frame[net.l4 + 13])
    if net.protocol == UDP:
        size = _be16(frame, net.l4 + 4)
        if size < 8 or (net.part is Part.WHOLE and size > net.end - net.l4):
            return replace(parsed, reason=Drop.BAD_HEADER)
    if is_icmp(net):
        parsed = replace(parsed, form=_icmp_form(frame[net.l4], net.version))
    return _parse_quote(frame, parsed, net) if parsed.form is Form.ERROR else parsed


def _parse_quote(frame: bytes, parsed: Parsed, net: Network) -> Parsed:
    broken = replace(parsed, reason=Drop.QUOTE_UNREADABLE)
    if net.part is not Part.WHOLE:
        return broken
    quoted, reason = _network(frame, net.version, net.l4 + 8, net.end, quoted=True)
    if quoted is None or reason or quoted.part is Part.LATER:
        return broken
    if is_mapped(quoted.source) or is_mapped(quoted.destination):
        return broken
    inner, reason = parse_flow(frame, quoted, quoted=True)
    return broken if reason else replace(parsed, quoted=quoted, inner=inner)


def _network(frame: bytes, version: int, at: int, limit: int, *, quoted: bool) -> tuple[Network | None, Drop | None]:
    parse_version = _parse_ipv4 if version == 4 else _parse_ipv6
    return parse_version(frame, at, limit, quoted)


def _parse_ipv4(frame: bytes, at: int, limit: int, quoted: bool) -> tuple[Network | None, Drop | None]:
    if limit - at < 20:
        return None, Drop.TRUNCATED
    head, total, identification, fragment = frame[at], *struct.unpack_from("!HHH", frame, at + 2)
    source, destination = IPv4Address(frame[at + 12 : at + 16]), IPv4Address(frame[at + 16 : at + 20])
    net, size = Network(4, source, destination, at), (head & 15) * 4
    if head >> 4 != 4 or size < 20 or total < size:
        return net, Drop.BAD_HEADER
    if limit - at < (size if quoted else total):
        return net, Drop.TRUNCATED
    part = Part.LATER if fragment & 0x1FFF else Part.FIRST if fragment & 0x2000 else Part.WHOLE
    end = min(limit, at + total)
    return Network(4, source, destination, at, at + size, end, frame[at + 9], part, identification), None


def _parse_ipv6(frame: bytes, at: int, limit: int, quoted: bool) -> tuple[Network | None, Drop | None]:
    if limit - at < 40:
        return None, Drop.TRUNCATED
    source, destination = IPv6Address(frame[at + 8 : at + 24]), IPv6Address(frame[at + 24 : at + 40])
    net, payload = Network(6, source, destination, at), _be16(frame, at + 4)
    if frame[at] >> 4 != 6:
        return net, Drop.BAD_HEADER
    if limit - at - 40 < payload and not quoted:
        return net, Drop.TRUNCATED
    end = min(limit, at + 40 + payload)
    return _parse_extensions(frame, replace(net, l4=at + 40, end=end, protocol=frame[at + 6]))


def _parse_extensions(frame: bytes, net: Network) -> tuple[Network, Drop | None]:
    for _ in range(CONSTANTS["EXTENSION_HEADERS"]):
        if net.protocol not in _EXTENSIONS:
            return net, None
        if net.end - net.l4 < 8:
            return net, Drop.TRUNCATED
        size, part, identification = 8, net.part, net.fragment_id
        if net.protocol == _FRAGMENT:
            word, identification = struct.unpack_from("!HI", frame, net.l4 + 2)
            part = Part.LATER if word & 0xFFF8 else Part.FIRST if word & 1 else part
        else:
            size = (frame[net.l4 + 1] + 1) * 8
        if net.end - net.l4 < size:
            return net, Drop.TRUNCATED
        net = replace(net, protocol=frame[net.l4], l4=net.l4 + size, part=part, fragment_id=identification)
        if part is Part.LATER:
            return net, None
    return net, Drop.EXTENSION_HEADERS if net.protocol in _EXTENSIONS else None


def parse_flow(frame: bytes, net: Network, *, quoted: bool) -> tuple[Flow | None, Drop | None]:
    """Name the flow of a packet; of a quoted one the first 8 bytes of transport suffice."""
    need = TRANSPORT_BYTES.get(net.protocol, 0)
    need = min(need, 8) if quoted else need
    if net.part is Part.LATER or not need:
        return Flow(net.source, 0, net.destination, 0, net.protocol), None
    if net.end - net.l4 < need:
        return None, Drop.FRAGMENT_TINY if net.part is Part.FIRST else Drop.TRUNCATED
    sport = dport = 0
    if net.protocol in _PORTS:
        sport, dport = struct.unpack_from("!HH", frame, net.l4)
    elif is_icmp(net):
        sport, dport = _icmp_ports(frame[net.l4], _be16(frame, net.l4 + 4), net.version)
    return Flow(net.source, sport, net.destination, dport, net.protocol), None


def _icmp_ports(kind: int, identifier: int, version: int) -> tuple[int, int]:
    """Let the identifier of an echo or a timestamp stand for the port of the end that asked."""
    asks, answers = ((8, 13), (0, 14)) if version == 4 else ((128,), (129,))
    return (identifier if kind in asks else 0), (identifier if kind in answers else 0)


def is_icmp(net: Network) -> bool:
    """Return whether a packet is ICMP of its own version."""
    return net.protocol == (ICMP if net.version == 4 else ICMP6)


def _icmp_form(kind: int, version: int) -> Form:
    if kind in ((3, 4, 11, 12) if version == 4 else (1, 2, 3, 4)):
        return Form.ERROR
    return Form.LINK if version == 6 and (130 <= kind <= 137 or kind == 143) else Form.PLAIN


def is_mapped(address: Address) -> bool:
    """Return whether an IPv6 address is an IPv4 address in disguise, which has no place on a wire."""
    return isinstance(address, IPv6Address) and address.ipv4_mapped is not None


def is_martian(address: Address) -> bool:
    """Return whether an address cannot be a sender's."""
    if isinstance(address, IPv4Address):
        return int(address) >> 24 in (0, 127) or int(address) >> 24 >= 224
    return is_mapped(address) or address.is_multicast or int(address) <= 1


def is_link_scope(address: Address) -> bool:
    """Return whether nothing may be routed to an address."""
    return is_martian(address) or address in _LINK_LOCAL[address.version]


_LINK_LOCAL = {4: ip_network("169.254.0.0/16"), 6: ip_network("fe80::/10")}


def _be16(frame: bytes, at: int) -> int:
    return int.from_bytes(frame[at : at + 2], "big")
