"""The state machine: every state meets every kind of evidence."""

import pytest

from asynclb.health.machine import Damping, Evidence, TargetState, evidence, initial, step
from asynclb.health.outcome import Outcome, OutcomeKind
from asynclb.model import HealthState, MemberHealth, Reason

U, UP, DOWN = HealthState.UNKNOWN, HealthState.UP, HealthState.DOWN
OK = Reason.UP_PROBE_SUCCESS
BAD = Reason.DOWN_PROBE_TCP_TIMEOUT

OUTCOMES = {
    Evidence.GOOD: Outcome(OutcomeKind.SUCCESS, OK, "fine"),
    Evidence.BAD: Outcome(OutcomeKind.TIMEOUT, BAD, "silent"),
    Evidence.PROOF_UP: Outcome(OutcomeKind.SUCCESS, OK, "200", decisive=True),
    Evidence.PROOF_DOWN: Outcome(OutcomeKind.FAILURE, Reason.DOWN_PROBE_HTTP_STATUS, "503", decisive=True),
    Evidence.NOTHING: Outcome(OutcomeKind.ERROR, Reason.NA, "too many open files"),
}


def state(value: HealthState, run: int = 0) -> TargetState:
    """Return a target that has been in a state since 1 ns."""
    return TargetState(MemberHealth(value, Reason.NA, 1, ""), run)


@pytest.mark.parametrize(
    ("before", "found", "with_one", "with_three"),
    [
        # before, evidence, the state after it at rise = fall = 1, and at rise = fall = 3
        (U, Evidence.GOOD, UP, U),
        (U, Evidence.BAD, DOWN, DOWN),
        (U, Evidence.PROOF_UP, UP, UP),
        (U, Evidence.PROOF_DOWN, DOWN, DOWN),
        (U, Evidence.NOTHING, U, U),
        (UP, Evidence.GOOD, UP, UP),
        (UP, Evidence.BAD, DOWN, UP),
        (UP, Evidence.PROOF_UP, UP, UP),
        (UP, Evidence.PROOF_DOWN, DOWN, DOWN),
        (UP, Evidence.NOTHING, UP, UP),
        (DOWN, Evidence.GOOD, UP, DOWN),
        (DOWN, Evidence.BAD, DOWN, DOWN),
        (DOWN, Evidence.PROOF_UP, UP, UP),
        (DOWN, Evidence.PROOF_DOWN, DOWN, DOWN),
        (DOWN, Evidence.NOTHING, DOWN, DOWN),
    ],
)
def test_table(before: HealthState, found: Evidence, with_one: HealthState, with_three: HealthState) -> None:
    """Each cell of the printed table holds, with a threshold of one and on the first outcome of three."""
    assert evidence(OUTCOMES[found]) is found
    assert step(state(before), OUTCOMES[found], 1, 1, 9).health.state is with_one
    assert step(state(before), OUTCOMES[found], 3, 3, 9).health.state is with_three


@pytest.mark.parametrize("threshold", [1, 2, 5])
@pytest.mark.parametrize(
    ("before", "found", "after"),
    [(U, Evidence.GOOD, UP), (DOWN, Evidence.GOOD, UP), (UP, Evidence.BAD, DOWN)],
)
def test_threshold(threshold: int, before: HealthState, found: Evidence, after: HealthState) -> None:
    """A counted change happens on the N-th consecutive outcome and on none before it."""
    now = state(before)
    for count in range(1, threshold + 1):
        now = step(now, OUTCOMES[found], threshold, threshold, 100 + count)
        assert now.health.state is (after if count == threshold else before)
    assert now.health.since_ns == 100 + threshold
    assert now.run == 0


def test_rise_and_fall_are_separate() -> None:
    """Two failures take a member out where four successes are needed to bring it back."""
    now = state(UP)
    seen = []
    for found in [Evidence.BAD] * 2 + [Evidence.GOOD] * 4:
        now = step(now, OUTCOMES[found], 4, 2, 9)
        seen.append(now.health.state)
    assert seen == [UP, DOWN, DOWN, DOWN, DOWN, UP]


@pytest.mark.parametrize(
    ("before", "against", "for_it"), [(UP, Evidence.BAD, Evidence.GOOD), (DOWN, Evidence.GOOD, Evidence.BAD)]
)
def test_run_is_broken(before: HealthState, against: Evidence, for_it: Evidence) -> None:
    """One outcome for the present state makes the count begin again."""
    now = state(before)
    for found in (against, against, for_it, against, against):
        now = step(now, OUTCOMES[found], 3, 3, 9)
    assert now.health.state is before
    assert now.run == 2


