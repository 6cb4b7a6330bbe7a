"""Goes through the flows, a bounded part at a time: ends those that are over, and counts the others.

The kernel deletes flows of its own accord only when it needs their room (least recently used first) and says nothing
then (`evictions`), so the numbers of open flows are counted here: a pass over both tables gives one consistent count.

A connection that idled out stays, so that what its ends say later is not balanced anew: nothing passes by it, a SYN
begins anew, and after some minutes, or when the kernel needs the room, it is gone. A pass has one time, and tells of
those that idled out since the time of the pass before: of each once.

A flow past its deadline is looked at once more before it is deleted. A packet that comes between that look and the
deletion, half a microsecond, makes a new flow to the member that the tables name.

Cost: tests/bench/kernel_sweep.py.
"""

import time
from collections.abc import Callable, Iterator
from ctypes import c_uint32, sizeof
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS, REMEMBERED, Told
from asynclb.datapath.core.memory import MARKS
from asynclb.datapath.kernel.evictions import Evictions
from asynclb.datapath.kernel.lifetimes import KernelNews
from asynclb.datapath.kernel.programs import State
from asynclb.datapath.kernel.tally import Gauges, Moment, flow_at, is_late, is_remembered, judge, library, mark
from asynclb.native.libbpf import Batch, Libbpf

FlowKey = type[layout.Key4] | type[layout.Key]
FLOW_MAPS: tuple[tuple[str, FlowKey], ...] = (("flows4", layout.Key4), ("flows6", layout.Key))
BATCH = 4_096
"""Flows a call: about a millisecond in the kernel, and more than any bucket holds."""
_MAPPED = 0xFFFF << 32


@dataclass(frozen=True, slots=True)
class Counted:
    """What one whole pass found: open flows, by rule number and member number (none means 0)."""

    flows: int = 0
    closed: int = 0
    """Connections among them that have ended."""
    by_map: tuple[int, ...] = ()
    """Flows in each of `FLOW_MAPS`."""
    rules: dict[int, int] = field(default_factory=dict)
    members: dict[int, int] = field(default_factory=dict)
    marks: bytearray = field(default_factory=bytearray, repr=False)
    """SNAT ports in use, as `FlowMemory.snat_marks` says it."""

    @property
    def open(self) -> int:
        """Flows that have not ended."""
        return self.flows - self.closed


