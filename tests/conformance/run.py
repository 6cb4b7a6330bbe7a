"""Runs the rows and writes the table of what each datapath does: `make conformance`.

Run: python -m tests.conformance.run [words for pytest]
"""

import sys
from pathlib import Path

import pytest

from tests.conformance.table import NOT_APPLICABLE, Outcome, Result, place_of, table

HERE = Path(__file__).parent
HEAD = """# What each datapath does, row by row

Made by `make conformance` from one run of `tests/conformance/rows`: every row loads a configuration into a running
asynclb and sends packets between hosts of a lab. n/a: the datapath cannot carry it, for the reason given below.

"""


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


def main(words: list[str]) -> int:
    """Run, print and write the table; a run of selected rows only prints it."""
    collector = Collector()
    code = pytest.main([str(HERE / "rows"), "-q", "--no-header", "-r", "fE", *words], plugins=[collector])
    found = table(collector.outcomes)
    print(f"\n{found}")
    if not words:
        (HERE / "TABLE.md").write_text(HEAD + found)
        print(f"written to {(HERE / 'TABLE.md').relative_to(HERE.parents[1])}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
