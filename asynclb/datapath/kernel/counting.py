"""The counters that programs keep for each processor, added up and under their numbers.

Only as many entries are read as there are numbers in use, so that the cost follows the configuration.
"""

from collections.abc import Iterable
from ctypes import sizeof
from struct import pack
from typing import Any

from asynclb.datapath.base import MemberCounters, RuleCounters
from asynclb.datapath.core import layout
from asynclb.datapath.core.memory import DROPS
from asynclb.datapath.core.values import CoreCounters
from asynclb.datapath.kernel.programs import State, room_of
from asynclb.datapath.kernel.sweep import Counted
from asynclb.datapath.kernel.tally import library, sums
from asynclb.native.libbpf import Batch, Libbpf

_WORDS = sizeof(layout.Count) // 8
_FIELDS = {name: getattr(layout.Count, name).offset // 8 for name, *_ in layout.Count._fields_}


class Counting:
    """Reads the counters. Owner: the datapath."""

    def __init__(self, bpf: Libbpf, state: State) -> None:
        self._bpf = bpf
        self._state = state
        self._cpus = bpf.possible_cpus()
        self._limits: tuple[int, ...] = ()
        self._native = library()

    def read(self, rules: int, members: int, counted: Counted) -> CoreCounters:
        """Return the counters of the first so many rules and members, with the flows that were counted last.

        Cost: about a microsecond for each number and processor.
        """
        if not self._limits:  # the first programs make the maps
            sets, hashed = (self._bpf.map_info(self._state[name]).max_entries for name in ("flows4", "flows6"))
            self._limits = room_of(sets), hashed
        by_rule = self._counts("rule_counts", rules)
        by_member = self._counts("member_counts", members)
        drops = self._sums("drops", len(DROPS) + 1, 1)
        return CoreCounters(
            rules={
                index: RuleCounters(**_of(count, _RULE), flows=counted.rules.get(index, 0))
                for index, count in enumerate(by_rule)
                if any(count) or index in counted.rules
            },
            members={
                index: MemberCounters(
                    **_of(count, _MEMBER), flows=counted.members.get(index, 0), failed=count[_FIELDS["syn"]]
                )
                for index, count in enumerate(by_member)
                if any(count) or index in counted.members
            },
            drops={drop: drops[number] for number, drop in enumerate(DROPS, 1) if drops[number]},
            flows=counted.flows,
            capacity=capacity(counted, self._limits),
            stateless=self._sums("totals", 1, sizeof(layout.KernelTotals) // 8)[0],
        )

    def begin(self, rules: Iterable[int], members: Iterable[int]) -> None:
        """Let numbers that get a name begin at zero: they may have had another one. Raises: BpfError."""
        zero = bytes(8 * _WORDS * self._cpus)
        for name, numbers in (("rule_counts", rules), ("member_counts", members)):
            for number in numbers:
                self._bpf.update(self._state[name], pack("=I", number), zero)

    def _counts(self, name: str, entries: int) -> list[Any]:
        found = self._sums(name, entries, _WORDS)
        return [found[start : start + _WORDS] for start in range(0, len(found), _WORDS)]

    def _sums(self, name: str, entries: int, words: int) -> Any:
        batch = Batch(4, 8 * words * self._cpus, max(1, entries))
        if entries:
            self._bpf.lookup_batch(self._state[name], batch)
        return sums(batch.values, min(batch.count, entries), self._cpus, words, native_library=self._native)


def capacity(counted: Counted, limits: tuple[int, ...]) -> int:
    """Return how many flows there is room for, with as many of IPv4 to one of IPv6 as there are now.

    The tables fill by themselves: what is told beside the flows is the share of the one that is fuller. IPv4's takes
    twice as many before it is full, but no longer surely every one.
    """
    used, limit = max(zip(counted.by_map, limits, strict=False), key=_share, default=(0, 0))
    return counted.flows * limit // used if used else sum(limits)


def _share(found: tuple[int, int]) -> float:
    used, limit = found
    return used / limit


_RULE = ("bytes_in", "bytes_out", "packets_in", "packets_out", "syn", "new_flows")
_MEMBER = ("bytes_in", "bytes_out", "new_flows")


def _of(count: Any, names: tuple[str, ...]) -> dict[str, int]:
    return {name: count[_FIELDS[name]] for name in names}
