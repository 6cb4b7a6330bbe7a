"""How many flows gave their room to others before they were over: nothing is said of them, so it is worked out.

    made, by the programs = there, seen by a pass + deleted, by this process + over when their room was taken + evicted

Laws:
  1. Never more than were evicted: flows that come during a pass count as there, and were not made when it began. So the
     number is late by what was made during one pass, and right when that was nothing.
  2. It never falls.
  3. What a process before this one deleted or saw evicted is not known: the first pass over its maps says where to
     begin.
"""

import threading
from collections.abc import Callable
from ctypes import sizeof
from typing import Any

from asynclb.datapath.core import layout
from asynclb.datapath.kernel.programs import State
from asynclb.datapath.kernel.tally import library, sums
from asynclb.native.libbpf import Batch, Libbpf

_WORDS = sizeof(layout.KernelTotals) // 8
_MADE = layout.KernelTotals.made.offset // 8
_OVER = layout.KernelTotals.over.offset // 8


class Evictions:
    """Owner: the datapath. `delete` may be called by any thread; `begin`, `saw` and `end` by the sweep's."""

    def __init__(self, made: Callable[[], int], *, adopted: bool) -> None:
        """`made` says how many flows have ever got a place, but for those that were over when they lost it.

        `adopted`: the maps are those of a process before.
        """
        self._made = made
        self._lock = threading.Lock()
        self._deleted = 0
        self._before = 0
        """Ended one way or the other before this process knew."""
        self._adopted = adopted
        self._at_begin = self._there = self._swept = 0
        self.number = 0

    def delete(self, delete: Callable[[], bool]) -> bool:
        """Let a flow be deleted; return whether there was one."""
        with self._lock:  # a pass that ends sees both the deletion and its count, or neither
            done = delete()
            self._deleted += done
        return done

    def begin(self) -> None:
        """Begin a pass."""
        self._at_begin, self._there = self._made(), 0

    def saw(self, flows: int, deleted: int) -> None:
        """Take in a batch: how many flows it had, and how many of those the pass deleted."""
        self._there += flows - deleted

    def end(self) -> None:
        """Work it out."""
        with self._lock:
            gone = self._deleted
        if self._adopted:
            self._before, self._adopted = self._made() - gone - self._there, False
        self.number = max(self.number, self._at_begin - self._before - gone - self._there)


def flows_made(bpf: Libbpf, state: State) -> Callable[[], int]:
    """Return what says how many flows the programs have made, as `Evictions` asks it."""
    cpus, native_library = bpf.possible_cpus(), library()

    def made() -> int:
        totals: Any = Batch(4, 8 * _WORDS * cpus, 1)
        bpf.lookup_batch(state["totals"], totals)
        found = sums(totals.values, 1, cpus, _WORDS, native_library=native_library)
        return found[_MADE] - found[_OVER]

    return made
