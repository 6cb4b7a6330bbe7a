"""The few bpf(2) calls of the benchmark: what a program has run for, run one without a device, read and write a map.

Programs are loaded and attached by `ip` and `tc`, and found again by the numbers that those print. Statistics are
switched on by a descriptor (BPF_ENABLE_STATS) and end with it, at the latest with the process; the sysctl stays as it
is. They cost two reads of the clock a run, which the figures of all programs hold alike.

Source: bpf(2), <linux/bpf.h>.
"""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import Structure, addressof, c_char, c_uint32, c_uint64, create_string_buffer, sizeof
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CALL: Final = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), 0)  # of bpf(2)
_ATTR_BYTES = 128  # more than any call here needs; what it does not know must be zero
_MAP_LOOKUP, _MAP_UPDATE = 1, 2
_TEST_RUN, _PROG_BY_ID, _MAP_BY_ID, _INFO, _QUERY, _ENABLE_STATS = 10, 13, 14, 15, 16, 32
_TCX_INGRESS = 46
_LIVE_FRAMES = 2  # BPF_F_TEST_XDP_LIVE_FRAMES
_RUN_TIME = 0  # BPF_STATS_RUN_TIME
_PER_CPU = (5, 6, 10)  # hash, array and LRU hash with a value for each processor
_MOST = 64  # programs on an interface, maps of a program

_libc = ctypes.CDLL(None, use_errno=True)


class _ProgInfo(Structure):
    """The beginning of struct bpf_prog_info."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", c_char * 8),
        ("jited_prog_len", c_uint32),
        ("xlated_prog_len", c_uint32),
        ("jited_prog_insns", c_uint64),
        ("xlated_prog_insns", c_uint64),
        ("load_time", c_uint64),
        ("created_by_uid", c_uint32),
        ("nr_map_ids", c_uint32),
        ("map_ids", c_uint64),
        ("name", c_char * 16),
        ("unused", c_uint32 * 28),  # where it may run, and its debugging information
        ("run_time_ns", c_uint64),
        ("run_cnt", c_uint64),
    )


class _MapInfo(Structure):
    """The beginning of struct bpf_map_info."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", c_char * 16),
    )


class _TestRun(Structure):
    """Attributes of BPF_PROG_TEST_RUN."""

    _fields_ = (
        ("prog_fd", c_uint32),
        ("retval", c_uint32),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("data_in", c_uint64),
        ("data_out", c_uint64),
        ("repeat", c_uint32),
        ("duration", c_uint32),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("ctx_in", c_uint64),
        ("ctx_out", c_uint64),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


class _Words(Structure):
    """Attributes of the calls that take a few numbers."""

    _fields_ = (("a", c_uint32), ("b", c_uint32), ("c", c_uint64))


class _Element(Structure):
    """Attributes of the calls on an element of a map."""

    _fields_ = (("map_fd", c_uint32), ("pad", c_uint32), ("key", c_uint64), ("value", c_uint64), ("flags", c_uint64))


class _Query(Structure):
    """Attributes of BPF_PROG_QUERY."""

    _fields_ = (
        ("ifindex", c_uint32),
        ("attach_type", c_uint32),
        ("query_flags", c_uint32),
        ("attach_flags", c_uint32),
        ("prog_ids", c_uint64),
        ("count", c_uint32),
        ("pad", c_uint32),
        ("more", c_uint64 * 4),
    )


@dataclass(frozen=True, slots=True)
class Runs:
    """What a program has run for since statistics began, on all processors. Units: `ns` nanoseconds."""

    ns: int
    count: int

    def since(self, before: "Runs") -> "Runs":
        """Return what came after an earlier reading."""
        return Runs(self.ns - before.ns, self.count - before.count)

    @property
    def each(self) -> float:
        """Nanoseconds of one run."""
        return self.ns / self.count if self.count else 0.0


class Map:
    """A map of a program, by its number. Owner: who opened it."""

    def __init__(self, number: int) -> None:
        """Open it. Raises: OSError -> there is none, or no privilege."""
        self._fd = _bpf(_MAP_BY_ID, _Words(number))
        info = _MapInfo()
        _bpf(_INFO, _Words(self._fd, sizeof(info), addressof(info)))
        self.name: str = info.name.decode()
        words = (info.value_size + 7) // 8
        self._room = words * 8 * (processors() if info.type in _PER_CPU else 1)

    def write(self, *values: bytes, key: int = 0) -> None:
        """Set an element of an array; of one with a value for each processor, all of them."""
        number, buffer = c_uint32(key), create_string_buffer(b"".join(values), self._room)
        _bpf(_MAP_UPDATE, _Element(self._fd, 0, addressof(number), addressof(buffer)))

    def read(self, key: int = 0) -> bytes:
        """Return an element of an array; of one with a value for each processor, all of them one after the other."""
        number, buffer = c_uint32(key), create_string_buffer(self._room)
        _bpf(_MAP_LOOKUP, _Element(self._fd, 0, addressof(number), addressof(buffer)))
        return buffer.raw

    @property
    def memory(self) -> int:
        """The bytes that the kernel has allocated for it. Source: Documentation/filesystems/proc.rst, fdinfo."""
        lines = Path(f"/proc/self/fdinfo/{self._fd}").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("memlock:"))

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


