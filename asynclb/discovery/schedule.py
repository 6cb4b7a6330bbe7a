"""When a source is asked again, and when what it said is passed on. Pure."""

FIRST_RETRY_S = 0.5  # a name server that restarts is back within a second
LAST_RETRY_S = 30.0  # as long as an operator would wait after mending it
_JITTER = 0.1  # so that many instances do not ask at once
SETTLE_S = 1.0  # between two updates of a pool: a table of 5,000 members takes a few ms, a reload of all of it 100


def retry_after_s(failures: int, chance: float) -> float:
    """Return how long to wait after so many failures in a row: doubled with each, up to a bound.

    Units: `chance` is from 0 to 1; the wait is shortened by up to a tenth with it.
    """
    wait_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(failures - 1, 10))
    return wait_s * (1.0 - _JITTER * chance)


def expires_after_s(ttl_s: float, least_s: float, most_s: float, chance: float) -> float:
    """Return when to look a name up again: when its answer has expired, within the bounds, and up to a tenth later."""
    return max(least_s, min(ttl_s, most_s)) * (1.0 + _JITTER * chance)


def settle_after_s(last_s: float | None, now_s: float) -> float:
    """Return how long an answer waits before it is passed on; the first one after a quiet second does not wait."""
    return 0.0 if last_s is None else max(0.0, last_s + SETTLE_S - now_s)
