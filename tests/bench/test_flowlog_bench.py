"""What the flow log's bench makes of its windows: a difference of 1 % is seen through noise of 5 %."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the benchmark is a set of scripts, not a package

from flowlog_bench import Middle, Window, figures


def windows(cost: float, noise: float, count: int) -> list[tuple[Window, Window]]:
    """Return pairs of windows in which the log costs so much, on a machine that is so unsteady."""
    dice = random.Random(9180)
    found = []
    for _ in range(count):
        pace = dice.uniform(0.5, 1.5)  # of the machine during this pair
        spent = [1e-4 * pace * dice.gauss(1.0, noise) * 1_000 for _ in range(2)]
        found.append((Window(1_000, 0.75, spent[0]), Window(1_000, 0.75, spent[1] * (1 + cost))))
    return found


@pytest.mark.parametrize("cost", [0.0, 0.01, 0.03])
def test_the_interval_has_what_it_costs(cost: float) -> None:
    """The log's share is within the interval that is printed, which is narrow enough to tell 3 % from nothing."""
    found = Middle.of(
        [(on.cpu_s / on.connections) / (off.cpu_s / off.connections) for off, on in windows(cost, 0.03, 120)]
    )
    assert found.low <= 100 * cost <= found.high
    assert found.high - found.low < 2.5


def test_a_few_pairs_have_their_extremes_as_interval() -> None:
    """Two pairs say nothing about the median but that it may lie anywhere between them."""
    assert Middle.of([1.02, 0.98]) == Middle(pytest.approx(0.0), pytest.approx(-2.0), pytest.approx(2.0))


def test_the_lines_of_the_table() -> None:
    """Both lines say how many pairs there were, at which rate, and between what the truth lies; both have the limit."""
    cost, speed = figures(windows(0.03, noise=0.001, count=12), 16)
    assert cost.what.startswith("flow log, one flow of 16 told, 12 pairs: processor time")
    assert cost.value == pytest.approx(3.0, abs=0.3)
    assert not cost.reached
    assert (speed.value, speed.reached) == (0.0, True)
