"""Which worker a frame goes to: PACKET_FANOUT with a program, so that every packet of a flow meets the same one.

The sockets of one interface are a group, and for each frame the kernel runs a small BPF program; what it returns,
modulo the number of sockets, is the place of the socket in the group. The program knows one set of addresses: what is
ours, that is every VIP and every member that replies through the balancer.

Laws:
  1. The place is the sum of a hash of each end that is not ours. So it depends on the client alone for what goes to
     a VIP and what a member answers; on both ends, in either direction, for what is routed through; and it is one and
     the same where members are clients, because there a packet does not say which VIP it belongs to.
  2. An ICMP or ICMPv6 error goes by the ends of the packet that it quotes; a fragment by its own, which all have.
  3. What is not IP goes to the first place.
  4. Sockets keep their places: all of a group are opened and held by one process, in the order of the workers, and a
     worker that dies leaves its socket with the process that holds it. A group is never joined later.
  5. Before a group is complete its sockets hear nothing: else a frame would be heard by several.

A flow whose ends become ours, or cease to be, may meet another worker. That one knows nothing of it and balances it
anew, by the same table.

Source: packet(7); net/packet/af_packet.c (packet_rcv_fanout, fanout_demux_bpf, __fanout_link).
"""

import errno
import secrets
import socket
import struct
import sys
from collections.abc import Iterable, Sequence

from asynclb.datapath.packet import bpf
from asynclb.datapath.packet.bpf import Assembler, HashSet, Program
from asynclb.datapath.packet.ring import SOL_PACKET
from asynclb.net.address import Address

MAX_WORKERS = 64
"""The kernel takes 256 sockets a group; each interface costs a worker 34 MiB of ring."""

_PACKET_FANOUT = 18
_PACKET_FANOUT_DATA = 22
_FANOUT_EBPF = 7
_IGNORE_OUTGOING = 0x4000  # the group's own flag: that of its sockets is not asked
_UNIQUE_ID = 0x2000
_SILENCE = struct.pack("HBBI", 0x06, 0, 0, 0)  # classic BPF: return 0, take nothing
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_MAX_OURS = 1 << 17  # 65,536 members and 8,192 rules' frontends, with room for the moment between two generations

_ONES = (1 << 64) - 1
_FIRST, _SECOND, _THIRD = 0x9E37_79B9_7F4A_7C15, 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB  # of splitmix64
_EXTENSIONS = 8  # as many as the core follows
_V4_ERRORS, _V6_LAST_ERROR = (3, 4, 5, 11, 12), 127


def end_hash(address: Address, key: int) -> int:
    """Return the hash of one end. The twin of what `program` does."""
    packed = _key(address)
    high, low = (int.from_bytes(half, sys.byteorder) for half in (packed[:8], packed[8:]))
    word = ((high ^ key) * _FIRST) & _ONES
    word ^= word >> 32 ^ low
    word = (word * _SECOND) & _ONES
    word ^= word >> 29
    word = (word * _THIRD) & _ONES
    return word ^ word >> 32


def place_of(ends: Iterable[Address], ours: Iterable[Address], key: int, workers: int) -> int:
    """Return the place for a packet between two ends. The twin of what `program` and the kernel do."""
    known = frozenset(ours)
    return ((sum(end_hash(end, key) for end in ends if end not in known) & _ONES) >> 32) % workers


class Pinning:
    """The program and its set of addresses, in the kernel. Owner: the datapath.

    Raises: OSError -> the kernel has no such programs, or lets this process load none (CAP_BPF).
    """

    def __init__(self, key: int | None = None) -> None:
        """Load both. `key` is random, so that clients cannot aim at one worker."""
        self._ours: frozenset[Address] = frozenset()
        self._set = HashSet(16, _MAX_OURS)
        try:
            self.program = Program(assemble(self._set.fileno(), secrets.randbits(64) if key is None else key))
        except BaseException:
            self._set.close()
            raise

    def add(self, addresses: Iterable[Address]) -> None:
        """Make these ours too. Raises: OSError -> there is no room."""
        for address in frozenset(addresses) - self._ours:
            self._set.add(_key(address))
            self._ours |= {address}

    def keep(self, addresses: Iterable[Address]) -> None:
        """Let only these be ours."""
        kept = frozenset(addresses)
        for address in self._ours - kept:
            self._set.remove(_key(address))
        self._ours &= kept

    def join(self, receivers: Sequence[socket.socket]) -> None:
        """Make the receivers of one interface, which are silent and bound, a group in this order, and let them hear.

        Raises: OSError -> the kernel does not know the program's way of choosing.
        """
        first, kind = receivers[0], _begin(receivers[0])
        first.setsockopt(SOL_PACKET, _PACKET_FANOUT_DATA, self.program.fileno())
        group = first.getsockopt(SOL_PACKET, _PACKET_FANOUT) & 0xFFFF
        for receiver in receivers[1:]:
            receiver.setsockopt(SOL_PACKET, _PACKET_FANOUT, kind << 16 | group)
        for receiver in receivers:
            receiver.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def close(self) -> None:
        """Let go of both; groups keep the program for as long as they last."""
        self.program.close()
        self._set.close()


def _begin(first: socket.socket) -> int:
    """Let a receiver be the first of a group; return the group's kind.

    Older kernels do not know that groups ignore what leaves: there the core passes over it.
    """
    kind = _FANOUT_EBPF | _IGNORE_OUTGOING
    try:
        first.setsockopt(SOL_PACKET, _PACKET_FANOUT, (kind | _UNIQUE_ID) << 16)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        kind = _FANOUT_EBPF
        first.setsockopt(SOL_PACKET, _PACKET_FANOUT, (kind | _UNIQUE_ID) << 16)
    return kind


