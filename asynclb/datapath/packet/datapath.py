"""The packet datapath as the controller sees it; `running` is what there is while there is something to execute."""

import asyncio

from asynclb import native
from asynclb.datapath.base import Refusal
from asynclb.datapath.frames.front import Front
from asynclb.datapath.frames.limits import outbound_refusal, static_refusal
from asynclb.datapath.host import Capability, missing, take_namespace
from asynclb.datapath.lifetimes import TellingCost
from asynclb.datapath.nft import Nftables
from asynclb.datapath.packet.fanout import Pinning
from asynclb.datapath.packet.ruleset import NO_TABLE, TABLE
from asynclb.datapath.packet.running import Running
from asynclb.errors import ApplyError, HostError, Problem
from asynclb.events import Emit, Event
from asynclb.tables.diff import Delta
from asynclb.tables.row import Row
from asynclb.tables.snat import SnatRule


class PacketDatapath(Front[Running]):
    """Executes rules of every protocol with packet sockets. Owner: the controller."""

    name = "packet"
    judge = "the packet core"
    telling_cost = TellingCost(0.5e-6, 0.05e-6)

    def __init__(self, *, emit: Emit, workers: int = 1) -> None:
        """Make it; with several workers, as many processes move the frames."""
        super().__init__()
        self._emit = emit
        self._workers = workers
        self._remedy = "run as root or with these capabilities, or use `datapath: proxy` where it can"
        self._why_not = "it has not been opened"
        self._leftover = False

    async def open(self) -> None:
        """Find out what this host allows, and whether a killed instance left its guard behind. Changes nothing.

        What is left keeps the host from resetting connections that go on with the first tables, which replace it.
        """
        lacking = missing(Capability.CAP_NET_ADMIN, Capability.CAP_NET_RAW)
        self._why_not = ""
        if lacking:
            self._why_not = f"packet sockets and their guard need {' and '.join(lack.name for lack in lacking)}"
        elif not native.available:
            self._why_not = f"the native library is not there: {native.reason}"
        else:
            if self._workers > 1:
                self._why_not, self._remedy = _unpinnable(self._workers), "grant CAP_BPF, or set `workers: 1`"
            self._leftover = await asyncio.to_thread(_has_leftover)

    def mode(self, _row: Row) -> str:
        """Return `rings`, or how many workers have some: every rule is carried in the same way."""
        return "rings" if self._workers == 1 else f"rings of {self._workers} workers"

    def refusal(self, row: Row) -> Refusal | None:
        """Return why this datapath cannot carry the row, or None."""
        refused = static_refusal(row)
        if refused is None and self._why_not:
            return Refusal(self._why_not, self._remedy)
        return refused

    def outbound_refusal(self, rule: SnatRule) -> Refusal | None:
        """Return why this datapath cannot carry the outbound rule, or None."""
        refused = outbound_refusal(rule)
        return Refusal(self._why_not, self._remedy) if refused is None and self._why_not else refused

    async def apply(self, delta: Delta) -> None:
        """Execute the delta's new tables from here on; see the module for the steps. Raises: ApplyError."""
        if self._running is None and delta.new.vacant:
            await self._remove_leftover()
            self._generation = delta.new.generation
            return
        try:
            if self._running is None:
                self._running = Running(self._emit, self._workers)
                self._running.news.listen(self._listeners)
            await self._running.execute(delta.new)
        except (HostError, OSError, LookupError, ValueError) as error:
            raise ApplyError([Problem((), "", f"packet datapath: {error}", "nothing was changed")]) from error
        self._generation = delta.new.generation
        if self._leftover:
            self._removed_leftover()

    async def close(self, drain_s: float) -> int:
        """Take no new flows for `drain_s` at most, then take the rings, the guard and the lock down."""
        left = 0 if self._running is None else await self._running.close(drain_s)
        self._running = None  # until then it shows which flows are waited for, and may be closed again
        await self._remove_leftover()
        return left

    async def _remove_leftover(self) -> None:
        if self._leftover and await asyncio.to_thread(_remove_table):
            self._removed_leftover()

    def _removed_leftover(self) -> None:
        self._leftover = False
        self._emit(Event.LEFTOVERS_REMOVED, what=[f"nftables table netdev {TABLE}"])


def _unpinnable(workers: int) -> str:
    """Return why flows cannot be pinned to workers here, or nothing."""
    try:
        Pinning().close()
    except OSError as error:
        return f"`workers: {workers}` needs a program that pins flows, which the kernel refused: {error}"
    return ""


def _has_leftover() -> bool:
    """Return whether a dead instance's guard is there; a living one's does not count."""
    try:
        with take_namespace("packet"):
            return TABLE in Nftables().run("list tables netdev")
    except (HostError, OSError):
        return False


def _remove_table() -> bool:
    """Remove a dead instance's guard; return whether that was possible. A living one's is left alone."""
    try:
        with take_namespace("packet"):
            Nftables().run(NO_TABLE)
            return True
    except (HostError, OSError):
        return False
