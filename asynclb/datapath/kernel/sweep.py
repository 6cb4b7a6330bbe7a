"""Goes through the flows, a bounded part at a time: ends those that are over, and counts the others.

Flows that make room for others go without a word (`evictions`), so the numbers of open flows are counted here: a pass
over both tables gives one consistent count.

A connection that idled out stays, so that what its ends say later is not balanced anew: nothing passes by it, a SYN
begins anew, and after some minutes, or when its room is needed, it is gone. A pass has one time, and tells of
those that idled out since the time of the pass before: of each once.

A flow past its deadline is looked at once more before it is deleted. A packet that comes between that look and the
deletion, half a microsecond, makes a new flow to the member that the tables name.

Cost: tests/bench/kernel_sweep.py.
"""

import time
from collections.abc import Callable, Iterator
from ctypes import c_uint32
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS, REMEMBERED, Told
from asynclb.datapath.core.memory import MARKS
from asynclb.datapath.kernel.evictions import Evictions
from asynclb.datapath.kernel.flows import BATCH, Part, full_key, walk
from asynclb.datapath.kernel.lifetimes import KernelNews
from asynclb.datapath.kernel.programs import State
from asynclb.datapath.kernel.tally import Gauges, Moment, is_late, is_remembered, judge, library, mark
from asynclb.native.libbpf import BpfError, Libbpf


@dataclass(frozen=True, slots=True)
class Counted:
    """What one whole pass found: open flows, by rule number and member number (none means 0)."""

    flows: int = 0
    closed: int = 0
    """Connections among them that have ended."""
    by_map: tuple[int, ...] = ()
    """Flows of IPv4 and of IPv6."""
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
        self._evictions = evictions or Evictions(lambda: 0, adopted=False)
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
        """Go on for at most this many batches or to the end of the pass; return connections that want resets.

        Raises: BpfError -> the maps cannot be read; the next step begins a pass anew.
        """
        self._now_ms, resets, before = now_ms, [], self.passes
        try:
            for _ in range(batches):
                resets += next(self._steps)
                if self.passes != before:
                    break
        except BpfError:
            self._steps = self._passes()
            raise
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
                self._news.passing(time.monotonic_ns() // 1_000_000_000, self._now_ms)
            for family in range(2):
                yield from self._walk(family, gauges, self._moment, marks)
                by_map.append(gauges.flows - sum(by_map))
            self.counted = Counted(
                *(gauges.flows, gauges.closed, tuple(by_map)),
                *(_present(gauges.rules), _present(gauges.members), marks),
            )
            self._evictions.end()
            if self._news is not None:
                self._news.passed()
            self.passes += 1
            yield []

    def _walk(self, family: int, gauges: Gauges, moment: Moment, marks: bytearray) -> Iterator[list[layout.KeyedFlow]]:
        for part in walk(self._bpf, self._state, family):
            late = judge(part.values, part.count, moment, gauges, self._late, self._native)
            mark(part.keys, part.values, part.count, part.kind, moment.now_ms, marks, self._native)
            if self._news is not None:
                self._news.saw(part)
                self._news.began(part.values, part.count, partial(_key_in, part), self._begun, self._native)
            deleted = self.ended
            ended = [self._end(part, index, moment.now_ms) for index in late]
            self._evictions.saw(part.count, self.ended - deleted)
            yield [flow for flow in ended if flow is not None]

    def _end(self, part: Part, index: int, now_ms: int) -> layout.KeyedFlow | None:
        """Delete a flow if it still is over, unless it is remembered; return it if its ends are to be told."""
        flow = part.read(index)
        if flow is None or not is_late(flow.deadline_ms, now_ms):
            return None
        key = _key_in(part, index)
        if is_remembered(flow, now_ms):
            self._over(key, flow)
            return layout.KeyedFlow(key, flow) if flow.flags & CONSTANTS["FLOW_RESET"] else None
        self.ended += self._evictions.delete(partial(part.delete, index))
        is_own = flow.flags & CONSTANTS["FLOW_SNAT"]
        if flow.state not in REMEMBERED or is_own:  # others were told of when they idled out
            self._over(key, flow)
        tells = is_own and flow.flags & CONSTANTS["FLOW_RESET"] and flow.state in REMEMBERED
        return layout.KeyedFlow(key, flow) if tells else None

    def _over(self, key: layout.Key, flow: layout.Flow) -> None:
        if self._news is not None:
            self._news.over(key, flow, Told.LATE)


def _key_in(part: Part, index: int) -> layout.Key:
    return full_key(part.kind, part.key(index))


def _present(numbers: Any) -> dict[int, int]:
    return {index: number for index, number in enumerate(numbers) if number}
