"""Sums over what the maps say: the native library's loops, and their twins in Python.

Law: both give the same answers. The library is a hundred times faster, which a million flows need and a thousand do
not.
"""

from array import array
from collections.abc import Iterable
from ctypes import Array, addressof, c_char, c_uint32, c_void_p, sizeof
from typing import Any

from asynclb import native
from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS
from asynclb.datapath.core.memory import core_library

_HALF = 1 << 31


def library() -> Any | None:
    """Return the native library if it was built from this layout and has these loops."""
    if native.library is None or not hasattr(native.library, "asynclb_kernel_judge"):
        return None
    try:
        return core_library()
    except RuntimeError:
        return None


def sums(values: "Array[c_char]", count: int, cpus: int, words: int, *, native_library: Any | None) -> "array[int]":
    """Add up the processors' values. Shape: `values` is [count][cpus][words] of 64 bits, the answer [count][words]."""
    total = array("Q", bytes(8 * count * words))
    if not count:
        return total
    if native_library is not None:
        place = c_void_p(total.buffer_info()[0])
        native_library.asynclb_kernel_sum(values, *map(c_uint32, (count, cpus, words)), place)
        return total
    items = memoryview(values).cast("B")[: 8 * count * cpus * words].cast("Q")
    for word in range(words):
        columns = (items[cpu * words + word :: cpus * words] for cpu in range(cpus))
        total[word::words] = array("Q", map(sum, zip(*columns, strict=True)))
    return total


class Gauges:
    """How many flows each rule and each member has. Owner: one pass over the flows."""

    def __init__(self, rules: int, members: int) -> None:
        self.rules: Array[c_uint32] = (c_uint32 * rules)()
        self.members: Array[c_uint32] = (c_uint32 * members)()
        self.flows = 0


def judge(
    values: "Array[c_char]",
    count: int,
    now_ms: int,
    gauges: Gauges,
    late: "Array[c_uint32]",
    native_library: Any | None,
) -> Iterable[int]:
    """Count the flows of a batch that are alive, and return the indexes of those past their deadline."""
    if native_library is None:
        found = _late(values, count, now_ms, gauges)
    else:
        rules, members = gauges.rules, gauges.members
        number = native_library.asynclb_kernel_judge(
            *(values, c_uint32(count), c_uint32(now_ms), rules, c_uint32(len(rules))),
            *(members, c_uint32(len(members)), late),
        )
        found = late[:number]
    gauges.flows += count - len(found)
    return found


def _late(values: "Array[c_char]", count: int, now_ms: int, gauges: Gauges) -> list[int]:
    found = []
    for index in range(count):
        record = flow_at(values, index)
        if is_late(record.deadline_ms, now_ms):
            found.append(index)
        elif not record.flags & CONSTANTS["FLOW_RETURN"]:
            gauges.rules[record.rule] += 1
            gauges.members[record.member] += 1
    return found


def flow_at(values: "Array[c_char]", index: int) -> layout.Flow:
    """Return one flow of a batch, in place."""
    return layout.Flow.from_address(addressof(values) + index * sizeof(layout.Flow))


def is_late(deadline_ms: int, now_ms: int) -> bool:
    """Return whether a deadline has come; both wrap after 49 days. C twin: is_late in flow.h."""
    return (now_ms - deadline_ms) & 0xFFFF_FFFF < _HALF