class Sweep:
    """One sweep after another. Owner: one task; `step` is called in a thread, never twice at the same time."""

    def __init__(
        self,
        bpf: Libbpf,
        state: State,
        numbers: Callable[[], tuple[int, int, int]],
        news: KernelNews | None = None,
        evictions: Evictions | None = None,
    ) -> None:
        """`numbers` says how many numbers rules, members and addresses of own connections have in use.

        `news` takes in flows that begin and end.
        """
        self._news = news
        self._evictions = evictions or Evictions(bpf, lambda: 0, adopted=False)
        self._bpf = bpf
        self._state = state
        self._numbers = numbers
        self._native = library()
        self._late, self._begun = (c_uint32 * BATCH)(), (c_uint32 * BATCH)()
        self._steps = self._passes()
        self._now_ms = 0
        self._moment: Moment | None = None
        """Of the last pass that began."""
        self.counted = Counted()
        """What the last whole pass found. Replaced, never changed."""
        self.passes = 0
        self.ended = 0
        """Flows that were deleted because they were over."""

    def step(self, now_ms: int, batches: int) -> list[layout.KeyedFlow]:
        """Go on for at most this many batches or to the end of the pass; return connections that want resets."""
        self._now_ms, resets, before = now_ms, [], self.passes
        for _ in range(batches):
            resets += next(self._steps)
            if self.passes != before:
                break
        return resets

    def _passes(self) -> Iterator[list[layout.KeyedFlow]]:
        while True:
            rules, members, sources = self._numbers()
            gauges, before, marks = Gauges(rules, members), self._moment, bytearray(sources * 2 * MARKS)
            since_ms = self._now_ms - CONSTANTS["EXPIRED_MS"] if before is None else before.now_ms
            self._moment = Moment(self._now_ms, since_ms & 0xFFFF_FFFF)
            by_map: list[int] = []
            self._evictions.begin()
            if self._news is not None:
                self._news.passing(time.monotonic_ns() // 1_000_000_000)
            for name, kind in FLOW_MAPS:
                yield from self._walk(self._state[name], kind, gauges, self._moment, marks)
                by_map.append(gauges.flows - sum(by_map))
            self.counted = Counted(
                *(gauges.flows, gauges.closed, tuple(by_map)),
                *(_present(gauges.rules), _present(gauges.members), marks),
            )
            self._evictions.end()
            self.passes += 1
            yield []

    def _walk(
        self, fd: int, kind: FlowKey, gauges: Gauges, moment: Moment, marks: bytearray
    ) -> Iterator[list[layout.KeyedFlow]]:
        batch, more = Batch(sizeof(kind), sizeof(layout.Flow), BATCH), True
        while more:
            more = self._bpf.lookup_batch(fd, batch)
            late = judge(batch.values, batch.count, moment, gauges, self._late, self._native)
            mark(batch.keys, batch.values, batch.count, kind, moment.now_ms, marks, self._native)
            if self._news is not None:
                self._news.began(batch.values, batch.count, partial(_key_in, batch, kind), self._begun, self._native)
            deleted = self.ended
            ended = [self._end(fd, batch, index, kind, moment.now_ms) for index in late]
            self._evictions.saw(batch.count, self.ended - deleted)
            yield [flow for flow in ended if flow is not None]

    def _end(self, fd: int, batch: Batch, index: int, kind: FlowKey, now_ms: int) -> layout.KeyedFlow | None:
        """Delete a flow if it still is over, unless it is remembered; return it if its ends are to be told."""
        key = batch.key(index)
        found = self._bpf.lookup(fd, key, sizeof(layout.Flow))
        if found is None:
            return None
        flow = layout.Flow.from_buffer_copy(found)
        if not is_late(flow.deadline_ms, now_ms):
            return None
        if is_remembered(flow, now_ms):
            self._over(kind, key, flow)
            return layout.KeyedFlow(full_key(kind, key), flow) if flow.flags & CONSTANTS["FLOW_RESET"] else None
        self.ended += self._evictions.delete(fd, key)
        if (
            flow.state not in REMEMBERED or flow.flags & CONSTANTS["FLOW_SNAT"]
        ):  # others were told of when they idled out
            self._over(kind, key, flow)
        own = flow.flags & CONSTANTS["FLOW_SNAT"] and flow.flags & CONSTANTS["FLOW_RESET"] and flow.state in REMEMBERED
        return layout.KeyedFlow(full_key(kind, key), flow) if own else None

    def _over(self, kind: FlowKey, key: bytes, flow: layout.Flow) -> None:
        if self._news is not None:
            self._news.over(full_key(kind, key), flow, Told.LATE)


def _key_in(batch: Batch, kind: FlowKey, index: int) -> layout.Key:
    return full_key(kind, batch.key(index))


def flows_in(bpf: Libbpf, state: State) -> Iterator[layout.KeyedFlow]:
    """Walk through the flows without changing anything. Cost: about 10 us each, most of it Python's."""
    for name, kind in FLOW_MAPS:
        batch, more = Batch(sizeof(kind), sizeof(layout.Flow), BATCH), True
        while more:
            more = bpf.lookup_batch(state[name], batch)
            for index in range(batch.count):
                yield layout.KeyedFlow(full_key(kind, batch.key(index)), flow_at(batch.values, index))


def full_key(kind: FlowKey, data: bytes) -> layout.Key:
    """Return the key that a map's key stands for: IPv4 as ::ffff:a.b.c.d."""
    if kind is layout.Key:
        return layout.Key.from_buffer_copy(data)
    four = layout.Key4.from_buffer_copy(data)
    ends = (layout.Address(0, _MAPPED | address) for address in (four.source, four.destination))
    return layout.Key(*ends, four.source_port, four.destination_port, four.protocol, four.kind)


def _present(numbers: Any) -> dict[int, int]:
    return {index: number for index, number in enumerate(numbers) if number}