def test_answer_resets_count_of_timeouts() -> None:
    """HTTP: two timeouts, a 200 and two timeouts leave a member up at threshold 3; the third takes it out."""
    now = state(UP)
    for found in (Evidence.BAD, Evidence.BAD, Evidence.PROOF_UP, Evidence.BAD, Evidence.BAD):
        now = step(now, OUTCOMES[found], 3, 3, 9)
        assert now.health.state is UP
    assert step(now, OUTCOMES[Evidence.BAD], 3, 3, 9).health.state is DOWN


def test_reasons_on_the_way() -> None:
    """Reasons tell when a member is about to change, as the cloud's health status does."""
    up = step(state(UP), OUTCOMES[Evidence.BAD], 2, 2, 9)
    assert (up.health.reason, up.health.detail) == (Reason.UP_PROBE_APPROACHING_UNHEALTHY, "silent")
    down = step(up, OUTCOMES[Evidence.BAD], 2, 2, 9)
    assert (down.health.reason, down.health.detail) == (BAD, "silent")
    rising = step(down, OUTCOMES[Evidence.GOOD], 2, 2, 9)
    assert rising.health.reason is Reason.DOWN_PROBE_APPROACHING_HEALTHY
    assert step(rising, OUTCOMES[Evidence.GOOD], 2, 2, 9).health.reason is OK


def test_initial_state() -> None:
    """A target that was never checked is unknown, for no reason, since it was added."""
    assert initial(7).health == MemberHealth(U, Reason.NA, 7, "")


def test_error_of_this_host_says_nothing() -> None:
    """A check that could not be made changes neither state, nor since, nor the count; only the detail shows it."""
    now = step(state(UP, run=1), OUTCOMES[Evidence.NOTHING], 2, 2, 9)
    assert now == TargetState(MemberHealth(UP, Reason.NA, 1, "too many open files"), 1)


def test_steady_state_is_the_same_object() -> None:
    """A member that stays as it is keeps its health value, so that snapshots stay cached."""
    now = step(state(UP), OUTCOMES[Evidence.GOOD], 1, 1, 5)
    assert step(now, OUTCOMES[Evidence.GOOD], 1, 1, 6).health is now.health


def successes_until_up(down: TargetState, at_ns: int, proof: Evidence = Evidence.GOOD) -> tuple[int, TargetState]:
    """Return how many good outcomes it takes to bring a target back, and the target then."""
    count, now = 0, down
    while now.health.state is not UP:
        now, count = step(now, OUTCOMES[proof], 1, 1, at_ns, DAMPING), count + 1
    return count, now


DAMPING = Damping(window_ns=1_000)


@pytest.mark.parametrize("proof", [Evidence.GOOD, Evidence.PROOF_UP])
def test_flapping_member_comes_back_more_slowly(proof: Evidence) -> None:
    """Three falls cost nothing, each further one doubles the successes needed, up to a limit; a 200 counts as one."""
    now, needed = state(UP), []
    for turn in range(12):
        now = step(now, OUTCOMES[Evidence.PROOF_DOWN], 1, 1, 10 * turn, DAMPING)
        assert now.health.state is DOWN
        count, now = successes_until_up(now, 10 * turn + 1, proof)
        needed.append(count)
    assert needed == [1, 1, 1, 2, 4, 8, 16, 32, 32, 32, 32, 32]


def test_flaps_are_forgotten() -> None:
    """A member that has not fallen for a window comes back as quickly as one that never did."""
    now = state(UP)
    for turn in range(6):
        now = step(now, OUTCOMES[Evidence.BAD], 1, 1, turn, DAMPING)
        _, now = successes_until_up(now, turn)
    now = step(now, OUTCOMES[Evidence.BAD], 1, 1, 2_000, DAMPING)
    assert successes_until_up(now, 2_001)[0] == 1
    assert now.falls_ns == (2_000,)


def test_without_damping_nothing_is_remembered() -> None:
    """A probe with `flap_damping: false` brings a member back at the first success, however often it fell."""
    now = state(UP)
    for turn in range(20):
        now = step(now, OUTCOMES[Evidence.BAD], 1, 1, turn)
        now = step(now, OUTCOMES[Evidence.GOOD], 1, 1, turn)
    assert now.health.state is UP
    assert now.falls_ns == ()
