"""The monitor: measures whether frontends are reached, and tells what somebody should know of.

    every round: measure -> window -> conditions -> events that are due
                                   -> the balancer's state, when it changes

The measuring is the datapaths' (a packet through each of them), the judging is in `availability` and `health_events`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import chain

from asynclb.control.status import Status
from asynclb.events import Emit, Event
from asynclb.observe.availability import Availability, ResourceHealth, ResourceState
from asynclb.observe.health_events import (
    HealthEvents,
    SnatUse,
    availability_conditions,
    pool_conditions,
    rule_count_conditions,
    snat_conditions,
)
from asynclb.tables.row import FrontendKey

INTERVAL_S = 10.0


class Monitor:
    """Owner: the instance, which runs `run` as a task; readers take `ratios` and `state`."""

    def __init__(
        self,
        *,
        status: Callable[[], Status],
        measure: Callable[[], Awaitable[Mapping[FrontendKey, bool]]],
        snat_uses: Callable[[], Iterable[SnatUse]],
        emit: Emit,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Units: `clock` in seconds from any point."""
        self._status = status
        self._measure = measure
        self._snat_uses = snat_uses
        self._emit = emit
        self._interval_s = interval_s
        self._clock = clock
        self._availability = Availability()
        self._resource = ResourceState(clock())
        self._events = HealthEvents()
        self._failed: Mapping[tuple[str, str, str], int] = {}
        self.ratios: Mapping[FrontendKey, float] = {}

    @property
    def state(self) -> ResourceHealth:
        """How the balancer as a whole is."""
        return self._resource.state

    async def run(self) -> None:
        """Go round until cancelled; the first time after an interval, when the first probes have been answered."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.round()

    async def round(self) -> None:
        """Measure once and tell what is due."""
        measured = await self._measure()
        now_s = self._clock()
        self._availability.add(measured, now_s)
        self.ratios = self._availability.ratios()
        self._tell_state(now_s)
        status, uses = self._status(), tuple(self._snat_uses())
        conditions = chain(
            availability_conditions(self.ratios),
            pool_conditions(status.model, status.health),
            snat_conditions(uses, self._failed),
            rule_count_conditions(status.model),
        )
        self._failed = {(use.pool, use.member, use.frontend): use.failed for use in uses}
        for condition in self._events.judge(conditions, now_s):
            fields = {**dict(condition.subject), **condition.detail}
            self._emit(Event.HEALTH_EVENT, type=condition.type, severity=condition.severity, **fields)

    def _tell_state(self, now_s: float) -> None:
        before, since_s = self._resource.state, self._resource.since_s
        after = self._resource.judge(self.ratios.values(), now_s)
        if after is not before:
            self._emit(Event.RESOURCE_HEALTH, state=after, was=before, after_s=round(now_s - since_s, 3))
