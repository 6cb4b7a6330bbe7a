"""The flows and counters of one core: what outlives a process if it is kept in a memory file.

A file (memfd) can be mapped by the process that forwards, by another one that looks at it, and by the successor of
the first, which goes on with the flows and counters that it finds. Looking takes no turn with forwarding: what is read
may be a moment old, and a flow that moves meanwhile may be seen twice or not at all.

Law: whoever maps a file later gives the same limits.
"""

import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ctypes import Array, addressof, byref, c_uint8, c_uint32, c_uint64, c_void_p, sizeof
from typing import Any

from asynclb import native
from asynclb.datapath.base import MemberCounters, RuleCounters
from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS, Conn
from asynclb.datapath.core.places import unmapped
from asynclb.datapath.core.values import CoreCounters, FlowView
from asynclb.net.drop import Drop

DROPS: tuple[Drop, ...] = tuple(Drop)
"""Drop reasons in the order of C's enumeration, which begins with 1."""

_HUGE = 2 << 20  # from here on memory is asked for in huge pages: a flow then costs no miss of the address cache
MARKS = 8_192
"""Bytes with a bit for each port."""
_OUTLIVING = ("stateless", "expired", "told_head", "told_tail", "untold", "tells", "tell_sample")
"""Words that a successor goes on with."""
_STRETCH = 256  # counters that are compared with zero at once: most ids were never used


