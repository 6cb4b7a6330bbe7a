"""The tables of flows, walked in parts: IPv4's sets of four (core/sets.h), and the kernel's hash map for IPv6.

The sets are memory that programs and this process share, but mapping all of it would let the process look 160 MB
larger than it is. So a walk maps some windows at a time, and only where there are flows: programs mark each group of
sets that they put a flow into, and a walk clears the mark of one that it found empty.

Laws:
  1. A walk sees every flow that was there from its begin to its end, once.
  2. A way is freed only while it has the ports and protocol that were seen: they are exchanged for nothing, or stay.

Cost: a walk over a million flows copies 80 MB, in parts of at most 4,096 flows; over few, 3 us for each window that has
one.
"""

import mmap
from collections.abc import Iterator
from ctypes import POINTER, Array, addressof, byref, c_char, c_uint32, c_uint64, c_void_p, cast, memmove, sizeof
from typing import Any, Final, Protocol

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
"""Groups that are mapped at once: 1.3 MB."""
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
        self._fd = state["flows4"]
        self._sets = bpf.map_info(self._fd).max_entries
        self._groups = self._sets // _GROUP
        self._native = library()
        self._marks = _map(state["marks4"], _pages(8 * self._groups))
        self._windows: dict[int, tuple[mmap.mmap, int]] = {}
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
            if self.count and len(self._windows) >= _MOST_WINDOWS:
                yield self
                self._unmap()
        if self.count:
            yield self

    def read(self, index: int) -> layout.Flow | None:
        """See `Part`."""
        found, way = self._set_of(index)
        flow = layout.Flow.from_buffer_copy(found.flow[way])
        return flow if bytes(self.key(index)) == _key_of(found, way) else None

    def delete(self, index: int) -> bool:
        """See `Part`."""
        found, way = self._set_of(index)
        held = int.from_bytes(self.key(index)[8:], "little")
        place = addressof(found) + 8 * (2 * way + 1)
        if self._native is not None:
            return bool(self._native.asynclb_kernel_free(c_void_p(place), c_uint64(held)))
        word = c_uint64.from_address(place)
        done = word.value == held
        if done:
            word.value = 0
        return done

    def silence(self, index: int) -> None:
        """See `Part`."""
        found, way = self._set_of(index)
        if self.key(index) == _key_of(found, way):
            found.flow[way].flags |= CONSTANTS["FLOW_OVER"]

    def _set_of(self, index: int) -> tuple[layout.FlowSet, int]:
        place = self._places[index]
        window, within = divmod(place // _WAYS, _WINDOW * _GROUP)
        return layout.FlowSet.from_address(self._mapped(window) + within * sizeof(layout.FlowSet)), place % _WAYS

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
                *(c_void_p(self._mapped(window)), c_void_p(place), c_uint32(groups), byref(position)),
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
            number, way = divmod(position.value, _WAYS)
            group, within = divmod(number, _GROUP)
            if not within and not way and self._is_empty(window, group, marks):
                position.value += _GROUP * _WAYS
                continue
            position.value += 1
            found = layout.FlowSet.from_address(self._mapped(window) + number * sizeof(layout.FlowSet))
            if found.word[2 * way + 1] in (0, CONSTANTS["SET_CLAIMED"]):
                continue
            keys, flows = addressof(self.keys), addressof(self.values)
            memmove(keys + self.count * sizeof(layout.Key4), _key_of(found, way), sizeof(layout.Key4))
            memmove(flows + self.count * sizeof(layout.Flow), addressof(found.flow[way]), sizeof(layout.Flow))
            self._places[self.count] = window * _WINDOW * _GROUP * _WAYS + number * _WAYS + way
            self.count += 1

    def _is_empty(self, window: int, group: int, marks: Any) -> bool:
        """Return whether a group has no flow; its mark says so from then on."""
        start = self._mapped(window) + group * _GROUP * sizeof(layout.FlowSet)
        sets = (layout.FlowSet * _GROUP).from_address(start)
        if marks[group] and not any(any(each.word) for each in sets):
            marks[group] = 0
            marks[group] = any(any(each.word) for each in sets)
        return not marks[group]

    def _mapped(self, window: int) -> int:
        """Return where a window is in memory."""
        if window not in self._windows:
            first = window * _WINDOW * _GROUP
            size = min(_WINDOW * _GROUP, self._sets - first) * sizeof(layout.FlowSet)
            view = _map(self._fd, size, first * sizeof(layout.FlowSet))
            self._windows[window] = view, addressof(c_char.from_buffer(view))
        return self._windows[window][1]

    def _unmap(self) -> None:
        self.count = 0
        for view, _ in self._windows.values():
            view.close()
        self._windows.clear()


def _key_of(found: layout.FlowSet, way: int) -> bytes:
    return bytes(found)[16 * way : 16 * way + 16]


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
