"""Screens of `asynclb top`: any view fits any terminal, whatever is typed."""

from hypothesis import given
from hypothesis import strategies as st

from asynclb.top.keys import Ui, press, read_keys
from asynclb.top.model import COLUMNS, View
from tests.unit.top.test_model import texts


@given(
    view=st.sampled_from(View),
    sort=st.none() | st.integers(0, 4),
    width=st.integers(40, 250),
    height=st.integers(8, 60),
    down=st.booleans(),
)
def test_a_screen_fits_every_terminal(view: View, sort: int | None, width: int, height: int, down: bool) -> None:
    """Every view in every order has as many lines as there are, none too wide, and the first column always.

    Its head is below the verdict, which has a line or, where it is long, up to three, and the names of the views.
    """
    lines = texts(Ui(view=view, sort=sort, down=down), width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert any(line.startswith(COLUMNS[view][0].head) for line in lines[3:6])


@given(st.text(alphabet="qhjkgG<>,.Iif/\\? \t\x1b[ABCDOPS0123456789~\r\x7fxyz", max_size=60))
def test_any_keys_are_survived(text: str) -> None:
    """Whatever is typed, the screen can be drawn."""
    ui = Ui()
    for key in read_keys(text):
        ui = press(ui, key, 19, 2)
        assert len(texts(ui)) == 24
