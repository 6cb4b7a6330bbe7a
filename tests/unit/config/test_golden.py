"""Whole reports, as an operator sees them: each `*.yaml` in tests/golden/config beside the `.txt` that it gives.

After an intended change: python tests/unit/config/test_golden.py
"""

from pathlib import Path

import pytest

from asynclb.config import parse
from asynclb.errors import ConfigError

GOLDEN = Path(__file__).parents[2] / "golden" / "config"


def report(path: Path) -> str:
    """Return every problem, or every warning where there is no problem, one a line."""
    try:
        found = parse(path.read_bytes(), file=path.name).warnings
    except ConfigError as error:
        found = error.problems
    return "".join(f"{problem}\n" for problem in found)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_report_reads_as_before(path: Path) -> None:
    """The report of a file is, word for word, what stands beside it."""
    assert report(path) == path.with_suffix(".txt").read_text()


if __name__ == "__main__":
    for one in sorted(GOLDEN.glob("*.yaml")):
        one.with_suffix(".txt").write_text(report(one))