def silence(receiver: socket.socket) -> None:
    """Let a receiver take nothing until its group is complete."""
    code = bpf.pinned(_SILENCE)
    receiver.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, code.address))


def _key(address: Address) -> bytes:
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


# Where the program keeps things. Registers: r6 the packet, r7 the offset, r8 a word, r9 the sum. Stack: below.
_KEY, _SCRATCH, _HEADER = -16, -24, -64


def assemble(ours: int, key: int) -> bytes:
    """Return the program for a set's descriptor."""
    a = Assembler()
    a.move(6, 1)
    a.set(9, 0)
    a.set(7, 0)
    a.load(8, 6, bpf.SKB_PROTOCOL, 4)  # what follows the outermost tag, which the kernel has taken off
    for number in range(2):
        _untag(a, f"untagged{number}")
    a.jump_if("==", 8, socket.htons(0x0800), "v4")
    a.jump_if("==", 8, socket.htons(0x86DD), "v6")
    a.label("first")
    a.set(0, 0)
    a.leave()
    _version4(a)
    _version6(a)
    for version, places in ((4, (12, 16)), (6, (8, 24))):
        a.label(f"ends{version}")
        for place in places:
            _add_end(a, ours, key, version, place)
        a.jump("done")
    a.label("done")
    a.move(0, 9)
    a.shift_right(0, 32)
    a.leave()
    return a.code()


def _untag(a: Assembler, otherwise: str) -> None:
    a.jump_if("==", 8, socket.htons(0x8100), f"{otherwise}tag")
    a.jump_if("!=", 8, socket.htons(0x88A8), otherwise)
    a.label(f"{otherwise}tag")
    a.read(_SCRATCH, 4, "first")
    a.load(8, 10, _SCRATCH + 2, 2)
    a.add(7, 4)
    a.label(otherwise)


def _version4(a: Assembler) -> None:
    """Read the header; of an error in a first fragment, the one that it quotes."""
    a.label("v4")
    a.read(_HEADER, 20, "first")
    a.load(1, 10, _HEADER + 9, 1)
    a.jump_if("!=", 1, 1, "ends4")
    a.load(1, 10, _HEADER + 6, 2)
    a.mask(1, socket.htons(0x1FFF))
    a.jump_if("!=", 1, 0, "ends4")
    a.load(1, 10, _HEADER, 1)
    a.mask(1, 15)
    a.shift_left(1, 2)
    a.add_register(7, 1)
    a.read(_SCRATCH, 1, "first")
    a.load(1, 10, _SCRATCH, 1)
    for kind in _V4_ERRORS:
        a.jump_if("==", 1, kind, "quote4")
    a.jump("ends4")
    a.label("quote4")
    a.add(7, 8)
    a.read(_HEADER, 20, "first")
    a.jump("ends4")


def _version6(a: Assembler) -> None:
    """Read the header; of an error behind at most eight extension headers, the one that it quotes."""
    a.label("v6")
    a.read(_HEADER, 40, "first")
    a.load(8, 10, _HEADER + 6, 1)
    a.add(7, 40)
    for number in range(_EXTENSIONS):
        a.jump_if("==", 8, 58, "icmp6")
        for kind in (0, 43, 60):
            a.jump_if("==", 8, kind, f"options{number}")
        a.jump_if("!=", 8, 44, "ends6")
        a.read(_SCRATCH, 4, "first")
        a.load(1, 10, _SCRATCH + 2, 2)
        a.mask(1, socket.htons(0xFFF8))
        a.jump_if("!=", 1, 0, "ends6")  # a later fragment
        a.set(1, 0)
        a.jump(f"next{number}")
        a.label(f"options{number}")
        a.read(_SCRATCH, 2, "first")
        a.load(1, 10, _SCRATCH + 1, 1)
        a.shift_left(1, 3)
        a.label(f"next{number}")
        a.add(1, 8)
        a.add_register(7, 1)
        a.load(8, 10, _SCRATCH, 1)
    a.jump_if("!=", 8, 58, "ends6")
    a.label("icmp6")
    a.read(_SCRATCH, 1, "first")
    a.load(1, 10, _SCRATCH, 1)
    a.jump_if(">", 1, _V6_LAST_ERROR, "ends6")
    a.add(7, 8)
    a.read(_HEADER, 40, "first")
    a.jump("ends6")


def _add_end(a: Assembler, ours: int, key: int, version: int, place: int) -> None:
    """Add the hash of an address in the header to the sum, if it is not ours. Python twin: end_hash."""
    skip = f"ours{version}_{place}"
    if version == 4:
        a.store(_KEY, 8, 0)
        a.store(_KEY + 8, 4, struct.unpack("=i", b"\0\0\xff\xff")[0])
        a.load(1, 10, _HEADER + place, 4)
        a.store_register(_KEY + 12, 1, 4)
    else:
        for half in (0, 8):
            a.load(1, 10, _HEADER + place + half, 8)
            a.store_register(_KEY + half, 1, 8)
    a.look_up(ours, _KEY)
    a.jump_if("!=", 0, 0, skip)
    a.load(1, 10, _KEY, 8)
    a.load(2, 10, _KEY + 8, 8)
    a.set_wide(3, key)
    a.exclusive_or(1, 3)
    a.set_wide(3, _FIRST)
    a.multiply(1, 3)
    _fold(a, 32)
    a.exclusive_or(1, 2)
    a.set_wide(3, _SECOND)
    a.multiply(1, 3)
    _fold(a, 29)
    a.set_wide(3, _THIRD)
    a.multiply(1, 3)
    _fold(a, 32)
    a.add_register(9, 1)
    a.label(skip)


def _fold(a: Assembler, bits: int) -> None:
    a.move(3, 1)
    a.shift_right(3, bits)
    a.exclusive_or(1, 3)
