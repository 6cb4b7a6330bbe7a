"""Flows that begin and end, from the engines' rings to who listens: taken off on the loop, put into words elsewhere."""

import asyncio
from collections.abc import Callable
from ctypes import Array

from asynclb.datapath.core import layout
from asynclb.datapath.frames.lifetimes import Names, Seen, is_sampled, lifetimes, stopped
from asynclb.datapath.lifetimes import NOBODY, Listeners
from asynclb.datapath.packet.crew import Crew

_EVERY_S = 0.1
"""A ring has room for 16,384: 160,000 flows a second."""


class FlowNews:
    """Owner: what runs the engines. Ended by `close`."""

    def __init__(self, crew: Crew, names: Callable[[], Names]) -> None:
        self._crew, self._names = crew, names
        self._listeners = NOBODY
        self._untold = 0
        self._timer: asyncio.TimerHandle | None = None

    def listen(self, listeners: Listeners) -> None:
        """Tell these from here on."""
        if listeners == NOBODY == self._listeners:
            return
        self.take()
        self._listeners = listeners
        ends, starts = listeners.ends is not None, listeners.starts is not None
        self._crew.listen(ends=ends, starts=starts, sample=listeners.sample)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._look)

    def take(self) -> None:
        """Tell now what is known by now: what numbers mean is about to change."""
        if self._timer is None:
            return
        names, seen = self._names(), Seen.now()
        for told in self._crew.told():
            self._tell(told, names, seen)
        untold = self._crew.untold()
        if self._listeners.lost is not None and untold > self._untold:
            self._listeners.lost(untold - self._untold)
        self._untold = untold

    def close(self) -> None:
        """Tell of the flows that are open: they end with the engines."""
        self.take()
        if self._timer is not None:
            self._timer.cancel()
        if self._listeners.ends is None:
            return
        names, seen = self._names(), Seen.now()
        for pages in self._crew.tables():
            cursor: int | None = 0
            while cursor is not None:
                found, cursor = pages(cursor)
                told = [flow for flow in found if is_sampled(flow, self._listeners.sample)]
                self._listeners.ends(len(told), lambda flows=told: stopped(flows, names, seen))  # type: ignore[misc] # the page

    def _look(self) -> None:
        self.take()
        self._timer = None
        if self._listeners != NOBODY:
            self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._look)

    def _tell(self, told: Array[layout.ToldFlow], names: Names, seen: Seen) -> None:
        """Hand over a ring's flows, as they begin and end."""
        tell = self._listeners.ends or self._listeners.starts
        if len(told) and tell is not None:
            tell(len(told), lambda: lifetimes(told, names, seen))
