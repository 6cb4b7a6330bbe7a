"""How available frontends have been: a window of measurements, and the state that the cloud would call it. Pure.

A measurement is one packet through the datapath for one (frontend address, port, protocol): it was given to a member,
or it was not. What was not measured (no rule, an empty pool) is absent, not zero.

Source: Azure Load Balancer, "Data path availability" and "Resource health status": at least 90 % is available, below
25 % unavailable, in between for two minutes degraded, no data for ten minutes unknown.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from enum import StrEnum

from asynclb.tables.row import FrontendKey

WINDOW_S = 60.0
WARNING_BELOW = 0.9
CRITICAL_BELOW = 0.25
UNKNOWN_AFTER_S = 600.0
DEGRADED_AFTER_S = 120.0


class ResourceHealth(StrEnum):
    """How the balancer as a whole is."""

    AVAILABLE = "available"
    DEGRADED = "degraded"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"


class Availability:
    """The measurements of the last minute, by frontend key. Owner: the monitor."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._measured: dict[FrontendKey, deque[tuple[float, bool]]] = {}

    def add(self, measured: Mapping[FrontendKey, bool], now_s: float) -> None:
        """Remember one round of measurements; keys that are not in it are forgotten with their rule."""
        for key in self._measured.keys() - measured.keys():
            del self._measured[key]
        for key, reached in measured.items():
            past = self._measured.setdefault(key, deque())
            past.append((now_s, reached))
            while past[0][0] <= now_s - self._window_s:
                past.popleft()

    def ratios(self) -> Mapping[FrontendKey, float]:
        """Return the share of the window's packets that were given to a member, by key."""
        return {key: sum(reached for _, reached in past) / len(past) for key, past in self._measured.items()}


class ResourceState:
    """The balancer's state and since when; a dip becomes `degraded` only after two minutes. Owner: the monitor."""

    def __init__(self, now_s: float) -> None:
        self.state = ResourceHealth.UNKNOWN
        self.since_s = now_s
        self._measured_s = now_s
        self._impaired_s: float | None = None

    def judge(self, ratios: Iterable[float], now_s: float) -> ResourceHealth:
        """Return the state after another round, from the mean of all ratios."""
        found = list(ratios)
        state = self._of(found, now_s)
        if state is not self.state:
            self.state, self.since_s = state, now_s
        return state

    def _of(self, ratios: list[float], now_s: float) -> ResourceHealth:
        if not ratios:
            self._impaired_s = None
            return ResourceHealth.UNKNOWN if now_s - self._measured_s >= UNKNOWN_AFTER_S else self.state
        self._measured_s = now_s
        mean = sum(ratios) / len(ratios)
        if mean >= WARNING_BELOW:
            self._impaired_s = None
            return ResourceHealth.AVAILABLE
        if self._impaired_s is None:
            self._impaired_s = now_s
        if mean < CRITICAL_BELOW:
            return ResourceHealth.UNAVAILABLE
        if now_s - self._impaired_s < DEGRADED_AFTER_S and self.state is ResourceHealth.AVAILABLE:
            return ResourceHealth.AVAILABLE
        return ResourceHealth.DEGRADED
