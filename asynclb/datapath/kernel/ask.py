"""A question to the loaded programs, by a run that no frame can cause (bpf.c, asynclb_ask)."""

import struct

from asynclb.datapath.core.core import DROPS
from asynclb.datapath.core.values import Asked, Verdict
from asynclb.native.libbpf import Libbpf

_CONTEXT = bytearray(192)
"""struct __sk_buff, of which the kernel takes `ifindex` and wants the rest to be zero."""
_IFINDEX = 40
_NOBODY, _KNOWN = 0xFFFF, 1 << 16


def ask(bpf: Libbpf, program: int, frame: bytes, ifindex: int) -> Asked:
    """Return who would get a frame. Cost: some 20 us. Raises: BpfError."""
    context = bytearray(_CONTEXT)
    struct.pack_into("=I", context, _IFINDEX, ifindex)
    word = bpf.test_run(program, frame, context=bytes(context)).code & 0xFFFF_FFFF
    reason, member = word >> 20 & 0xFF, word & 0xFFFF
    return Asked(
        Verdict(word >> 28),
        DROPS[reason - 1] if reason else None,
        None if member == _NOBODY else member,
        member != _NOBODY and bool(word & _KNOWN),
    )
