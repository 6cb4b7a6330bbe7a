"""What becomes of rows while pytest runs them. Where it listens, rows run in more ways than in a suite."""

import pytest

from tests.conformance.table import NOT_APPLICABLE, Outcome, Result, place_of


class Collector:
    """Collects outcomes by row and datapath. Owner: one run of pytest."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[int, str], Outcome] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of one phase of a test."""
        place = place_of(report.nodeid)
        if place is None or (report.when != "call" and report.passed):
            return
        self.outcomes[place] = _outcome(report).worse(self.outcomes.get(place))


def _outcome(report: pytest.TestReport) -> Outcome:
    if report.passed:
        return Outcome(Result.PASS)
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return Outcome(Result.FAIL)
    reason = str(report.longrepr[2]).removeprefix("Skipped: ")
    if reason.startswith(NOT_APPLICABLE):
        return Outcome(Result.NOT_APPLICABLE, reason.removeprefix(NOT_APPLICABLE))
    return Outcome(Result.NOT_RUN, reason)