class Program:
    """A loaded program, by its number. Owner: who opened it."""

    def __init__(self, number: int) -> None:
        """Open it. Raises: OSError -> there is none, or no privilege."""
        self.number = number
        self._fd = _bpf(_PROG_BY_ID, _Words(number))
        self.name: str = self._info().name.decode()

    def runs(self) -> Runs:
        """Return what it has run for while statistics were on."""
        info = self._info()
        return Runs(info.run_time_ns, info.run_cnt)

    def maps(self) -> dict[str, Map]:
        """Open its maps, by name."""
        numbers = (c_uint32 * _MOST)()
        info = _ProgInfo(nr_map_ids=_MOST, map_ids=addressof(numbers))
        _bpf(_INFO, _Words(self._fd, sizeof(info), addressof(info)))
        maps = [Map(number) for number in numbers[: info.nr_map_ids]]
        return {each.name: each for each in maps}

    def send(self, frame: bytes, count: int, batch: int = 64) -> None:
        """Run it on so many new frames, which go where it says, in the time of the calling thread (XDP only).

        Source: Documentation/bpf/bpf_prog_run.rst, Linux 5.18.
        """
        buffer, attr = create_string_buffer(frame, len(frame)), _TestRun(prog_fd=self._fd, data_size_in=len(frame))
        attr.data_in, attr.repeat, attr.batch_size, attr.flags = addressof(buffer), count, batch, _LIVE_FRAMES
        _bpf(_TEST_RUN, attr)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)

    def _info(self) -> _ProgInfo:
        info = _ProgInfo()
        _bpf(_INFO, _Words(self._fd, sizeof(info), addressof(info)))
        return info


@contextmanager
def statistics() -> Iterator[None]:
    """Count runs and their time, of all programs of the machine, for the length of a block."""
    fd = _bpf(_ENABLE_STATS, _Words(_RUN_TIME))
    try:
        yield
    finally:
        os.close(fd)


def processors() -> int:
    """Return for how many processors such a map has values. Source: Documentation/admin-guide/cputopology.rst."""
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.strip().rpartition(",")[2].rpartition("-")[2]) + 1


def tcx_programs(ifindex: int) -> list[int]:
    """Return the numbers of the programs that are linked to an interface of this thread's namespace (tcx, 6.6)."""
    numbers = (c_uint32 * _MOST)()
    query = _Query(ifindex, _TCX_INGRESS, prog_ids=addressof(numbers), count=_MOST)
    try:
        _bpf(_QUERY, query)
    except OSError:  # an older kernel
        return []
    return list(numbers[: query.count])


def _bpf(command: int, attributes: Structure) -> int:
    """Call the kernel, which may write into the attributes.

    Raises: OSError -> it refused.
    """
    buffer = (c_char * _ATTR_BYTES)()
    size = sizeof(attributes)
    ctypes.memmove(buffer, addressof(attributes), size)
    result: int = _libc.syscall(_CALL, command, buffer, _ATTR_BYTES)
    ctypes.memmove(addressof(attributes), buffer, size)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf({command}): {os.strerror(code)}")
    return result
