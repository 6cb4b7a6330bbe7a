"""Sums over what the maps say: the native library's loops, and their twins in Python.

Law: both give the same answers. The library is a hundred times faster, which a million flows need and a thousand do
not.
"""

from array import array
from collections.abc import Iterable, Sequence
from ctypes import Array, addressof, byref, c_char, c_uint32, c_void_p, sizeof
from typing import Any, NamedTuple

from asynclb import native
from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS, REMEMBERED, Conn
from asynclb.datapath.core.memory import MARKS, core_library
from asynclb.datapath.core.parting import Going

_HALF = 1 << 31
_UDP = 17


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


class Moment(NamedTuple):
    """When a pass over the flows looks at them, and when the one before it did; both in the clock of deadlines."""

    now_ms: int
    since_ms: int


class Gauges:
    """How many flows each rule and each member has. Owner: one pass over the flows."""

    def __init__(self, rules: int, members: int) -> None:
        self.rules: Array[c_uint32] = (c_uint32 * rules)()
        self.members: Array[c_uint32] = (c_uint32 * members)()
        self.flows = 0
        self.closed = 0
        """Connections among them that have ended, and are remembered for their last packets."""


def judge(
    values: "Array[c_char]",
    count: int,
    moment: Moment,
    gauges: Gauges,
    late: "Array[c_uint32]",
    native_library: Any | None,
) -> Iterable[int]:
    """Count the flows of a batch that are alive, and return the indexes of those past their deadline that are due."""
    if native_library is None:
        return _late(values, count, moment, gauges)
    rules, members, live, closed = gauges.rules, gauges.members, c_uint32(), c_uint32()
    number = native_library.asynclb_kernel_judge(
        *(values, c_uint32(count), c_uint32(moment.now_ms), c_uint32(moment.since_ms), rules, c_uint32(len(rules))),
        *(members, c_uint32(len(members)), late, byref(live), byref(closed)),
    )
    gauges.flows += live.value
    gauges.closed += closed.value
    return late[:number]


def mark(
    keys: "Array[c_char]",
    values: "Array[c_char]",
    count: int,
    kind: type[layout.Key4] | type[layout.Key],
    now_ms: int,
    marks: bytearray,
    native_library: Any | None,
) -> None:
    """Mark the SNAT ports that flows of a batch use, as `FlowMemory.snat_marks` does."""
    sources = len(marks) // (2 * MARKS)
    if not sources:
        return
    if native_library is not None:
        place = (c_char * len(marks)).from_buffer(marks)
        native_library.asynclb_kernel_marks(
            *(keys, c_uint32(sizeof(kind)), c_uint32(kind.destination_port.offset), values, c_uint32(count)),
            *(c_uint32(now_ms), byref(place), c_uint32(sources)),
        )
        del place
        return
    half = CONSTANTS["FLOW_RETURN"] | CONSTANTS["FLOW_SNAT"]
    for index in range(count):
        flow = flow_at(values, index)
        if is_late(flow.deadline_ms, now_ms) or flow.flags & half != half or flow.hairpin_port >= sources:
            continue
        key = kind.from_buffer_copy(keys, index * sizeof(kind))
        place_of = (flow.hairpin_port * 2 + (key.protocol == _UDP)) * MARKS + key.destination_port // 8
        marks[place_of] |= 1 << (key.destination_port & 7)


def parting(
    values: "Array[c_char]", count: int, going: Going, found: "Array[c_uint32]", native_library: Any | None
) -> Sequence[int]:
    """Return the indexes of a batch's flows that end. C twin: asynclb_kernel_parting."""
    if native_library is None:
        return [index for index in range(count) if going.has(flow_at(values, index))]
    number = native_library.asynclb_kernel_parting(values, c_uint32(count), *going.arguments, found)
    return found[:number]


def begun(
    values: "Array[c_char]",
    count: int,
    since_s: int,
    until_s: int,
    found: "Array[c_uint32]",
    native_library: Any | None,
) -> Iterable[int]:
    """Return the indexes of the flows of a batch that began from one second on and before another."""
    if native_library is None:
        flows = (flow_at(values, index) for index in range(count))
        return [
            index
            for index, flow in enumerate(flows)
            if since_s <= flow.created_s < until_s and not flow.flags & CONSTANTS["FLOW_RETURN"]
        ]
    number = native_library.asynclb_kernel_begun(
        values, *map(c_uint32, (count, since_s & 0xFFFF_FFFF, until_s & 0xFFFF_FFFF)), found
    )
    return found[:number]


def _late(values: "Array[c_char]", count: int, moment: Moment, gauges: Gauges) -> list[int]:
    found = []
    for index in range(count):
        record = flow_at(values, index)
        if is_late(record.deadline_ms, moment.now_ms):
            if is_due(record, moment):
                found.append(index)
            continue
        gauges.flows += 1
        gauges.closed += record.state == Conn.CLOSED
        if not record.flags & CONSTANTS["FLOW_RETURN"]:
            gauges.rules[record.rule] += 1
            gauges.members[record.member] += 1
    return found


def is_due(flow: layout.Flow, moment: Moment) -> bool:
    """Return whether something is to be done about a flow past its deadline. C twin: is_due in tally.c.

    Connections that idled out are remembered, and told of once: by the first pass after it.
    """
    return not is_remembered(flow, moment.now_ms) or not is_late(flow.deadline_ms, moment.since_ms)


def is_remembered(flow: layout.Flow, now_ms: int) -> bool:
    """Return whether a flow past its deadline stays in mind. C twin: is_remembered in work.h."""
    forgotten_ms = flow.deadline_ms + CONSTANTS["EXPIRED_MS"] & 0xFFFF_FFFF
    connection = flow.state in REMEMBERED and not flow.flags & CONSTANTS["FLOW_SNAT"]
    return connection and not is_late(forgotten_ms, now_ms)


def flow_at(values: "Array[c_char]", index: int) -> layout.Flow:
    """Return one flow of a batch, in place."""
    return layout.Flow.from_address(addressof(values) + index * sizeof(layout.Flow))


def is_late(deadline_ms: int, now_ms: int) -> bool:
    """Return whether a deadline has come; both wrap after 49 days. C twin: is_late in flow.h."""
    return (now_ms - deadline_ms) & 0xFFFF_FFFF < _HALF
