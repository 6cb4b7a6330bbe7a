"""Run a program that the kernel refuses one system call, as a container's seccomp profile does.

    python refusing.py bpf EPERM program argument ...

Source: seccomp(2); linux/filter.h, seccomp.h, audit.h.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

_NUMBERS = {"bpf": {"x86_64": 321, "aarch64": 280}}
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_LOAD_NUMBER, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000


class _Filters(ctypes.Structure):
    _fields_ = (("number", ctypes.c_ushort), ("filters", ctypes.c_void_p))


def refuse(call: str, error: int) -> None:
    """Let a system call fail from here on, in this process and what it becomes. Raises: OSError -> not allowed."""
    number = _NUMBERS[call][platform.machine()]
    words = (
        *((_LOAD_NUMBER, 0, 0, 0), (_JUMP_IF_EQUAL, 0, 1, number)),
        *((_RETURN, 0, 0, _ERRNO | error), (_RETURN, 0, 0, _ALLOW)),
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *word) for word in words))
    filters = _Filters(len(words), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filters), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")


if __name__ == "__main__":
    refuse(sys.argv[1], getattr(errno, sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])  # noqa: S606  # a program, not words of a shell
