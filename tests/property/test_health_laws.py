"""Laws of the checks: when they start, and how any answer is read."""

from hypothesis import given
from hypothesis import strategies as st

from asynclb.health.response import NotHttpError
from asynclb.health.schedule import FIRST_WITHIN_NS, JITTER, first_start, grid_after, start_at
from tests.unit.health.test_response import feed_in_pieces
from tests.unit.health.test_schedule import S


@given(st.integers(0, 2**64 - 1), st.integers(0, 10**18), st.integers(1, 600 * S))
def test_first_check_comes_soon(place: int, now_ns: int, interval_ns: int) -> None:
    """A new target is checked within a second, or within its interval if that is shorter."""
    first_ns = first_start(place, now_ns, interval_ns)
    assert now_ns <= first_ns < now_ns + min(interval_ns, FIRST_WITHIN_NS)


@given(st.integers(0, 10**18), st.integers(1, 10**12), st.data())
def test_grid_after_is_next(now_ns: int, interval_ns: int, data: st.DataObject) -> None:
    """The next grid instant lies on the grid, after now, and not further than one interval."""
    phase_ns = data.draw(st.integers(0, interval_ns - 1))
    found_ns = grid_after(now_ns, phase_ns, interval_ns)
    assert now_ns < found_ns <= now_ns + interval_ns
    assert found_ns % interval_ns == phase_ns


@given(st.integers(10**12, 10**15), st.floats(0, 1, exclude_max=True))
def test_jitter_is_bounded(grid_ns: int, chance: float) -> None:
    """A start is within 5 % of the interval of its grid instant."""
    start_ns = start_at(grid_ns, 0, 5 * S, chance)
    assert abs(start_ns - grid_ns) <= JITTER * 5 * S


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_octets(tail: bytes, size: int) -> None:
    """Whatever follows a plausible start, the reader answers with a status, None or NotHttpError."""
    for data in (tail, b"HTTP/1.1 " + tail):
        try:
            status = feed_in_pieces(data, size)
        except NotHttpError:
            continue
        assert status is None or 200 <= status <= 999
