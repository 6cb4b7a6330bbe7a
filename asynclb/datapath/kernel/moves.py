"""Flows that go to another member because tables changed. The programs put the new flow in the place of the old one and
say nothing, so both are found by looking: passes of the sweep remember what they saw while somebody listens.

    a pass keeps its flows --> tables are published, members lose new flows --> theirs are watched
    a later pass finds a flow of the same ends that began since, with another member --> the old one has moved

Laws:
  1. A flow that moved is told of once, and as a later pass knew it that ended before tables were published: its numbers
     are as old as that, and a flow that no such pass saw is not told of.
  2. What ended for another reason is not told of again.
  3. At most `MOST` flows are kept and watched. With more open no moves are told of: that is said in ARCHITECTURE.

Cost: a copy of the flows, once a second: 1.5 ms for `MOST` of them.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from ctypes import Array, c_char, c_uint32, sizeof
from typing import NamedTuple

from asynclb.datapath.core import layout
from asynclb.datapath.core.leaving import MemberName
from asynclb.datapath.core.parting import Going
from asynclb.datapath.core.values import MAX_MEMBERS
from asynclb.datapath.kernel.flows import BATCH, FlowKey, Part, full_key
from asynclb.datapath.kernel.tally import flow_at, is_late, library, parting
from asynclb.tables.tables import Tables

MOST = 65_536
"""Flows: with their keys some 8 MB, of two passes 16."""
_TIDY = 64  # passes from one look at what is watched in vain to the next: 16 s at least


class _Kept(NamedTuple):
    """A part of a pass. Shape: `values` is [number] of `layout.Flow`, `keys` is [number] of the table's keys."""

    kind: FlowKey
    keys: bytes
    values: "Array[c_char]"
    number: int

    @classmethod
    def of(cls, part: Part) -> "_Kept":
        """Copy a part."""
        flows = (c_char * (part.count * sizeof(layout.Flow))).from_buffer_copy(part.values)
        return cls(part.kind, bytes(memoryview(part.keys)[: part.count * sizeof(part.kind)]), flows, part.count)

    def key(self, index: int) -> layout.Key:
        """Return the key of a flow."""
        size = sizeof(self.kind)
        return full_key(self.kind, self.keys[index * size : (index + 1) * size])


class _Published(NamedTuple):
    """Members that lost new flows when tables were published, and what the last whole pass before had seen."""

    members: Sequence[int]
    before: Sequence[_Kept]
    at_ms: int


class Moves:
    """Owner: what runs the sweep. The loop may call `published` and `over`, the sweep's thread calls the others."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._whole: Sequence[_Kept] = ()
        self._now: list[_Kept] = []
        self._room, self._keeps = most, False
        self._published: deque[_Published] = deque()
        self._watched: dict[bytes, layout.Flow] = {}
        self._passes = 0

    @property
    def is_watching(self) -> bool:
        """Whether flows are watched."""
        return bool(self._watched)

    def published(self, members: Sequence[int], now_ms: int) -> None:
        """Watch the flows of these members, which tables that have just come into force give fewer new ones."""
        if members and self._whole:
            self._published.append(_Published(members, self._whole, now_ms))

    def passing(self, now_ms: int, *, keep: bool) -> None:
        """Begin a pass, which is kept or not. Units: the clock of deadlines."""
        self._now, self._room, self._keeps = [], self._most, keep
        while self._published:
            self._watch(self._published.popleft())
        self._passes += 1
        if self._passes % _TIDY == 0:  # who was silent so long has been told of, or has stayed where it was
            late = [key for key, flow in tuple(self._watched.items()) if is_late(flow.deadline_ms, now_ms)]
            for key in late:
                self._watched.pop(key, None)

    def saw(self, part: Part) -> None:
        """Keep what a pass sees."""
        if not self._keeps:
            return
        self._room -= part.count
        if self._room >= 0:
            self._now.append(_Kept.of(part))
        else:
            self._now.clear()

    def passed(self) -> None:
        """End a pass."""
        if not self._keeps:
            return
        self._whole = tuple(self._now) if self._room >= 0 else ()
        self._now = []

    def moved(self, key: layout.Key, flow: layout.Flow) -> layout.Flow | None:
        """Return the flow whose place another one has taken, if that is what a flow that has just begun did."""
        name = bytes(key)
        before = self._watched.get(name)
        if before is None or (before.created_s, before.member) == (flow.created_s, flow.member):
            return None
        del self._watched[name]
        return before if before.member != flow.member else None

    def over(self, key: layout.Key) -> None:
        """Take note that a flow is over."""
        if self._watched:
            self._watched.pop(bytes(key), None)

    def stop(self) -> None:
        """Keep and watch nothing: nobody listens."""
        self._whole, self._now, self._room = (), [], self._most
        self._published.clear()
        self._watched.clear()

    def _watch(self, change: _Published) -> None:
        going = Going((), change.members, max_members=MAX_MEMBERS)
        found, native_library = (c_uint32 * BATCH)(), library()
        for kept in change.before:
            for index in parting(kept.values, kept.number, going, found, native_library):
                flow = flow_at(kept.values, index)
                ours = flow.flags & (layout.CONSTANTS["FLOW_RETURN"] | layout.CONSTANTS["FLOW_SNAT"])
                if not ours and not is_late(flow.deadline_ms, change.at_ms) and len(self._watched) < self._most:
                    self._watched[bytes(kept.key(index))] = layout.Flow.from_buffer_copy(flow)


def losing(before: Tables, after: Tables, members: Mapping[int, MemberName]) -> tuple[int, ...]:
    """Return the members, by number, that have lost new flows of some rule from one generation to the next. Pure."""
    lost: set[tuple[str, str]] = set()
    compared: set[tuple[int, int]] = set()
    for key, entry in after.entries.items():
        old = before.entries.get(key)
        if old is None or old.table is entry.table or (id(old.table), id(entry.table)) in compared:
            continue
        compared.add((id(old.table), id(entry.table)))
        serving = {member.name for member in entry.table.members}
        lost |= {(old.row.pool.name, member.name) for member in old.table.members if member.name not in serving}
    return tuple(number for number, (pool, name, _) in members.items() if (pool, name) in lost) if lost else ()
