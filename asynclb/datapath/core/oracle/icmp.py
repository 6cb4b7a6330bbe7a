"""Errors of our own, in the place of the packet that they are about. C twin: icmp.h, with the reasons."""

import struct

from asynclb.datapath.core.layout import CONSTANTS
from asynclb.datapath.core.oracle.memory import Memory
from asynclb.datapath.core.oracle.wire import ICMP, ICMP6, TCP, Form, Network, Parsed, Part
from asynclb.datapath.core.reset import checksum
from asynclb.net.address import Address

_DONT_FRAGMENT = 0x40
_PRECEDENCE = 0xC0
_TTL = 64


def icmp_allowed(memory: Memory, now_ms: int) -> bool:
    """Take a token, if there is one: a burst, and then one each millisecond."""
    due = (now_ms - memory.icmp_ms) // CONSTANTS["ICMP_MS"]
    if due >= CONSTANTS["ICMP_BURST"] - memory.icmp_tokens:
        memory.icmp_tokens, memory.icmp_ms = CONSTANTS["ICMP_BURST"], now_ms
    else:
        memory.icmp_tokens += due
        memory.icmp_ms += due * CONSTANTS["ICMP_MS"]
    if not memory.icmp_tokens:
        return False
    memory.icmp_tokens -= 1
    return True


def packet_size(frame: bytes, net: Network, segment: int) -> int:
    """Return the size that the network sees: of each segment, where the kernel is yet to cut them."""
    if not segment:
        return net.end - net.l3
    header = (frame[net.l4 + 12] >> 4) * 4 if net.protocol == TCP and len(frame) >= net.l4 + 20 else 8
    return net.l4 - net.l3 + header + segment


def wants_too_big(frame: bytes, parsed: Parsed, net: Network) -> bool:
    """Return whether the sender may and wants to be told."""
    if parsed.form is Form.ERROR or net.part is Part.LATER:
        return False
    return net.version == 6 or bool(frame[net.l3 + 6] & _DONT_FRAGMENT)


def too_big(frame: bytes, net: Network, source: Address, mtu: int) -> bytes | None:
    """Return the frame that tells the sender, its link addresses turned; None when there is no room for it."""
    size = min(net.end - net.l3, CONSTANTS["QUOTE_BYTES"]) & ~3
    head = 20 if net.version == 4 else 40
    if len(frame) < net.l3 + head + 8 + size:
        return None
    return error(frame, net, source, (3, 4) if net.version == 4 else (2, 0), mtu, size)


def error(frame: bytes, net: Network, source: Address, kind: tuple[int, int], rest: int, size: int) -> bytes:
    """Return the frame of an error that quotes `size` bytes, its link addresses turned. `kind` is type and code."""
    head = 20 if net.version == 4 else 40
    quote = frame[net.l3 : net.l3 + size]
    links = frame[6:12] + frame[:6] + frame[12 : net.l3]
    ends = source.packed + net.source.packed
    if net.version == 4:
        body = _with_checksum(struct.pack("!BBHI", *kind, 0, rest) + quote, b"")
        parts = (0x4500 | _PRECEDENCE, head + len(body), 0, _DONT_FRAGMENT << 8, _TTL, ICMP, 0)
        header = struct.pack("!HHHHBBH", *parts) + ends
        return links + header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + body
    body = struct.pack("!BBHI", *kind, 0, rest) + quote
    body = _with_checksum(body, ends + struct.pack("!II", len(body), ICMP6))
    return links + struct.pack("!IHBB", 6 << 28 | _PRECEDENCE << 20, len(body), ICMP6, _TTL) + ends + body


def _with_checksum(body: bytes, pseudo: bytes) -> bytes:
    return body[:2] + checksum(pseudo + body).to_bytes(2, "big") + body[4:]
