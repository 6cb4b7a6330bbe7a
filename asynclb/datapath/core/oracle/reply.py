"""What is said in the place of a packet, to whoever sent it. C twin: reply.h, with the reasons."""

import struct

from asynclb.datapath.core.oracle.icmp import error
from asynclb.datapath.core.oracle.rewrite import Rewriter
from asynclb.datapath.core.oracle.wire import TCP, Form, Network, Parsed, Part
from asynclb.datapath.core.reset import checksum
from asynclb.net.flow import Flow

_TTL = 64
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_HEADER = 20


def reset(frame: bytes, parsed: Parsed, flow: Flow) -> bytes | None:
    """Return the reset that the sender of a segment accepts, or None when there is none."""
    net = parsed.net
    assert net is not None  # noqa: S101 # it belongs to a flow
    flags = parsed.tcp_flags
    if parsed.form is not Form.PLAIN or net.part is not Part.WHOLE or net.protocol != TCP or flags & _RST:
        return None
    sequence, ack, words = struct.unpack_from("!I", frame, net.l4 + 8)[0], 0, 0x5000 | _RST
    if not flags & _ACK:
        payload = net.end - net.l4 - (frame[net.l4 + 12] >> 4) * 4
        begins = struct.unpack_from("!I", frame, net.l4 + 4)[0]
        sequence, words = 0, words | _ACK
        ack = begins + payload + bool(flags & _SYN) + bool(flags & _FIN) & 0xFFFF_FFFF
    tcp = struct.pack("!HHIIHHHH", flow.destination_port, flow.source_port, sequence, ack, words, 0, 0, 0)
    pseudo = net.destination.packed + net.source.packed + struct.pack("!II", len(tcp), TCP)
    tcp = tcp[:16] + checksum(pseudo + tcp).to_bytes(2, "big") + tcp[18:]
    return _turned(_shortened(_turned_addresses(frame, net), net)) + tcp


def echo(frame: bytes, net: Network) -> bytes:
    """Return the answer to a ping."""
    out = Rewriter(bytearray(_turned_addresses(frame, net)))
    out.follow_icmp(net, out.replace(net.l4, bytes((0 if net.version == 4 else 129, frame[net.l4 + 1]))))
    return _turned(bytes(out.frame))


def unreachable(frame: bytes, net: Network) -> bytes | None:
    """Return what says that nobody is there, or None when that is longer than the ping."""
    quote = net.l4 - net.l3 + 8
    if net.end - net.l3 < quote + (28 if net.version == 4 else 48) or quote % 4:
        return None
    kind = (3, 1) if net.version == 4 else (1, 3)
    return error(frame, net, net.destination, kind, 0, quote)


def _turned(frame: bytes) -> bytes:
    """Return a frame that goes back by the link that it came by."""
    return frame[6:12] + frame[:6] + frame[12:]


def _turned_addresses(frame: bytes, net: Network) -> bytes:
    out = Rewriter(bytearray(frame))
    ends = net.destination.packed + net.source.packed
    if net.version == 6:
        out.frame[net.l3 + 7] = _TTL
        out.frame[net.l3 + 8 : net.l3 + 40] = ends
    else:
        out.follow_ipv4(net, out.replace(net.l3 + 8, bytes((_TTL, frame[net.l3 + 9]))))
        out.frame[net.l3 + 12 : net.l3 + 20] = ends
    return bytes(out.frame)


def _shortened(frame: bytes, net: Network) -> bytes:
    """Return a frame up to its transport header, which says that this has no more than TCP's."""
    out = Rewriter(bytearray(frame))
    before = net.l4 - net.l3
    if net.version == 6:
        out.replace(net.l3 + 4, (before - 40 + _HEADER).to_bytes(2, "big"))
    else:
        out.follow_ipv4(net, out.replace(net.l3 + 2, (before + _HEADER).to_bytes(2, "big")))
    return bytes(out.frame[: net.l4])
