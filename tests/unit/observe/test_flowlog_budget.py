"""The flow log's budget: coarser at once, finer when it is calm, debts, and how often it is told."""

from asynclb.observe.flowlog_budget import SHARE, Budget, Reading


class Clock:
    """Lets seconds pass in which the process works and the log spends. Owner: one test."""

    def __init__(self, finest: int = 1) -> None:
        self.at = Reading(1_000.0, 50.0, 0.0)
        self.budget = Budget(finest, self.at)

    def second(self, shares: float, busy_s: float = 1.0) -> int:
        """Pass one in which so many times the share of a second is spent, and return the rate after it."""
        self.at = Reading(self.at.now_s + 1.0, self.at.process_s + busy_s, self.at.spent_s + shares * SHARE)
        self.budget.look(self.at)
        return self.budget.sample


def test_it_becomes_as_much_coarser_as_is_wanted() -> None:
    """Twice the share halves the flows, a hundred times takes 128; exactly the share is allowed."""
    assert Clock().second(1) == 1
    assert Clock().second(1.1) == 2
    assert Clock().second(2) == 2
    assert Clock().second(2.1) == 4
    assert Clock().second(100) == 128
    assert Clock(finest=10).second(3) == 40


def test_it_becomes_finer_after_three_calm_seconds_and_never_finer_than_asked_for() -> None:
    """Less than half of the share for three seconds in a row, and a step is taken back."""
    clock = Clock(finest=5)
    assert clock.second(2) == 10
    assert [clock.second(0.1) for _ in range(6)] == [10, 10, 10, 5, 5, 5]  # a share is owed at first
    assert [clock.second(0) for _ in range(9)] == [5] * 9


def test_more_than_half_of_the_share_keeps_it_as_it_is() -> None:
    """Between half and whole nothing changes, so it does not swing between two rates."""
    clock = Clock()
    clock.second(2)
    assert [clock.second(0.6) for _ in range(60)] == [2] * 60


def test_a_process_with_little_to_do_is_measured_by_half_of_the_time() -> None:
    """A process that works for 0.1 s a second has half a share for the log, one that is always busy a whole one."""
    assert Clock().second(0.5, busy_s=0.1) == 1
    assert Clock().second(0.6, busy_s=0.1) == 2
    assert Clock().second(0.6, busy_s=0.7) == 1
    assert Clock().second(3, busy_s=2.0) == 2  # several workers


def test_bursts_with_rests_take_no_more_than_the_share() -> None:
    """However flows come, what is spent in ten minutes is the share of them, besides the first burst."""
    clock, spent = Clock(), 0.0
    for number in range(600):
        wanted = 50 if number % 5 == 0 else 0
        spent += wanted / clock.budget.sample
        clock.second(wanted / clock.budget.sample)
    assert spent < 50 + 600


def test_a_load_without_end_is_held_at_the_share() -> None:
    """A steady load of 20 shares is written at one of 32, at once, and stays there."""
    clock = Clock()
    rates = [clock.second(20 / clock.budget.sample) for _ in range(100)]
    assert rates == [32] * 100


def test_it_is_told_once_in_ten_seconds_at_most() -> None:
    """The first change is told at once, later ones after ten seconds, and what went back meanwhile never."""
    clock = Clock()
    clock.second(2)
    assert clock.budget.news(clock.at.now_s) == 2
    clock.second(2)
    assert clock.budget.news(clock.at.now_s) is None
    while clock.at.now_s < 1_010.0:
        clock.second(0.9)
        assert clock.budget.news(clock.at.now_s) is None
    clock.second(0.9)
    assert clock.budget.news(clock.at.now_s) == 4
    assert clock.budget.news(clock.at.now_s + 60) is None


def test_less_than_a_second_is_no_measure() -> None:
    """A look after a quarter of a second changes nothing, and is not forgotten."""
    start = Reading(0.0, 0.0, 0.0)
    budget = Budget(1, start)
    assert not budget.look(Reading(0.25, 0.25, 50 * SHARE))
    assert budget.look(Reading(1.0, 1.0, 50 * SHARE))
    assert budget.sample == 64
