"""When sources are asked again, and when answers are passed on."""

import pytest

from asynclb.discovery.schedule import LAST_RETRY_S, expires_after_s, retry_after_s, settle_after_s


def test_retries_double_up_to_a_bound() -> None:
    """The first retry comes at once, later ones twice as late each, and never later than the bound."""
    waits = [retry_after_s(failures, 0.0) for failures in (1, 2, 3, 4, 5, 6, 7, 8, 100_000)]
    assert waits == [0.5, 1, 2, 4, 8, 16, LAST_RETRY_S, LAST_RETRY_S, LAST_RETRY_S]


def test_chance_shortens_retries_by_a_tenth_at_most() -> None:
    """Instances that failed together do not ask together."""
    assert retry_after_s(3, 1.0) == pytest.approx(1.8)


@pytest.mark.parametrize(
    ("ttl_s", "wait_s"), [(0, 1.0), (0.5, 1.0), (30, 30.0), (300, 300.0), (86_400, 300.0), (2**31, 300.0)]
)
def test_answers_expire_with_their_ttl_within_the_bounds(ttl_s: float, wait_s: float) -> None:
    """A TTL of 0 does not make a flood, one of a day does not make a member immortal."""
    assert expires_after_s(ttl_s, 1.0, 300.0, 0.0) == wait_s


def test_names_are_never_looked_up_before_they_expire() -> None:
    """Chance makes the next look-up later, not earlier: the server's cache would say the same with a smaller TTL."""
    assert expires_after_s(30, 1.0, 300.0, 1.0) == pytest.approx(33.0)


def test_an_answer_waits_only_behind_another_one() -> None:
    """The first answer after a quiet second is passed on at once, the next one a second after it."""
    assert settle_after_s(None, 50.0) == 0.0
    assert settle_after_s(50.0, 50.2) == pytest.approx(0.8)
    assert settle_after_s(50.0, 90.0) == 0.0
