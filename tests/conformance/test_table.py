"""The conformance table: what a test's id says, which outcome counts, and how it is written."""

import pytest

from tests.conformance.table import ROWS, Outcome, Result, place_of, table


@pytest.mark.parametrize(
    ("nodeid", "place"),
    [
        ("tests/conformance/rows/test_rows_01_to_07.py::test_row_03_five_tuple[proxy]", (3, "proxy")),
        ("a.py::test_row_75_reconfiguration[kernel]", (75, "kernel")),
        ("a.py::test_row_75_reconfiguration[kernel-xdp]", (75, "kernel-xdp")),
        ("a.py::test_row_75_reconfiguration[other]", None),
        ("a.py::test_table[proxy]", None),
    ],
)
def test_place_of(nodeid: str, place: tuple[int, str] | None) -> None:
    """A test's id names its row and datapath, or none."""
    assert place_of(nodeid) == place


def test_the_worst_counts() -> None:
    """Of several outcomes of a row the worst is shown: a failure over what was not run, that over a pass."""
    found = None
    for result in (Result.PASS, Result.FAIL, Result.NOT_RUN, Result.NOT_APPLICABLE):
        found = Outcome(result).worse(found)
    assert found is not None
    assert found.result is Result.FAIL


def test_every_row_is_listed() -> None:
    """A row without a test is in the table, too; reasons stand once, below it."""
    why = Outcome(Result.NOT_APPLICABLE, "it has sockets only")
    text = table({(1, "proxy"): Outcome(Result.PASS), (9, "proxy"): why, (10, "proxy"): why})
    assert text.count("\n| ") == len(ROWS)
    assert "| 1 | TCP rule | pass | no test yet | no test yet |" in text
    assert "| 9 | floating IP | n/a (1) |" in text
    assert "| 10 | HA ports | n/a (1) |" in text
    assert "| 64 | Gateway Load Balancer | later | later | later |" in text
    assert text.endswith("1. it has sockets only\n")


def test_ways_to_attach_that_were_tried() -> None:
    """Each has a column of its own."""
    text = table({(1, "kernel"): Outcome(Result.PASS), (1, "kernel-xdp"): Outcome(Result.FAIL)})
    assert "| row | feature | proxy | packet | kernel | kernel-xdp |" in text
    assert "| 1 | TCP rule | no test yet | no test yet | pass | FAIL |" in text
