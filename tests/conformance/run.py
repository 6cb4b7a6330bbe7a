"""Runs the rows and writes the table of what each datapath does: `make conformance`.

Run: python -m tests.conformance.run [words for pytest]
"""

import sys
from pathlib import Path

import pytest

from tests.conformance.collector import Collector
from tests.conformance.table import table

HERE = Path(__file__).parent
HEAD = """# What each datapath does, row by row

Made by `make conformance` from one run of `tests/conformance/rows`: every row loads a configuration into a running
asynclb and sends packets between hosts of a lab. n/a: the datapath cannot carry it, for the reason given below. On the
lab's interfaces the kernel's programs attach by tc; `kernel-xdp` has `attach: xdp`.

"""


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
