"""What goes into libbpf and comes out of it: errors, values, and the structures of its calls.

Source: bpf.h and libbpf.h of libbpf 1.1; include/uapi/linux/bpf.h, if_link.h.
"""

import errno
import os
from ctypes import Structure, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

_REMEDIES: Final = {
    errno.EPERM: "run as root or with CAP_BPF and CAP_NET_ADMIN; lockdown and containers may forbid it all the same",
    errno.EACCES: "the kernel's verifier refused the program; this is a bug of asynclb or of the kernel",
    errno.ENOMEM: "there is not enough memory that the kernel can lock; make the flow table smaller",
    errno.E2BIG: "the kernel does not take so much at once; make the tables smaller",
    errno.EBUSY: "another program is attached there; detach it, or attach to tc",
    errno.EEXIST: "another program is attached there, or to an interface above it; detach it, or attach to tc",
    errno.ENOENT: "it has been removed by somebody else",
    errno.ENODEV: "the interface is gone",
    errno.EOPNOTSUPP: "the interface's driver cannot do that; use `attach: tc`",
}


class BpfError(OSError):
    """A call that failed. `call` is its name, `what` went wrong in words, `remedy` what can be done."""

    def __init__(self, call: str, number: int, detail: str = "") -> None:
        remedy = _REMEDIES.get(number, "the kernel may be too old; Linux 5.15 or later is needed")
        self.what = "; ".join(part for part in (f"{call}: {os.strerror(number)}", detail) if part)
        super().__init__(number, f"{self.what}; {remedy}")
        self.call = call
        self.remedy = remedy

    def __str__(self) -> str:
        return str(self.strerror)


class LibbpfMissingError(BpfError):
    """There is no usable library."""

    def __init__(self, why: str) -> None:
        super().__init__("libbpf", errno.ENOENT, why)
        self.strerror = self.what = why
        self.remedy = (
            "install libbpf 1.0 or later (Debian, Ubuntu: `apt install libbpf1`; Fedora: `dnf install libbpf`)"
        )


class Attach(IntEnum):
    """Attach types. Source: enum bpf_attach_type."""

    XDP = 37
    TCX_INGRESS = 46
    TCX_EGRESS = 47


class XdpMode(IntEnum):
    """How XDP runs: in the stack (any interface), or in the driver. Source: linux/if_link.h."""

    GENERIC = 1 << 1
    NATIVE = 1 << 2


class MapType(IntEnum):
    """Source: enum bpf_map_type."""

    HASH = 1
    ARRAY = 2
    PERCPU_ARRAY = 6
    LRU_HASH = 9


@dataclass(frozen=True, slots=True)
class MapInfo:
    """The shape of a map."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What a link joins; `ifindex` is 0 when the interface is gone."""

    program: int
    ifindex: int


@dataclass(frozen=True, slots=True)
class TestRun:
    """What a program did with a packet. `duration_ns` is the mean of the repetitions."""

    code: int
    data: bytes
    duration_ns: int


class OpenOpts(Structure):
    _fields_ = (
        ("sz", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", c_uint32),
        ("pin_root_path", c_char_p),
        ("reserved", c_uint32),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
        ("kernel_log_buf", c_void_p),
        ("kernel_log_size", c_size_t),
        ("kernel_log_level", c_uint32),
    )


class LinkOpts(Structure):
    _fields_ = (
        ("sz", c_size_t),
        ("flags", c_uint32),
        ("iter_info", c_void_p),
        ("iter_info_len", c_uint32),
        ("target_btf_id", c_uint32),
    )


class MapOpts(Structure):
    _fields_ = (("sz", c_size_t), ("btf", c_uint32 * 4), ("inner", c_uint32), ("flags", c_uint32), ("extra", c_uint64))


class BatchOpts(Structure):
    _fields_ = (("sz", c_size_t), ("elem_flags", c_uint64), ("flags", c_uint64))


class TcHook(Structure):
    _fields_ = (("sz", c_size_t), ("ifindex", c_int), ("attach_point", c_int), ("parent", c_uint32))


class TcOpts(Structure):
    _fields_ = (
        ("sz", c_size_t),
        ("prog_fd", c_int),
        ("flags", c_uint32),
        ("prog_id", c_uint32),
        ("handle", c_uint32),
        ("priority", c_uint32),
    )


class TestRunOpts(Structure):
    _fields_ = (
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )
