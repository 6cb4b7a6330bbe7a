"""The kernel datapath: programs in the kernel forward, this process tells them how.

    tables --> plan, image --> the image that no program reads --> one aligned word
    netlink --> neighbours --> next hops in place, interfaces attached
    maps --> sweep, counters --> whoever asks

Laws:
  1. What forwards needs no process: programs, maps and links are pinned. After kill -9 the last tables stay in force;
     the next process takes over what is there and replaces the programs, one link after the other.
  2. A frame meets the old tables or the new ones, also while programs are replaced.
  3. A failure before the commit leaves the old tables, the old programs and their links.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from asynclb.datapath.base import Attachment, HostSettings, Refusal
from asynclb.datapath.frames.front import Front
from asynclb.datapath.frames.limits import outbound_refusal, static_refusal
from asynclb.datapath.host import take_namespace
from asynclb.datapath.kernel.host import KernelHost, look_at_host
from asynclb.datapath.kernel.leftovers import detach, is_forwarding, remove_dead
from asynclb.datapath.kernel.programs import FlowLimits
from asynclb.datapath.kernel.running import Running
from asynclb.datapath.lifetimes import TellingCost
from asynclb.errors import ApplyError, HostError, Problem
from asynclb.events import Emit, Event
from asynclb.tables.diff import Delta
from asynclb.tables.row import Row
from asynclb.tables.snat import SnatRule

_NOT_OPENED = Refusal("it has not been opened", "this is a bug of asynclb")

Look = Callable[[FlowLimits | None], KernelHost | Refusal]
"""Says what the calling thread's host and network namespace allow; keeps what it tried, with room for so many flows."""


class KernelDatapath(Front[Running]):
    """Executes rules of every protocol with BPF programs. Owner: the controller."""

    name = "kernel"
    judge = "the loaded program"
    telling_cost = TellingCost(4e-6, 1e-6)

    def __init__(
        self,
        *,
        emit: Emit,
        limits: FlowLimits | None = None,
        settings: HostSettings | None = None,
        look: Look = look_at_host,
        expects_rules: bool = True,
    ) -> None:
        """`expects_rules`: what is tried of programs at the opening is kept for them."""
        super().__init__()
        self._emit = emit
        self._expects_rules = expects_rules
        self._limits = limits or FlowLimits()
        self._settings = settings or HostSettings()
        self._look = look
        self._host: KernelHost | Refusal = _NOT_OPENED
        self._watchers = 0
        self._left_over = False

    @property
    def capacity(self) -> int:
        """Bytes that tables may have before they need other programs; 0 while nothing is executed."""
        return 0 if self._running is None else self._running.capacity

    def mode(self, row: Row) -> str:
        """Return how the interfaces are attached that the row's traffic comes by: `tc`, `xdp`, or both."""
        return "" if self._running is None else self._running.mode(row)

    def attachments(self) -> tuple[Attachment, ...]:
        """Return how programs are attached to interfaces."""
        return () if self._running is None else self._running.attachments()

    def configure(self, settings: HostSettings) -> None:
        """Use these settings from the next `apply` on, and at the end."""
        self._settings = settings
        if self._running is not None:
            self._running.settings = settings

    async def open(self) -> None:
        """Find out what this host allows, and whether an instance before this one left programs that forward."""
        self._host = await asyncio.to_thread(self._look, self._limits if self._expects_rules else None)
        if isinstance(self._host, KernelHost):
            pins = self._host.pins
            await asyncio.to_thread(remove_dead, self._host.bpf, pins)
            self._left_over = is_forwarding(pins)

    def refusal(self, row: Row) -> Refusal | None:
        """Return why this datapath cannot carry the row, or None."""
        refused = static_refusal(row)
        return refused or (self._host if isinstance(self._host, Refusal) else None)

    def outbound_refusal(self, rule: SnatRule) -> Refusal | None:
        """Return why this datapath cannot carry the outbound rule, or None."""
        return outbound_refusal(rule) or (self._host if isinstance(self._host, Refusal) else None)

    async def apply(self, delta: Delta) -> None:
        """Execute the delta's new tables from here on; see `running` for the steps. Raises: ApplyError."""
        if self._running is None and delta.new.vacant:
            self._let_go_of_tried()
            await self._remove_left_over()
            self._generation = delta.new.generation
            return
        if isinstance(self._host, Refusal):
            raise ApplyError([_problem(f"{self._host.why}; {self._host.remedy}")])
        try:
            await self._execute(self._host, delta)
        except (HostError, OSError, LookupError, ValueError) as error:
            raise ApplyError([_problem(str(error))]) from error
        self._generation = delta.new.generation

    def watch(self, *, begin: bool) -> None:
        """Let packet sockets see all frames from here on, or no longer. Raises: HostError -> `begin` is refused."""
        watchers = self._watchers + (1 if begin else -1)
        try:
            if self._running is not None and bool(watchers) != bool(self._watchers):
                self._running.watch(begin=begin)
        except OSError as error:
            if begin:
                raise HostError(f"frames that leave would not be seen: {error}") from error
            self._emit(Event.DATAPATH_FAILED, datapath="kernel", error=str(error))  # forwards, only slower
        self._watchers = watchers

    async def close(self, drain_s: float) -> int:
        """Take no new flows for `drain_s` at most, then detach; or leave everything, if that is the setting."""
        if self._running is not None:
            left = await self._running.close(drain_s)
            self._running = None  # until then it shows which flows are waited for, and may be closed again
            return left
        self._let_go_of_tried()
        if not self._settings.leave:
            await self._remove_left_over()
        return 0

    async def _execute(self, host: KernelHost, delta: Delta) -> None:
        if self._running is not None:
            await self._running.execute(delta.new)
            return
        try:
            running = await Running.start(host, host.pins, self._emit, self._limits, self._settings)
        except BaseException:
            self._let_go_of_tried()
            raise
        self._host = replace(host, tried=None)  # it is the other's now
        running.news.listen(self._listeners)
        running.watch(begin=bool(self._watchers))
        try:
            await running.execute(delta.new)
        except BaseException:
            await running.abandon()
            raise
        self._running, self._left_over = running, False

    def _let_go_of_tried(self) -> None:
        """Give back the room of programs that nothing begins with."""
        if isinstance(self._host, KernelHost) and self._host.tried is not None:
            self._host.tried.close()
            self._host = replace(self._host, tried=None)

    async def _remove_left_over(self) -> None:
        """End the forwarding of an instance before this one: the configuration has nothing for it to do any more."""
        if not self._left_over or isinstance(self._host, Refusal):
            return
        try:
            with take_namespace("kernel"):
                removed = await asyncio.to_thread(detach, self._host.bpf, self._host.pins)
        except HostError:
            return  # it lives, and what it uses is its own
        self._left_over = False
        if removed:
            self._emit(Event.LEFTOVERS_REMOVED, what=list(removed))


def _problem(error: str) -> Problem:
    return Problem((), "", f"kernel datapath: {error}", "nothing was changed")
