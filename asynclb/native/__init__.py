"""The native library: the few loops that Python is too slow for, as freestanding C called through ctypes.

Laws:
  1. Nothing needs it. Every function has a Python twin with the same answers; without the library asynclb is
     slower and says so (`available`, `reason`).
  2. A library of another version is not used: the loader compares `ABI_VERSION` with what the library says.
  3. ctypes lets go of the interpreter lock around every call, so a caller in a worker thread does not hold up
     the event loop; hence no function here may keep or share memory, but for what its caller hands in.

`python -m asynclb.native.build` builds the library in place; wheels carry it.
"""

import ctypes
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ABI_VERSION: Final = 2
"""What `ASYNCLB_NATIVE_ABI` in native.h must be."""

_LIBRARY: Final = Path(__file__).with_name("_native.so")
_FREE: Final = 0xFFFF
_SCRATCH_WORDS: Final = 3  # 64-bit words that maglev.c keeps for each group of members


@dataclass(frozen=True, slots=True)
class Loaded:
    """The library, or why there is none."""

    library: ctypes.CDLL | None
    reason: str


def load(path: Path) -> Loaded:
    """Load the library at `path` and check its version; whatever is wrong becomes the reason."""
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        missing = f"{path.name} has not been built (python -m asynclb.native.build)"
        return Loaded(None, f"{path.name} cannot be loaded: {error}" if path.exists() else missing)
    try:
        version = int(library.asynclb_native_abi())
    except AttributeError:
        return Loaded(None, f"{path.name} is not asynclb's library")
    if version != ABI_VERSION:
        return Loaded(None, f"{path.name} has ABI version {version}, this code needs {ABI_VERSION}; build it again")
    return Loaded(library, f"{path.name}, ABI version {version}")


_loaded: Final = load(_LIBRARY)

available: Final = _loaded.library is not None
"""Whether the library is in use."""

reason: Final = _loaded.reason
"""Which library is in use, or why none is."""

library: Final = _loaded.library
"""The library itself, for the modules that wrap their own part of it (asynclb.datapath.core.core), or None."""


def maglev_fill(
    size: int, ids: "array[int]", weights: "array[int]", positions: "array[int]", skips: "array[int]"
) -> "array[int]":
    """Fill a Maglev table natively; `asynclb.tables.maglev.fill_python` is the twin and explains it.

    Shape: one item per member in turn order, heaviest first; `ids` and the answer are 'H', the others 'I'.
    Owner: `positions` is used up.
    Cost: 655,373 slots for 5,000 members in about 20 ms, without the interpreter lock (tests/bench/tables_bench.py).
    Raises: RuntimeError -> the library is not available.
    """
    if _loaded.library is None:
        raise RuntimeError(f"the native library was called but is not available: {reason}")
    slots = array("H", [_FREE]) * size
    scratch = array("Q", bytes(8 * _SCRATCH_WORDS * len(ids)))
    _loaded.library.asynclb_maglev_fill(
        _pointer(slots),
        ctypes.c_uint32(size),
        _pointer(ids),
        _pointer(weights),
        _pointer(positions),
        _pointer(skips),
        ctypes.c_uint32(len(ids)),
        _pointer(scratch),
    )
    return slots


def _pointer(items: "array[int]") -> ctypes.c_void_p:
    return ctypes.c_void_p(items.buffer_info()[0])