class FlowMemory:
    """The flow table and the counters. Owner: the core; whoever else maps the file only reads, but for who listens:
    one of all, who takes what is told.

    Raises: RuntimeError -> the native library is not available, or was built from another layout.
    """

    def __init__(
        self, max_flows: int, max_rules: int, max_members: int, shared: int | None = None, *, look: bool = False
    ) -> None:
        """Map the memory; `shared` is a memory file's descriptor, which is made large enough if it is not.

        `look`: somebody else forwards; else this core begins, with whatever is there.
        """
        self._library = core_library()
        self._shared, self._end, self._max_flows = shared, 0, max_flows
        self._maps: list[mmap.mmap] = []
        buckets = max(2, max_flows // 8)  # 9 flows each, so that 8 of 9 ways are used when the table is full
        self._kept = self._map(layout.CoreMemory, 1)
        self._buckets = self._map(layout.Bucket, buckets)
        self._rules = self._map(layout.Count, max_rules)
        self._members = self._map(layout.Count, max_members)
        self._drops = self._map(c_uint64, len(DROPS) + 1)
        self._told = self._map(layout.ToldFlow, CONSTANTS["TOLD_ROOM"])
        self.record: layout.CoreMemory = layout.CoreMemory() if look else self._kept[0]
        self.record.buckets, self.record.bucket_count = addressof(self._buckets), buckets
        if not look:
            self._begin(max_flows, max_rules, max_members)

    def _begin(self, max_flows: int, max_rules: int, max_members: int) -> None:
        """Make the record this process' own: pointers and limits are new, what was counted stays."""
        record = self.record
        kept = {name: getattr(record, name) for name in _OUTLIVING}
        fresh = layout.CoreMemory()
        fresh.buckets, fresh.bucket_count = record.buckets, record.bucket_count
        fresh.rules, fresh.members, fresh.drops = map(addressof, (self._rules, self._members, self._drops))
        fresh.rule_limit, fresh.member_limit = max_rules, max_members
        fresh.drop_limit, fresh.flow_limit = len(DROPS) + 1, max_flows
        fresh.told = addressof(self._told)
        for name, value in kept.items():
            setattr(fresh, name, value)
        self._kept[0] = fresh
        self.record = self._kept[0]
        if self._shared is not None:
            self._library.asynclb_core_recount(byref(self.record))

    def counters(self) -> CoreCounters:
        """Return a snapshot of the counters that are not zero."""
        kept = self._kept[0]
        return CoreCounters(
            rules={
                index: RuleCounters(c.bytes_in, c.bytes_out, c.packets_in, c.packets_out, c.syn, c.new_flows, c.flows)
                for index, c in _counts(self._rules)
            },
            members={
                index: MemberCounters(c.bytes_in, c.bytes_out, c.new_flows, c.flows, c.syn)
                for index, c in _counts(self._members)
            },
            drops={drop: self._drops[number] for number, drop in enumerate(DROPS, 1) if self._drops[number]},
            flows=kept.flow_count,
            capacity=self._max_flows,
            stateless=kept.stateless,
            expired=kept.expired,
        )

    def release_ids(self, rules: Iterable[int], members: Iterable[int]) -> CoreCounters:
        """Return what was counted under these ids and begin again at zero."""
        counted, gone_rules, gone_members = self.counters(), set(rules), set(members)
        for index in gone_rules:
            self._rules[index] = layout.Count()
        for index in gone_members:
            self._members[index] = layout.Count()
        return CoreCounters(
            rules={index: counts for index, counts in counted.rules.items() if index in gone_rules},
            members={index: counts for index, counts in counted.members.items() if index in gone_members},
        )

    def count_drop(self, reason: Drop) -> None:
        """Count one more. Owner: whoever forwards."""
        self._drops[DROPS.index(reason) + 1] += 1

    def flow_count(self) -> int:
        """Return how many flows are open."""
        return int(self._kept[0].flow_count)

    def flows(self, cursor: int = 0, limit: int = 1_000) -> tuple[list[FlowView], int | None]:
        """Return at most `limit` (9 at least) flows and the cursor for the next ones, or None at the end."""
        limit = max(limit, CONSTANTS["WAYS"])
        flows, place = (layout.KeyedFlow * limit)(), c_uint32(cursor)
        count = self._library.asynclb_core_flows(byref(self.record), byref(place), byref(flows), c_uint32(limit))
        found = [flow_view(flows[index]) for index in range(count)]
        return found, place.value if place.value < self.record.bucket_count else None

    def listen(self, *, ends: bool, starts: bool, sample: int = 1) -> None:
        """Let flows that end, and that begin, be told of, one of so many; or no more."""
        self._kept[0].tell_sample = sample
        self._kept[0].tells = (CONSTANTS["TELL_ENDS"] if ends else 0) | (CONSTANTS["TELL_STARTS"] if starts else 0)

    def untold(self) -> int:
        """Return how many were not told of since the beginning, because the ring was full."""
        return int(self._kept[0].untold)

    def told(self) -> Array[layout.ToldFlow]:
        """Take what was told since the last call. Cost: 0.1 us a flow."""
        waiting = self._kept[0].told_head - self._kept[0].told_tail & 0xFFFF_FFFF
        flows: Array[layout.ToldFlow] = (layout.ToldFlow * waiting)()
        if waiting:
            self._library.asynclb_core_told(byref(self._kept[0]), byref(self._told), byref(flows), c_uint32(waiting))
        return flows

    def snat_marks(self, sources: int, now_ns: int) -> bytearray:
        """Return which SNAT ports are in use: a bit for each, `MARKS` bytes for each address number and protocol.

        Cost: a look at every bucket: 1 ms for an empty table of a million flows, 15 ms for a full one.
        """
        marks = bytearray(sources * 2 * MARKS)
        if marks:
            view = (c_uint8 * len(marks)).from_buffer(marks)
            now_ms = c_uint32(now_ns // 1_000_000 & 0xFFFF_FFFF)
            self._library.asynclb_core_snat_marks(byref(self.record), now_ms, byref(view), c_uint32(sources))
            del view
        return marks

    def close(self) -> None:
        """Unmap. Nothing may be called afterwards."""
        self.record = layout.CoreMemory()
        del self._kept, self._buckets, self._rules, self._members, self._drops, self._told
        for memory in self._maps:
            with suppress(BufferError):  # a view of it is in use; it goes with that
                memory.close()
        self._maps.clear()

    def _map(self, kind: Any, count: int) -> Any:
        """Map memory for `count` items, zeroed when it is new; pages are taken from the system when they are used."""
        size = -(-count * sizeof(kind) // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._shared is None:
            memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory has no huge pages
        else:
            if os.fstat(self._shared).st_size < self._end + size:
                os.ftruncate(self._shared, self._end + size)
            memory = mmap.mmap(self._shared, size, offset=self._end)
            self._end += size
        if size >= _HUGE:
            with suppress(OSError):  # a kernel without huge pages: slower, not wrong
                memory.madvise(mmap.MADV_HUGEPAGE)
        self._maps.append(memory)
        return (kind * count).from_buffer(memory)


def core_library() -> Any:
    """Return the native library. Raises: RuntimeError -> it is not there, or was built from another layout."""
    if native.library is None:
        raise RuntimeError(f"the packet core needs the native library: {native.reason}")
    library: Any = native.library
    try:
        digest = library.asynclb_core_layout() & 0xFFFF_FFFF
    except AttributeError:
        raise RuntimeError("the native library has no packet core; build it again") from None
    if digest != layout.digest(drop.name for drop in Drop):
        raise RuntimeError("the native library was built from another layout; build it again")
    library.asynclb_core_release.restype = c_void_p
    return library


def _counts(items: Any) -> Iterator[tuple[int, layout.Count]]:
    """Yield the counters that are not zero."""
    raw, size = memoryview(items).cast("B"), sizeof(layout.Count)
    zero, zeros = bytes(size), bytes(size * _STRETCH)
    for first in range(0, len(items), _STRETCH):
        stretch = bytes(raw[first * size : (first + _STRETCH) * size])  # a view is compared byte by byte
        if stretch == zeros[: len(stretch)]:
            continue
        for index in range(first, min(first + _STRETCH, len(items))):
            if raw[index * size : index * size + size] != zero:
                yield index, items[index]


def flow_view(keyed: layout.KeyedFlow | layout.ToldFlow) -> FlowView:
    """Read a flow as the client sees it, whichever end its key names first."""
    key, flow = keyed.key, keyed.flow
    ends = [(key.source, key.source_port), (key.destination, key.destination_port)]
    if flow.flags & CONSTANTS["FLOW_SWAPPED"]:
        ends.reverse()
    (client, client_port), (frontend, frontend_port) = ends
    return FlowView(
        client=unmapped(client.high, client.low),
        client_port=client_port,
        frontend=unmapped(frontend.high, frontend.low),
        frontend_port=frontend_port,
        protocol=key.protocol,
        source=flow.target_port if flow.flags & CONSTANTS["FLOW_SNAT"] else None,
        source_port=flow.hairpin_port,
        rule=flow.rule,
        member=flow.member,
        state=Conn(flow.state).name.lower(),
        packets_in=flow.packets_in,
        packets_out=flow.packets_out,
        bytes_in=flow.bytes_in,
        bytes_out=flow.bytes_out,
        created_s=flow.created_s,
        deadline_ms=flow.deadline_ms,
        broken=bool(flow.flags & CONSTANTS["FLOW_BROKEN"]),
    )
