"""Give up network privileges for a while, in one thread: capabilities belong to threads, so nobody else notices."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3, linux/capability.h
_CAP_NET_ADMIN, _CAP_NET_RAW = 12, 13
_NETWORK = 1 << _CAP_NET_ADMIN | 1 << _CAP_NET_RAW
_SYS_CAPGET, _SYS_CAPSET = (90, 91) if os.uname().machine == "aarch64" else (125, 126)

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _call(number: int, sets: ctypes.Array[_Sets]) -> None:
    header = _Header(_VERSION_3, 0)
    if _libc.syscall(number, ctypes.byref(header), sets):
        code = ctypes.get_errno()
        raise OSError(code, f"capabilities: {os.strerror(code)}")


@contextmanager
def without_network_privileges() -> Iterator[None]:
    """Take CAP_NET_ADMIN and CAP_NET_RAW from the calling thread until the block ends."""
    sets = (_Sets * 2)()
    _call(_SYS_CAPGET, sets)
    before = sets[0].effective
    sets[0].effective &= ~_NETWORK
    _call(_SYS_CAPSET, sets)
    try:
        yield
    finally:
        sets[0].effective = before
        _call(_SYS_CAPSET, sets)
