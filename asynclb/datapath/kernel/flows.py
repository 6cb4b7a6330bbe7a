"""The tables of flows, walked in parts: IPv4's sets of four (core/sets.h), and the kernel's hash map for IPv6.

The sets are memory that programs and this process share, but mapping all of it would let the process look 192 MB
larger than it is. So a walk maps some windows at a time, and only where there are flows: programs mark each group of
sets that they put a flow into, and a walk clears the mark of one that it found empty.

Laws:
  1. A walk sees every flow that was there from its begin to its end, once.
  2. A way is freed only while it has the ports and protocol that were seen: they are exchanged for nothing, or stay.

Cost: a walk over a million flows copies 80 MB, in parts of at most 4,096 flows; over few, 3 us for each window that has
one.
"""

import mmap
import struct
from collections.abc import Iterator
from ctypes import POINTER, Array, addressof, byref, c_char, c_uint32, c_uint64, c_void_p, cast, memmove, sizeof
from typing import Any, Final, NamedTuple, Protocol

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS
from asynclb.datapath.kernel.programs import State
from asynclb.datapath.kernel.tally import flow_at, library
from asynclb.native.libbpf import Batch, BpfError, Libbpf

FlowKey = type[layout.Key4] | type[layout.Key]
BATCH: Final = 4_096
"""Flows in a part: about a millisecond's work, and more than any bucket of the kernel's map holds."""
_MAPPED: Final = 0xFFFF << 32
_WAYS: Final = CONSTANTS["SET_WAYS"]
_GROUP: Final = CONSTANTS["SET_GROUP"]
_WINDOW: Final = 64
"""Groups that are mapped at once: 1 MB of sets, and a quarter of what their flows have beside."""
_MOST_WINDOWS: Final = 8
"""That a part may be from."""
_NONE_MARKED: Final = bytes(8 * _WINDOW)


class Part(Protocol):
    """Some flows of one table. Shape: `values` is [count] of `layout.Flow` as they were when the part was made."""

    kind: FlowKey
    keys: "Array[c_char]"
    values: "Array[c_char]"
    count: int

    def key(self, index: int) -> bytes:
        """Return a flow's key as the table has it."""

    def read(self, index: int) -> layout.Flow | None:
        """Return a copy of a flow as it is now, or None if it is there no more."""

    def delete(self, index: int) -> bool:
        """Delete a flow; return whether it was there."""

    def silence(self, index: int) -> None:
        """Let nothing pass by a flow any more."""


def walk(bpf: Libbpf, state: State, family: int) -> Iterator[Part]:
    """Walk through the flows of IPv4 (`family` 0) or IPv6 (1). A part is good until the next one is asked for.

    Raises: BpfError -> the maps cannot be read.
    """
    if family:
        yield from _hashed(bpf, state["flows6"])
        return
    with Sets(bpf, state) as sets:
        yield from sets.parts()


class _Hashed:
    """A part of the hash map."""

    kind: FlowKey = layout.Key

    def __init__(self, bpf: Libbpf, fd: int, batch: Batch) -> None:
        self._bpf, self._fd, self._batch = bpf, fd, batch
        self.keys, self.values, self.count = batch.keys, batch.values, batch.count
        self.key = batch.key

    def read(self, index: int) -> layout.Flow | None:
        found = self._bpf.lookup(self._fd, self.key(index), sizeof(layout.Flow))
        return None if found is None else layout.Flow.from_buffer_copy(found)

    def delete(self, index: int) -> bool:
        return self._bpf.delete(self._fd, self.key(index))

    def silence(self, index: int) -> None:
        """The flow is written whole: a packet counted meanwhile is not counted in it."""
        flow = self.read(index)
        if flow is not None:
            flow.flags |= CONSTANTS["FLOW_OVER"]
            self._bpf.replace(self._fd, self.key(index), bytes(flow))


