"""Who may knock: classic BPF on listening sockets, so that the kernel drops strangers before any state is made.

A listening socket with such a filter answers a stranger with nothing at all: no SYN-ACK, no reset, no ICMP.
The same mechanism makes a whole frontend silent while no member may take a flow. It needs no privileges and
no packet filter of the host, and the switch from one filter to another is atomic.

Source: Documentation/networking/filter.rst; SKF_NET_OFF in include/uapi/linux/filter.h.
"""

import struct
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from asynclb.net.address import Prefix

Program = bytes
"""Instructions of 8 bytes each, as in `struct sock_filter`, in the host's byte order."""

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS, include/uapi/linux/bpf_common.h

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS: A = the big-endian word at offset k
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K: how many bytes of the packet to keep
_NETWORK_HEADER = 0xFFF0_0000  # SKF_NET_OFF as unsigned: offsets count from the IP header
_SOURCE_OFFSET = {4: 12, 6: 8}  # RFC 791 section 3.1, RFC 8200 section 3
_KEEP_ALL = 0xFFFF_FFFF
_WORD = 0xFFFF_FFFF

SILENT: Program = struct.pack("=HBBI", _RETURN, 0, 0, 0)
"""Drops every packet."""


def allow_program(prefixes: Iterable[Prefix], version: int) -> Program | None:
    """Return a program that keeps packets from the prefixes of one IP version, or None where all are kept.

    Shape: at most 4 instructions for an IPv4 prefix (3 for an address), 10 for an IPv6 prefix, and 1 more.
    """
    merged = _merge(prefixes, version)
    if any(prefix.prefixlen == 0 for prefix in merged):
        return None
    if not merged:
        return SILENT
    program = b"".join(_match(prefix) for prefix in merged)
    return program + SILENT


def instructions(program: Program) -> int:
    """Return the number of instructions of a program."""
    return len(program) // 8


def _merge(prefixes: Iterable[Prefix], version: int) -> list[Prefix]:
    if version == 4:
        return list(collapse_addresses(p for p in prefixes if isinstance(p, IPv4Network)))
    return list(collapse_addresses(p for p in prefixes if isinstance(p, IPv6Network)))


def _match(prefix: Prefix) -> bytes:
    """Keep the packet if its source is in the prefix, else go on behind this piece of program."""
    words = []
    address, mask = int(prefix.network_address), int(prefix.netmask)
    for shift in range(prefix.max_prefixlen - 32, -1, -32):
        wanted, bits = address >> shift & _WORD, mask >> shift & _WORD
        if bits:
            words.append((wanted, bits))
    pieces = [_RETURN_KEEP]
    behind = 1  # instructions from here to the end of this prefix
    for index in range(len(words) - 1, -1, -1):
        wanted, bits = words[index]
        pieces.append(struct.pack("=HBBI", _JUMP_EQUAL, 0, behind, wanted))
        if bits != _WORD:
            pieces.append(struct.pack("=HBBI", _AND, 0, 0, bits))
        offset = _NETWORK_HEADER + _SOURCE_OFFSET[prefix.version] + 4 * index
        pieces.append(struct.pack("=HBBI", _LOAD_WORD, 0, 0, offset))
        behind += 2 + (bits != _WORD)
    return b"".join(reversed(pieces))


_RETURN_KEEP = struct.pack("=HBBI", _RETURN, 0, 0, _KEEP_ALL)
