"""Next hops, changed in place under programs that read them.

A hop is more than one word, and nothing may see half of one. A neighbour that has another link address, which is what
happens, is changed by one aligned store. If anything else changes, the hop is first marked as unresolved, upon which
translated frames are left to the kernel's own routing; when every program run that might have read it has ended, the
rest is written and it is marked as resolved again. A hop that was unresolved for as long needs no such wait.
"""

import asyncio
import sys
from collections.abc import Collection, Mapping
from ctypes import c_uint64, sizeof
from dataclasses import replace
from typing import Any

from asynclb.datapath.core import layout
from asynclb.datapath.core.values import NextHop
from asynclb.datapath.kernel.programs import grace_period


class Hops:
    """Keeps one generation of programs' hops as they should be. Owner: the datapath, on its loop."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self._wanted: dict[int, NextHop | None] = {}
        self._shown: dict[int, NextHop] = {}
        self._targets: frozenset[int] = frozenset()
        self._cooling: set[int] = set()
        """Those that were marked as unresolved, and may still be read as they were."""
        self._task: asyncio.Task[None] | None = None

    def set(self, hops: Mapping[int, NextHop | None], targets: Collection[int]) -> None:
        """Make these the hops, by their numbers; those that change lead through the kernel's routing for a moment.

        `targets` are the interfaces that XDP can redirect to: frames for others are rewritten and left to the kernel.
        """
        self._wanted.update(hops)
        is_other, self._targets = self._targets != frozenset(targets), frozenset(targets)
        for index, hop in hops.items():
            shown = self._shown.get(index)
            if shown is hop or shown == hop:
                if is_other and shown is not None:
                    self._records[index].via_kernel = shown.ifindex not in self._targets
                continue
            if shown is not None and hop is not None and hop == replace(shown, destination=hop.destination):
                self._readdress(index, hop)
            elif shown is not None:
                self._records[index].resolved = 0
                del self._shown[index]
                self._cooling.add(index)
            elif hop is not None and index not in self._cooling:
                self._write(index, hop)
        if self._cooling and self._task is None:
            self._task = asyncio.create_task(self._settle(), name="kernel-hops")

    def close(self) -> None:
        """Change nothing more."""
        if self._task is not None:
            self._task.cancel()
        self._records = None

    async def _settle(self) -> None:
        while self._cooling:
            due = tuple(self._cooling)
            await asyncio.to_thread(grace_period)
            self._cooling.difference_update(due)
            for index in due:
                if (hop := self._wanted[index]) is not None:
                    self._write(index, hop)
        self._task = None

    def _readdress(self, index: int, hop: NextHop) -> None:
        word = int.from_bytes(hop.destination + hop.source[:2], sys.byteorder)
        c_uint64.from_buffer(self._records, index * sizeof(layout.Hop) + layout.Hop.destination.offset).value = word
        self._shown[index] = hop

    def _write(self, index: int, hop: NextHop) -> None:
        record: layout.Hop = self._records[index]
        record.ifindex, record.mtu = hop.ifindex, hop.mtu
        record.destination[:], record.source[:] = hop.destination, hop.source
        record.via_kernel = hop.ifindex not in self._targets
        record.resolved = int(hop.resolved)
        self._shown[index] = hop
