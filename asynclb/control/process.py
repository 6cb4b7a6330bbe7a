"""What the process asks of the kernel for itself: file descriptors and capabilities."""

import ctypes
import os
import resource

from asynclb.events import Emit, Event

ENOUGH_DESCRIPTORS = 65_536  # two for a proxied connection: room for some 32,000 of them
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h: 64-bit sets in two 32-bit halves
_WORDS = 2


def raise_descriptor_limit(emit: Emit) -> int:
    """Raise RLIMIT_NOFILE to what the host allows and return it; say so where that is little."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < ENOUGH_DESCRIPTORS:
        emit(
            Event.HOST_LIMIT,
            what="open files: a proxied connection needs two",
            value=hard,
            remedy=f"LimitNOFILE={ENOUGH_DESCRIPTORS} (systemd), --ulimit nofile={ENOUGH_DESCRIPTORS} (containers)",
        )
    return hard


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def raise_capabilities() -> bool:
    """Make permitted capabilities effective; return whether that changed anything.

    An interpreter with file capabilities set as `cap_net_admin+p` (how an unprivileged container user gets them)
    starts with them permitted only. Everywhere else both sets are equal already and nothing is done.
    Raises: OSError -> the kernel refused, which it does not for sets that are permitted.
    Source: capset(2), capabilities(7).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = _Header(_CAPABILITY_VERSION_3, 0)
    sets = (_Sets * _WORDS)()
    _call(libc.capget, header, sets)
    if all(half.effective == half.permitted for half in sets):
        return False
    for half in sets:
        half.effective = half.permitted
    _call(libc.capset, header, sets)
    return True


def _call(function: "ctypes._NamedFuncPointer", header: _Header, sets: "ctypes.Array[_Sets]") -> None:
    if function(ctypes.byref(header), sets) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
