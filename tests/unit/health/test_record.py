"""What is kept of checks that are over."""

from asynclb.health.outcome import OutcomeKind
from asynclb.health.record import DURATION_BOUNDS_S, HISTORY, KINDS, Histogram, Record


def test_counts_and_history() -> None:
    """25 checks are all counted, and the last 20 remembered, the oldest first."""
    record = Record()
    kinds = [OutcomeKind.SUCCESS, OutcomeKind.TIMEOUT, OutcomeKind.FAILURE, OutcomeKind.SUCCESS, OutcomeKind.ERROR]
    for i in range(25):
        record.add(i, i / 4, kinds[i % 5])
    assert dict(zip(KINDS, record.counts, strict=True)) == {
        OutcomeKind.SUCCESS: 10,
        OutcomeKind.FAILURE: 5,
        OutcomeKind.TIMEOUT: 5,
        OutcomeKind.ERROR: 5,
    }
    history = record.history()
    assert [check.started_ns for check in history] == list(range(25 - HISTORY, 25))
    assert history[-1].duration_s == 6.0
    assert history[-1].kind is OutcomeKind.ERROR


def test_history_before_it_is_full() -> None:
    """A target with one check remembers one."""
    record = Record()
    assert record.history() == ()
    record.add(5, 0.5, OutcomeKind.SUCCESS)
    assert [(check.started_ns, check.kind) for check in record.history()] == [(5, OutcomeKind.SUCCESS)]


def test_histogram_bounds_are_inclusive() -> None:
    """A duration equal to a bound is in that bound's bucket, one above all of them in the last."""
    histogram = Histogram()
    for duration_s in (0.0005, 0.00051, 99.0):
        histogram.add(duration_s)
    assert list(histogram.counts) == [1, 1, *([0] * (len(DURATION_BOUNDS_S) - 2)), 1]
    assert histogram.sum_s == 0.0005 + 0.00051 + 99.0
