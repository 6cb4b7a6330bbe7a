"""The health state machine: from a state and an outcome to the next state. Pure; the table below is the law.

    evidence ->   good            bad             proof of health   proof of illness   nothing
    UNKNOWN       UP after rise   DOWN            UP                DOWN               UNKNOWN
    UP            UP              DOWN after fall UP                DOWN               UP
    DOWN          UP after rise   DOWN            UP                DOWN               DOWN

Good and bad evidence counts (TCP, UDP, and the silences of HTTP); proof flips at once and resets the count (an
HTTP answer); nothing is a check that this host could not make. `after` means after that many consecutive outcomes;
evidence for the present state resets the count. From UNKNOWN one bad outcome is enough: unknown counts as down
anyway, so it changes nothing for flows and tells the operator what is wrong.

Flap damping: a member that has fallen more often than `Damping.free` times within the window comes back only after
twice as many good outcomes with every further fall, and proof of health counts as one of them. Falls are never
delayed: a member that fails takes no new flows, however often it has failed before.

Source: Azure Load Balancer, health probes, "Probe threshold"; it says that fluctuating endpoints wait longer, not how
long. RFC 2439 for the thought that each flap weighs more than the one before.
"""

from dataclasses import dataclass, replace
from enum import Enum, auto

from asynclb.health.outcome import Outcome, OutcomeKind
from asynclb.model import HealthState, MemberHealth, Reason


class Evidence(Enum):
    """What an outcome proves: a column of the table."""

    GOOD = auto()
    BAD = auto()
    PROOF_UP = auto()
    PROOF_DOWN = auto()
    NOTHING = auto()


@dataclass(frozen=True, slots=True)
class Damping:
    """How a member that keeps falling is held back. `free` falls within `window_ns` cost nothing."""

    window_ns: int
    free: int = 3
    most: int = 32
    """The most that the rise is multiplied by."""


@dataclass(frozen=True, slots=True)
class TargetState:
    """What is known of one target.

    `run` counts consecutive outcomes that speak against the present state; `falls_ns` are when it went from up to
    down, the latest last, as many as damping looks at.
    """

    health: MemberHealth
    run: int = 0
    falls_ns: tuple[int, ...] = ()


_AFTER_RUN = {
    (HealthState.UNKNOWN, Evidence.GOOD): HealthState.UP,
    (HealthState.UNKNOWN, Evidence.BAD): HealthState.DOWN,
    (HealthState.UP, Evidence.BAD): HealthState.DOWN,
    (HealthState.DOWN, Evidence.GOOD): HealthState.UP,
}
"""Where counted evidence leads once there is enough of it; pairs that are missing confirm the present state."""

_AT_ONCE = {Evidence.PROOF_UP: HealthState.UP, Evidence.PROOF_DOWN: HealthState.DOWN}


def initial(now_ns: int) -> TargetState:
    """Return the state of a target that was never checked."""
    return TargetState(MemberHealth(since_ns=now_ns))


def evidence(outcome: Outcome) -> Evidence:
    """Return the column of the table that an outcome belongs to."""
    if outcome.kind is OutcomeKind.ERROR:
        return Evidence.NOTHING
    if outcome.kind is OutcomeKind.SUCCESS:
        return Evidence.PROOF_UP if outcome.decisive else Evidence.GOOD
    return Evidence.PROOF_DOWN if outcome.decisive else Evidence.BAD


def step(
    state: TargetState, outcome: Outcome, rise: int, fall: int, now_ns: int, damping: Damping | None = None
) -> TargetState:
    """Return the state after an outcome; the very same health object when nothing that it says has changed."""
    found = evidence(outcome)
    old = state.health.state
    if found is Evidence.NOTHING:
        return replace(state, health=_settle(state.health, old, state.health.reason, outcome.detail, now_ns))
    factor = _factor(state.falls_ns, now_ns, damping)
    if found is Evidence.PROOF_UP and old is HealthState.DOWN and factor > 1:
        found, rise = Evidence.GOOD, 1
    if found in _AT_ONCE:
        return _moved(state, _AT_ONCE[found], outcome, now_ns, damping)
    new = _AFTER_RUN.get((old, found), old)
    run = state.run + 1 if new is not old else 0
    if run and run < _needed(old, found, rise * factor, fall):
        health = _settle(state.health, old, _approaching(found), outcome.detail, now_ns)
        return TargetState(health, run, state.falls_ns)
    return _moved(state, new, outcome, now_ns, damping)


def _moved(state: TargetState, new: HealthState, outcome: Outcome, now_ns: int, damping: Damping | None) -> TargetState:
    """Return the target in a state for which there is enough evidence; a fall is remembered while it weighs."""
    health = _settle(state.health, new, outcome.reason, outcome.detail, now_ns)
    falls_ns = state.falls_ns
    if damping is not None and state.health.state is HealthState.UP and new is HealthState.DOWN:
        falls_ns = (*_recent(falls_ns, now_ns, damping), now_ns)[-(damping.free + damping.most.bit_length()) :]
    return TargetState(health, falls_ns=falls_ns)


def _factor(falls_ns: tuple[int, ...], now_ns: int, damping: Damping | None) -> int:
    """Return what the rise is multiplied by."""
    if damping is None or len(falls_ns) <= damping.free:
        return 1
    excess = len(_recent(falls_ns, now_ns, damping)) - damping.free
    return min(damping.most, 1 << excess) if excess > 0 else 1


def _recent(falls_ns: tuple[int, ...], now_ns: int, damping: Damping) -> tuple[int, ...]:
    return tuple(at for at in falls_ns if now_ns - at < damping.window_ns)


def _needed(old: HealthState, found: Evidence, rise: int, fall: int) -> int:
    """Return how many consecutive outcomes it takes to leave `old`."""
    if found is Evidence.GOOD:
        return rise
    return 1 if old is HealthState.UNKNOWN else fall


def _approaching(found: Evidence) -> Reason:
    if found is Evidence.GOOD:
        return Reason.DOWN_PROBE_APPROACHING_HEALTHY
    return Reason.UP_PROBE_APPROACHING_UNHEALTHY


def _settle(health: MemberHealth, state: HealthState, reason: Reason, detail: str, now_ns: int) -> MemberHealth:
    if state is not health.state:
        return MemberHealth(state, reason, now_ns, detail)
    if reason is health.reason and detail == health.detail:
        return health
    return replace(health, reason=reason, detail=detail)
