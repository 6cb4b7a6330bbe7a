"""Who has this VIP? Questions turned into answers, in the frame that asked. C twin: neighbour.h."""

import struct
from ipaddress import IPv4Address, IPv6Address

from asynclb.datapath.core.oracle.rewrite import Rewriter
from asynclb.datapath.core.oracle.wire import Network

_REQUEST = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
_HOPS = 255
_SOLICITATION, _ADVERTISEMENT = 135, 136
_TO_ASKER, _TO_ALL = 0x6000_0000, 0x2000_0000
_OPTION_SOURCE, _OPTION_TARGET = 1, 2
_ALL_NODES, _ALL_NODES_LINK = IPv6Address("ff02::1"), bytes.fromhex("333300000001")


def arp_target(frame: bytes, at: int) -> IPv4Address | None:
    """Return the address that an ARP request asks for; `at` is where ARP begins."""
    packet = frame[at : at + 28]
    return IPv4Address(packet[24:28]) if len(packet) == 28 and packet[:8] == _REQUEST else None


def arp_answer(out: Rewriter, at: int, ours: bytes) -> None:
    """Turn an ARP request into its reply."""
    frame = out.frame
    asker, target = bytes(frame[at + 8 : at + 18]), bytes(frame[at + 24 : at + 28])
    frame[at + 6 : at + 28] = b"\0\2" + ours + target + asker
    out.set_links(asker[:6], ours)


def neighbour_target(frame: bytes, net: Network) -> IPv6Address | None:
    """Return the address that a neighbour solicitation asks for."""
    at = net.l4
    if len(frame) < at + 24 or net.end - at < 24 or frame[at : at + 2] != bytes((_SOLICITATION, 0)):
        return None
    return IPv6Address(frame[at + 8 : at + 24]) if frame[net.l3 + 7] == _HOPS else None


def neighbour_answer(out: Rewriter, net: Network, target: IPv6Address, ours: bytes) -> None:
    """Turn a neighbour solicitation into its advertisement; who has no address yet cannot be told alone."""
    frame, at, asked = out.frame, net.l4, bytes(out.frame)
    named, option = int(net.source) != 0, at + 24 if net.end - at >= 32 else None
    to_link = _ALL_NODES_LINK
    if named:
        source = option is not None and asked[option : option + 2] == bytes((_OPTION_SOURCE, 1))
        to_link = asked[option + 2 : option + 8] if source and option is not None else asked[6:12]
    change = out.replace(at, bytes((_ADVERTISEMENT, 0)))
    change += out.replace(at + 4, struct.pack("!I", _TO_ASKER if named else _TO_ALL))
    if option is not None and frame[option + 1] == 1:
        change += out.replace(option, bytes((_OPTION_TARGET, 1)) + ours)
    out.follow_icmp(net, change)
    out.set_address(net, target, destination=False)
    out.set_address(net, net.source if named else _ALL_NODES, destination=True)
    out.set_links(to_link, ours)
