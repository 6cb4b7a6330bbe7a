"""As much of bpf(2) as pinning needs: a set of keys, a small program, and an assembler for it.

A program of 300 instructions that is made for one descriptor and one key is assembled where it is used: no compiler,
no object file, no loader. Only socket filters are loaded, which the kernel lets unprivileged processes load where
`kernel.unprivileged_bpf_disabled` is 0, and those with CAP_BPF elsewhere.

Source: bpf(2); Documentation/bpf/standardization/instruction-set.rst; linux/bpf.h.
"""

import ctypes
import os
import platform
import struct
from dataclasses import dataclass
from typing import Any, Final

SKB_PROTOCOL = 16
"""Offset of `protocol`, in network order, in struct __sk_buff."""

_SYSCALL: Final = {"x86_64": 321, "aarch64": 280}
_MAP_CREATE, _UPDATE, _DELETE, _PROG_LOAD, _TEST_RUN = 0, 2, 3, 5, 10
_HASH, _NO_PREALLOC, _SOCKET_FILTER = 1, 1, 1
_LOOKUP_ELEMENT, _SKB_LOAD_BYTES = 1, 26
_LOG_BYTES = 1 << 16
_LIBC = ctypes.CDLL(None, use_errno=True)

_INSTRUCTION = struct.Struct("=BBhi")
_LOAD, _STORE, _STORE_REGISTER = 0x61, 0x62, 0x63  # of 4 bytes, relative to a register
_SIZES = {4: 0x00, 2: 0x08, 1: 0x10, 8: 0x18}
_TESTS = {"==": 0x15, ">": 0x25, "!=": 0x55}


@dataclass(frozen=True, slots=True)
class Pinned:
    """Bytes at an address that stays for as long as the value lives."""

    buffer: Any
    address: int


def pinned(data: bytes) -> Pinned:
    """Copy data to where the kernel can read it."""
    buffer = ctypes.create_string_buffer(data, len(data))
    return Pinned(buffer, ctypes.addressof(buffer))


def _bpf(command: int, attributes: bytes) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(f"bpf(2) has no number that is known here on {platform.machine()}")
    record = pinned(attributes.ljust(128, b"\0"))
    result = _LIBC.syscall(number, command, ctypes.c_void_p(record.address), len(record.buffer))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf: {os.strerror(error)}")
    return int(result)


class _Descriptor:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


class HashSet(_Descriptor):
    """A set of keys of one size in the kernel. Raises: OSError -> no such maps, or not for this process."""

    def __init__(self, key_bytes: int, most: int) -> None:
        super().__init__(_bpf(_MAP_CREATE, struct.pack("=IIIII", _HASH, key_bytes, 1, most, _NO_PREALLOC)))
        self._value = pinned(b"\1")

    def add(self, key: bytes) -> None:
        """Put a key in. Raises: OSError -> there is no room."""
        held = pinned(key)
        _bpf(_UPDATE, struct.pack("=IIQQQ", self.fileno(), 0, held.address, self._value.address, 0))

    def remove(self, key: bytes) -> None:
        """Take a key out that is in."""
        held = pinned(key)
        _bpf(_DELETE, struct.pack("=IIQQ", self.fileno(), 0, held.address, 0))


class Program(_Descriptor):
    """A socket filter in the kernel. Raises: OSError -> it is refused; the message ends with the verifier's words."""

    def __init__(self, code: bytes) -> None:
        held, licence = pinned(code), pinned(b"GPL\0")
        head = struct.pack("=IIQQ", _SOCKET_FILTER, len(code) // 8, held.address, licence.address)
        try:
            descriptor = _bpf(_PROG_LOAD, head)
        except PermissionError:
            raise
        except OSError as error:
            log = pinned(bytes(_LOG_BYTES))
            try:
                descriptor = _bpf(_PROG_LOAD, head + struct.pack("=IIQ", 1, _LOG_BYTES, log.address))
            except OSError:
                words = log.buffer.value.decode(errors="replace").strip().splitlines()[-3:]
                raise OSError(error.errno, f"{error.strerror}: {' / '.join(words)}") from error
        super().__init__(descriptor)

    def run(self, frame: bytes) -> int:
        """Return what the program answers to a frame that came in. Needs CAP_SYS_ADMIN or CAP_BPF: for tests."""
        held = pinned(frame)
        # struct: prog_fd, retval, data_size_in, data_size_out, data_in, data_out
        record = pinned(struct.pack("=IIIIQQ", self.fileno(), 0, len(frame), 0, held.address, 0).ljust(128, b"\0"))
        number = _SYSCALL[platform.machine()]
        if _LIBC.syscall(number, _TEST_RUN, ctypes.c_void_p(record.address), len(record.buffer)) < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"bpf: {os.strerror(error)}")
        return int(struct.unpack_from("=I", record.buffer.raw, 4)[0])


