"""Resets for TCP flows that idled out, with sequence numbers that both ends accept.

An end accepts a reset whose sequence number is the next that it waits for (RFC 5961, 3.2): the last acknowledgement
number that it sent, which the flow remembers for each way. Pure.
"""

import struct

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS

_RST = 0x5004  # a header of 20 bytes, and the flag
_TCP = 6
_TTL = 64  # what hosts send with
Words = tuple[int, int]
End = tuple[Words, int]


def reset_frames(
    keyed: layout.KeyedFlow, hop: layout.Hop | None, ours: bytes | None, member: Words | None
) -> tuple[tuple[int, bytes], ...]:
    """Return (ifindex, frame) to the client and to the member of a flow; none to an end that was not heard or found.

    An end that never acknowledged anything through the balancer would not believe a reset. Hairpin flows get none:
    the ends are on one side.
    """
    flow = keyed.flow
    if flow.flags & CONSTANTS["FLOW_HAIRPIN"]:
        return ()
    client, frontend = flow_ends(keyed)
    if flow.flags & CONSTANTS["FLOW_SNAT"]:  # each half knows the end that sends what it is found by
        link = bytes(flow.client_link)
        told = flow.ack_in and ours is not None
        return ((flow.ifindex, _frame(link, ours or b"", frontend, client, flow.ack_in)),) if told else ()
    target = (member if flow.flags & CONSTANTS["FLOW_NAT"] else frontend[0], flow.target_port or frontend[1])
    frames = []
    if flow.ack_in and ours is not None:
        frames.append((flow.ifindex, _frame(bytes(flow.client_link), ours, frontend, client, flow.ack_in)))
    if flow.ack_out and hop is not None and target[0] is not None:
        links = bytes(hop.destination), bytes(hop.source)
        frames.append((hop.ifindex, _frame(*links, client, (target[0], target[1]), flow.ack_out)))
    return tuple(frames)


def flow_ends(keyed: layout.KeyedFlow) -> tuple[End, End]:
    """Return the client's end of a flow and the other."""
    key = keyed.key
    ends = (
        ((key.source.high, key.source.low), key.source_port),
        ((key.destination.high, key.destination.low), key.destination_port),
    )
    return (ends[1], ends[0]) if keyed.flow.flags & CONSTANTS["FLOW_SWAPPED"] else ends


def _frame(to: bytes, via: bytes, source: End, destination: End, sequence: int) -> bytes:
    four = source[0][0] == 0 and source[0][1] >> 32 == 0xFFFF
    size = 4 if four else 16
    packed = (_bytes(source[0], size), _bytes(destination[0], size))
    tcp = struct.pack("!HHIIHHHH", source[1], destination[1], sequence, 0, _RST, 0, 0, 0)
    pseudo = b"".join(packed) + struct.pack("!II", len(tcp), _TCP)
    tcp = tcp[:16] + checksum(pseudo + tcp).to_bytes(2, "big") + tcp[18:]
    if four:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, _TTL, _TCP, 0) + b"".join(packed)
        head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
        return to + via + b"\x08\x00" + head + tcp
    return to + via + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(tcp), _TCP, _TTL) + b"".join(packed) + tcp


def _bytes(words: Words, size: int) -> bytes:
    return ((words[0] << 64) | words[1]).to_bytes(16, "big")[-size:]


def checksum(data: bytes) -> int:
    """Return the Internet checksum. Source: RFC 1071."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
