"""The tables of the benchmark, from made-up samples: ratios, verdicts, failures, and their place in the README."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the benchmark is a set of scripts, not a package

import report
import run
from loads import Memory, Sample
from peers import ASYNCLB, DIRECT, HAPROXY, NGINX
from proxy_bench import FULL, SPLICED, Results

from asynclb.errors import HostError


def samples(*values: float, cpu_s: float = 1.0, failed: int = 0) -> list[Sample]:
    """Return one sample for each round, of 100,000 requests or 100,000 GB."""
    return [Sample(value, 1e5, cpu_s, failed) for value in values]


def rendered(results: Results) -> str:
    """Return the tables of these results alone."""
    return report.render(results, [], FULL, "a machine")


def line(text: str, start: str) -> list[str]:
    """Return the cells of the first table row that begins so."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def requests(asynclb: list[Sample], haproxy: list[Sample]) -> Results:
    """Return results of the first measure."""
    others = {("requests", DIRECT): samples(100, 100, 100), ("requests", NGINX): samples(50, 50, 50)}
    return Results({("requests", ASYNCLB): asynclb, ("requests", HAPROXY): haproxy, **others})


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """A round in which the machine was slow for both counts like the others."""
    cells = line(rendered(requests(samples(90, 45, 88), samples(100, 50, 80))), "requests")
    assert cells[2:] == ["100", "88.0", "80.0", "50.0", "**0.90** (0.90 to 1.10) x HAProxy", "at least 0.9", "yes"]


def test_a_target_that_is_missed_is_said_so() -> None:
    """Nothing is rounded in favour of asynclb."""
    assert line(rendered(requests(samples(89, 89, 89), samples(100, 100, 100))), "requests")[-1] == "no"


def test_requests_without_an_answer_are_counted_by_subject() -> None:
    """A rate alone would hide them."""
    text = rendered(requests(samples(90, 90, 90, failed=2), samples(100, 100, 100)))
    assert "too late): requests, asynclb: 6 of 300,006." in text


def test_the_better_of_haproxys_two_ways_is_the_rival() -> None:
    """The comparison is with the faster one, and both are told."""
    columns = {ASYNCLB: samples(12, 12), HAPROXY: samples(5, 5), SPLICED: samples(6, 6), NGINX: samples(4, 4)}
    results = Results({("upload", name): values for name, values in {**columns, DIRECT: samples(20, 20)}.items()})
    text = rendered(results)
    assert line(text, "bulk TCP")[6] == "**2.00** (2.00 to 2.00) x HAProxy"
    assert "upload 5.00 without and 6.00 with `option splice-auto`" in text


def test_memory_is_judged_by_the_worse_figure() -> None:
    """Spare heap that the first connections fill does not count in asynclb's favour."""
    results = Results(memory={ASYNCLB: Memory(50_000, 8.0, 13.0)}, idle_connections=5000)
    assert line(rendered(results), "asynclb") == ["asynclb", "48.8", "8.0", "13.0", "at most 12", "no"]


def test_the_readme_keeps_all_but_what_is_between_its_marks() -> None:
    """The tables replace the old ones."""
    readme = f"before\n{run.BEGIN}\nold\n{run.END}\nafter\n"
    assert run.placed(readme, "new\n") == f"before\n{run.BEGIN}\nnew\n{run.END}\nafter\n"


def test_tables_that_were_not_measured_stay() -> None:
    """A run of some measures renews their tables, where they stand, and leaves the others."""
    old, new = "machine\n\n### A\n\n1\n\n### B\n\n1\n", "machine 2\n\n### C\n\n2\n\n### A\n\n2\n"
    found = run.placed(f"{run.BEGIN}\n{old}{run.END}\n", new)
    assert found == f"{run.BEGIN}\nmachine 2\n\n### A\n\n2\n\n### B\n\n1\n\n### C\n\n2\n{run.END}\n"


def test_a_readme_without_marks_is_refused() -> None:
    """The message says what to put in."""
    with pytest.raises(HostError, match="bench:begin"):
        run.placed("no marks", "new")