class Assembler:
    """Instructions in order, and labels that jumps lead forward to. r6 is the packet, r7 an offset into it.

    Sizes are in bytes; places on the stack are negative.
    """

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int, str | None]] = []
        self._labels: dict[str, int] = {}

    def code(self) -> bytes:
        """Return the program. Raises: KeyError -> a label is missing."""
        found = bytearray()
        for at, (operation, registers, offset, value, label) in enumerate(self._code):
            there = offset if label is None else self._labels[label] - at - 1
            found += _INSTRUCTION.pack(operation, registers, there, value)
        return bytes(found)

    def label(self, name: str) -> None:
        """Name the next instruction."""
        self._labels[name] = len(self._code)

    def move(self, to: int, source: int) -> None:
        """Copy a register."""
        self._emit(0xBF, to, source)

    def set(self, to: int, value: int) -> None:
        """Set a register to a number of 31 bits."""
        self._emit(0xB7, to, value=value)

    def set_wide(self, to: int, value: int, source: int = 0) -> None:
        """Set a register to 64 bits; `source` 1 says that these are a map's descriptor."""
        low, high = struct.unpack("=ii", struct.pack("=Q", value))
        self._emit(0x18, to, source, value=low)
        self._emit(0, 0, value=high)

    def load(self, to: int, base: int, offset: int, size: int) -> None:
        """Load from memory at a register."""
        self._emit(_LOAD | _SIZES[size], to, base, offset)

    def store(self, offset: int, size: int, value: int) -> None:
        """Store a number on the stack."""
        self._emit(_STORE | _SIZES[size], 10, 0, offset, value)

    def store_register(self, offset: int, source: int, size: int) -> None:
        """Store a register on the stack."""
        self._emit(_STORE_REGISTER | _SIZES[size], 10, source, offset)

    def add(self, to: int, value: int) -> None:
        """Add a number."""
        self._emit(0x07, to, value=value)

    def add_register(self, to: int, source: int) -> None:
        """Add a register."""
        self._emit(0x0F, to, source)

    def multiply(self, to: int, source: int) -> None:
        """Multiply by a register, modulo 2^64."""
        self._emit(0x2F, to, source)

    def exclusive_or(self, to: int, source: int) -> None:
        """Combine with a register."""
        self._emit(0xAF, to, source)

    def mask(self, to: int, value: int) -> None:
        """Keep the bits of a number."""
        self._emit(0x57, to, value=value)

    def shift_left(self, to: int, bits: int) -> None:
        """Shift."""
        self._emit(0x67, to, value=bits)

    def shift_right(self, to: int, bits: int) -> None:
        """Shift zeros in."""
        self._emit(0x77, to, value=bits)

    def jump(self, label: str) -> None:
        """Go on at a label."""
        self._emit(0x05, 0, label=label)

    def jump_if(self, test: str, register: int, value: int, label: str) -> None:
        """Go on at a label if a register is (`==`), is not (`!=`) or is above (`>`) a number."""
        self._emit(_TESTS[test], register, value=value, label=label)

    def leave(self) -> None:
        """End with the answer in r0."""
        self._emit(0x95, 0)

    def read(self, to: int, size: int, otherwise: str) -> None:
        """Copy bytes at r7 of the packet to the stack, or jump if it is shorter. Spoils r0 to r5."""
        self.move(1, 6)
        self.move(2, 7)
        self.move(3, 10)
        self.add(3, to)
        self.set(4, size)
        self._emit(0x85, 0, value=_SKB_LOAD_BYTES)
        self.jump_if("!=", 0, 0, otherwise)

    def look_up(self, table: int, key: int) -> None:
        """Look up the key on the stack in a map; r0 is 0 if it is not there. Spoils r1 to r5."""
        self.set_wide(1, table, source=1)
        self.move(2, 10)
        self.add(2, key)
        self._emit(0x85, 0, value=_LOOKUP_ELEMENT)

    def _emit(
        self, operation: int, to: int, source: int = 0, offset: int = 0, value: int = 0, label: str | None = None
    ) -> None:
        self._code.append((operation, source << 4 | to, offset, value, label))
