"""Flows that begin and end, as the sweep finds them, to who listens.

A flow begins in some second and is told of by the first pass that began later; it is over when a pass finds it past its
deadline. So words come up to two passes late: half a second, and 10 s with a million flows. Flows that went to another
member are found by `moves`. Not told of: flows that the kernel evicts for room (`evictions` counts them), or that lose
their place to another flow of the same ends for another reason, since it says nothing of them.
"""

from collections.abc import Callable, Iterable, Mapping
from ctypes import Array, c_char, c_uint32, sizeof
from typing import Any

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import Told
from asynclb.datapath.core.leaving import MemberName
from asynclb.datapath.core.memory import flow_view
from asynclb.datapath.frames.lifetimes import Names, Seen, lifetimes, stopped
from asynclb.datapath.kernel.flows import Part
from asynclb.datapath.kernel.moves import Moves, losing
from asynclb.datapath.kernel.tally import begun
from asynclb.datapath.lifetimes import NOBODY, Listeners, is_told
from asynclb.tables.tables import Tables


class KernelNews:
    """Owner: what runs the sweep. `passing`, `began` and `over` are for the sweep's thread, the others for the loop."""

    def __init__(self, names: Callable[[], Names]) -> None:
        self._names = names
        self._listeners = self._next = NOBODY
        self._found: list[layout.ToldFlow] = []
        self._since_s = self._until_s = 0
        self._moves = Moves()

    def listen(self, listeners: Listeners) -> None:
        """Tell these from the next pass on: what one pass finds is told at one rate."""
        self._next = listeners

    def published(self, before: Tables, after: Tables, members: Mapping[int, MemberName], now_ms: int) -> None:
        """Look out for flows that may go to another member, as these tables have come into force after others.

        Units: the clock of deadlines.
        """
        if self._next.ends is not None:
            self._moves.published(losing(before, after, members), now_ms)

    def passing(self, now_s: int, now_ms: int) -> None:
        """Begin a pass: it tells of flows that began since the pass before it did.

        Units: the core's seconds, and the clock of deadlines.
        """
        self._listeners = self._next
        self._since_s, self._until_s = self._until_s, now_s
        if self._listeners.ends is not None:
            self._moves.passing(now_ms, keep=self._since_s != self._until_s)
        else:
            self._moves.stop()

    def saw(self, part: Part) -> None:
        """Take in a part of the pass, as it was before anything is done about its flows."""
        if self._listeners.ends is not None:
            self._moves.saw(part)

    def passed(self) -> None:
        """End a pass."""
        if self._listeners.ends is not None:
            self._moves.passed()

    def began(
        self,
        values: "Array[c_char]",
        count: int,
        key_of: Callable[[int], layout.Key],
        room: "Array[c_uint32]",
        native_library: Any | None,
    ) -> None:
        """Take in those of a batch that began, and what they took the place of."""
        starts = self._listeners.starts is not None
        if not (starts or self._moves.is_watching) or self._since_s == self._until_s:
            return
        for index in begun(values, count, self._since_s, self._until_s, room, native_library):
            key = key_of(index)
            flow = layout.Flow.from_buffer_copy(values, index * sizeof(layout.Flow))
            before = self._moves.moved(key, flow)
            if not is_told(self._listeners.sample, bytes(key)):
                continue
            if before is not None:
                self._found.append(layout.ToldFlow(key, before, Told.REPLACED))
            if starts:
                self._found.append(layout.ToldFlow(key, flow, Told.BEGUN))

    def over(self, key: layout.Key, flow: layout.Flow, why: Told) -> None:
        """Take in a flow that is over."""
        listeners = self._listeners
        self._moves.over(key)
        if listeners.ends is None or flow.flags & layout.CONSTANTS["FLOW_RETURN"]:
            return
        if is_told(listeners.sample, bytes(key)):
            self._found.append(layout.ToldFlow(key, flow, why))

    def tell(self) -> None:
        """Tell what was found."""
        found, self._found = self._found, []
        tell = self._listeners.ends or self._listeners.starts
        if found and tell is not None:
            names, seen = self._names(), Seen.now()
            tell(len(found), lambda: lifetimes(found, names, seen))

    def close(self, left: Callable[[], Iterable[layout.KeyedFlow]]) -> None:
        """Tell of what was found, and of the flows that end with the programs."""
        self.tell()
        self._listeners = self._next
        if self._listeners.ends is not None:
            names, seen, sample = self._names(), Seen.now(), self._listeners.sample
            flows = [flow_view(keyed) for keyed in left() if is_told(sample, bytes(keyed.key))]
            self._listeners.ends(len(flows), lambda: stopped(flows, names, seen))
