"""Addresses and ports are replaced, checksums follow the difference. C twin: rewrite.h.

Source: RFC 1624, equation 3.
"""

import struct
from dataclasses import dataclass

from asynclb.datapath.core.oracle.wire import DCCP, ICMP6, TCP, UDP, UDPLITE, Network, Part
from asynclb.net.address import Address

_CHECKSUMS = {TCP: 16, UDP: 6, UDPLITE: 6, DCCP: 6}


def fold(total: int) -> int:
    """Add the carries of a sum of 16-bit words."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def difference(old: bytes, new: bytes) -> int:
    """Return what replacing `old` by `new` adds to a sum of 16-bit words."""
    words = f"!{len(old) // 2}H"
    total: int = sum(struct.unpack(words, new))
    for word in struct.unpack(words, old):
        total += word ^ 0xFFFF
    return total


@dataclass(slots=True)
class Rewriter:
    """A frame that is being rewritten. `partial` is (start, offset) of a checksum that is yet to be completed."""

    frame: bytearray
    partial: tuple[int, int] | None = None

    def replace(self, at: int, new: bytes) -> int:
        """Replace bytes; returns what that adds to a sum of 16-bit words."""
        old = bytes(self.frame[at : at + len(new)])
        self.frame[at : at + len(new)] = new
        return difference(old, new)

    def _follow(self, at: int, change: int, *, partial: bool = False, zero_is_none: bool = False) -> int:
        check = int.from_bytes(self.frame[at : at + 2], "big")
        if partial:
            return self.replace(at, fold(check + change).to_bytes(2, "big"))
        if zero_is_none and check == 0:
            return 0
        check = fold((check ^ 0xFFFF) + change) ^ 0xFFFF
        return self.replace(at, (check or (0xFFFF if zero_is_none else 0)).to_bytes(2, "big"))

    def _follow_transport(self, net: Network, change: int, *, ports: bool) -> int:
        offset = 2 if net.version == 6 and net.protocol == ICMP6 else _CHECKSUMS.get(net.protocol, 0)
        partial = self.partial == (net.l4, offset)
        absent = net.part is Part.LATER or net.end - net.l4 < offset + 2
        if not offset or absent or (partial and ports):
            return 0
        return self._follow(net.l4 + offset, change, partial=partial, zero_is_none=net.protocol == UDP)

    def set_address(self, net: Network, address: Address, *, destination: bool) -> int:
        """Replace an address; returns the difference that all changed fields make together."""
        size = len(address.packed)
        change = self.replace(net.l3 + (12 if net.version == 4 else 8) + destination * size, address.packed)
        total = change + (self._follow(net.l3 + 10, change) if net.version == 4 else 0)
        return total + self._follow_transport(net, change, ports=False)

    def set_port(self, net: Network, port: int, *, destination: bool) -> int:
        """Replace a port of TCP or UDP where the fragment has it."""
        if net.part is Part.LATER or net.protocol not in (TCP, UDP):
            return 0
        change = self.replace(net.l4 + 2 * destination, port.to_bytes(2, "big"))
        return change + self._follow_transport(net, change, ports=True)

    def follow_ipv4(self, net: Network, change: int) -> None:
        """Let the checksum of an IPv4 header follow."""
        self._follow(net.l3 + 10, change)

    def follow_icmp(self, net: Network, change: int) -> None:
        """Let the checksum of ICMP follow what was changed behind it."""
        if self.partial is None or self.partial[0] != net.l4:
            self._follow(net.l4 + 2, change)

    def set_links(self, destination: bytes, source: bytes) -> None:
        """Replace both link addresses."""
        self.frame[0:12] = destination + source