def _hashed(bpf: Libbpf, fd: int) -> Iterator[Part]:
    batch, more = Batch(sizeof(layout.Key), sizeof(layout.Flow), BATCH), True
    while more:
        more = bpf.lookup_batch(fd, batch)
        yield _Hashed(bpf, fd, batch)


class Sets:
    """The sets of one walk, and the part of it that is looked at. Owner: the walk, which closes it."""

    kind: FlowKey = layout.Key4

    def __init__(self, bpf: Libbpf, state: State) -> None:
        self._fds = state["flows4"], state["rests4"]
        self._sets = bpf.map_info(state["flows4"]).max_entries
        self._groups = self._sets // _GROUP
        self._native = library()
        self._marks = _map(state["marks4"], _pages(8 * self._groups))
        self._windows: dict[int, tuple[Window, ...]] = {}
        self._batch = Batch(sizeof(layout.Key4), sizeof(layout.Flow), BATCH)
        self._places = (c_uint32 * BATCH)()
        self.keys, self.values, self.key = self._batch.keys, self._batch.values, self._batch.key
        self.count = 0

    def __enter__(self) -> "Sets":
        return self

    def __exit__(self, *_: object) -> None:
        self._unmap()
        self._marks.close()

    def parts(self) -> Iterator[Part]:
        """Walk through all of them."""
        for window in range(-(-self._groups // _WINDOW)):
            first = window * _WINDOW
            groups = min(_WINDOW, self._groups - first)
            if self._marks[8 * first : 8 * (first + groups)] == _NONE_MARKED[: 8 * groups]:
                continue
            position = c_uint32(0)
            while position.value < groups * _GROUP * _WAYS:
                self._gather(window, groups, position)
                if self.count == BATCH:
                    yield self
                    self._unmap()
            if len(self._windows) >= _MOST_WINDOWS:
                if self.count:
                    yield self
                self._unmap()
        if self.count:
            yield self

    def read(self, index: int) -> layout.Flow | None:
        """See `Part`."""
        way, rest = self._way_of(index)
        flow = _flow_of(way, rest)
        return flow if bytes(self.key(index)) == bytes(way.word) else None

    def delete(self, index: int) -> bool:
        """See `Part`."""
        way, _ = self._way_of(index)
        held = int.from_bytes(self.key(index)[8:], "little")
        if self._native is not None:
            place = addressof(way) + layout.FlowWay.word.offset + 8
            return bool(self._native.asynclb_kernel_free(c_void_p(place), c_uint64(held)))
        done = bool(way.word[1] == held)
        if done:
            way.word[1] = 0
        return done

    def silence(self, index: int) -> None:
        """See `Part`."""
        way, _ = self._way_of(index)
        if self.key(index) == bytes(way.word):
            layout.Flow.from_buffer(way).flags |= CONSTANTS["FLOW_OVER"]

    def _way_of(self, index: int) -> tuple[layout.FlowWay, layout.FlowRest]:
        return self._way(*divmod(self._places[index], _WINDOW * _GROUP * _WAYS))

    def _way(self, window: int, within: int) -> tuple[layout.FlowWay, layout.FlowRest]:
        sets, rests = self._mapped(window)
        return (
            layout.FlowWay.from_address(sets.place + within * sizeof(layout.FlowWay)),
            layout.FlowRest.from_address(rests.place + within * sizeof(layout.FlowRest)),
        )

    def _gather(self, window: int, groups: int, position: c_uint32) -> None:
        """Take in flows from a position in a window on, until the part is full. C twin: asynclb_kernel_gather."""
        first, marks = window * _WINDOW, c_char.from_buffer(self._marks)
        try:
            place = addressof(marks) + 8 * first
            if self._native is None:
                self._gather_slowly(window, groups, position, place)
                return
            keys, flows = (addressof(memory) for memory in (self.keys, self.values))
            self.count += self._native.asynclb_kernel_gather(
                *(c_void_p(each.place) for each in self._mapped(window)),
                *(c_void_p(place), c_uint32(groups), byref(position)),
                *(c_uint32(first * _GROUP * _WAYS), c_uint32(BATCH - self.count)),
                c_void_p(keys + self.count * sizeof(layout.Key4)),
                c_void_p(flows + self.count * sizeof(layout.Flow)),
                c_void_p(addressof(self._places) + 4 * self.count),
            )
        finally:
            del marks  # a view would keep the mapping from being closed

    def _gather_slowly(self, window: int, groups: int, position: c_uint32, place: int) -> None:
        marks: Any = cast(c_void_p(place), POINTER(c_uint64))
        while position.value < groups * _GROUP * _WAYS and self.count < BATCH:
            number = position.value
            group, within = divmod(number, _GROUP * _WAYS)
            if not within and self._is_empty(window, group, marks):
                position.value += _GROUP * _WAYS
                continue
            position.value += 1
            way, rest = self._way(window, number)
            words = tuple(way.word)
            if words[1] in (0, CONSTANTS["SET_CLAIMED"]):
                continue
            keys, flows = addressof(self.keys), addressof(self.values)
            memmove(keys + self.count * sizeof(layout.Key4), struct.pack("=2Q", *words), sizeof(layout.Key4))
            memmove(flows + self.count * sizeof(layout.Flow), bytes(_flow_of(way, rest)), sizeof(layout.Flow))
            self._places[self.count] = window * _WINDOW * _GROUP * _WAYS + number
            self.count += 1

    def _is_empty(self, window: int, group: int, marks: Any) -> bool:
        """Return whether a group has no flow; its mark says so from then on."""
        start = self._mapped(window)[0].place + group * _GROUP * sizeof(layout.FlowSet)
        ways = (layout.FlowWay * (_GROUP * _WAYS)).from_address(start)
        if marks[group] and not any(each.word[1] for each in ways):
            marks[group] = 0
            marks[group] = any(each.word[1] for each in ways)
        return not marks[group]

    def _mapped(self, window: int) -> "tuple[Window, ...]":
        """Return a window of both maps: the sets, and what their flows have beside."""
        if window not in self._windows:
            first = window * _WINDOW * _GROUP
            count = min(_WINDOW * _GROUP, self._sets - first)
            sizes = sizeof(layout.FlowSet), sizeof(layout.FlowRest) * _WAYS
            parts = zip(self._fds, sizes, strict=True)
            views = [_map(fd, count * size, first * size) for fd, size in parts]
            self._windows[window] = tuple(Window(view, addressof(c_char.from_buffer(view))) for view in views)
        return self._windows[window]

    def _unmap(self) -> None:
        self.count = 0
        for windows in self._windows.values():
            for each in windows:
                each.view.close()
        self._windows.clear()


class Window(NamedTuple):
    """A part of a map, and where it is in memory."""

    view: mmap.mmap
    place: int


def _flow_of(way: layout.FlowWay, rest: layout.FlowRest) -> layout.Flow:
    flow = layout.Flow.from_buffer_copy(way)
    flow.rest = rest
    return flow


def _map(fd: int, size: int, offset: int = 0) -> mmap.mmap:
    try:
        return mmap.mmap(fd, size, offset=offset)
    except OSError as error:
        raise BpfError("map the table of flows", error.errno or 0) from error


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def flows_in(bpf: Libbpf, state: State) -> Iterator[layout.KeyedFlow]:
    """Walk through the flows without changing anything. Cost: about 10 us each, most of it Python's."""
    for family in range(2):
        for part in walk(bpf, state, family):
            for index in range(part.count):
                yield layout.KeyedFlow(full_key(part.kind, part.key(index)), flow_at(part.values, index))


def full_key(kind: FlowKey, data: bytes) -> layout.Key:
    """Return the key that a table's key stands for: IPv4 as ::ffff:a.b.c.d."""
    if kind is layout.Key:
        return layout.Key.from_buffer_copy(data)
    four = layout.Key4.from_buffer_copy(data)
    ends = (layout.Address(0, _MAPPED | address) for address in (four.source, four.destination))
    return layout.Key(*ends, four.source_port, four.destination_port, four.protocol, four.kind)
