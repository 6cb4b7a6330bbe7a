"""The health state machine: from a state and an outcome to the next state. Pure; the table below is the law.

    evidence ->   good            bad             proof of health   proof of illness   nothing
    UNKNOWN       UP after rise   DOWN            UP                DOWN               UNKNOWN
    UP            UP              DOWN after fall UP                DOWN               UP
    DOWN          UP after rise   DOWN            UP                DOWN               DOWN

Good and bad evidence counts (TCP, UDP, and the silences of HTTP); proof flips at once and resets the count (an
HTTP answer); nothing is a check that this host could not make. `after` means after that many consecutive outcomes;
evidence for the present state resets the count. From UNKNOWN one bad outcome is enough: unknown counts as down
anyway, so it changes nothing for flows and tells the operator what is wrong.

Flap damping, if it comes, is one more argument of `_needed`: the more recent transitions, the longer the rise.

Source: Azure Load Balancer, health probes, "Probe threshold".
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
class TargetState:
    """What is known of one target. `run` counts consecutive outcomes that speak against the present state."""

    health: MemberHealth
    run: int = 0


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


def step(state: TargetState, outcome: Outcome, rise: int, fall: int, now_ns: int) -> TargetState:
    """Return the state after an outcome; the very same health object when nothing that it says has changed."""
    found = evidence(outcome)
    old = state.health.state
    if found is Evidence.NOTHING:
        return TargetState(_settle(state.health, old, state.health.reason, outcome.detail, now_ns), state.run)
    if found in _AT_ONCE:
        return TargetState(_settle(state.health, _AT_ONCE[found], outcome.reason, outcome.detail, now_ns))
    new = _AFTER_RUN.get((old, found), old)
    run = state.run + 1 if new is not old else 0
    if run and run < _needed(old, found, rise, fall):
        return TargetState(_settle(state.health, old, _approaching(found), outcome.detail, now_ns), run)
    return TargetState(_settle(state.health, new, outcome.reason, outcome.detail, now_ns))


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
