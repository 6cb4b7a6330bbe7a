"""What the demo shows: one line a second, events between them, a summary at the end. Fits 80 columns.

Lines are only ever appended, so a terminal, a pipe and a CI log show the same. Colour is used on a terminal unless
NO_COLOR is set (https://no-color.org).
"""

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from asynclb.lab.verify import Check

_COLORS = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1"}
_BAR = 8
_WIDTH = 80


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member in one line: its health, and its share of the new connections of the last second."""

    state: str
    share: float


class Screen:
    """Writes the demo's lines. Owner: the demo."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._color = out.isatty() and not os.environ.get("NO_COLOR")

    def title(self, text: str) -> None:
        """Write a headline."""
        self._line(self._paint("bold", text))

    def note(self, text: str) -> None:
        """Write an indented paragraph."""
        for line in textwrap.wrap(text, _WIDTH - 2):
            self._line(f"  {line}")

    def blank(self) -> None:
        """Write an empty line."""
        self._line("")

    def header(self, weights: Mapping[str, int]) -> None:
        """Write the head of the columns: each member with its weight."""
        columns = "".join(f"  {f'{member} weight {weight}':<18}" for member, weight in weights.items())
        self._line(self._paint("bold", f"{'time':>6} {'requests':>10}{columns}".rstrip()))

    def row(self, at_s: float, requests_per_s: float, members: Sequence[MemberView]) -> None:
        """Write one second: requests/s, and for each member its health and share of new connections."""
        columns = "".join(f"  {self._state(view.state)} {view.share:>4.0%} {_bar(view.share)}" for view in members)
        self._line(f"{at_s:>4.0f} s {requests_per_s:>8,.0f}/s{columns}".rstrip())

    def event(self, at_s: float, text: str) -> None:
        """Write what has just happened."""
        self._line(self._paint("cyan", f"{at_s:>6.1f} s  > {text}"))

    def summary(self, checks: Sequence[Check]) -> None:
        """Write every claim with its verdict and figures."""
        for check in checks:
            verdict = self._paint("green", "ok  ") if check.holds else self._paint("red", "FAIL")
            self._line(f"  {verdict}  {check.claim}")
            for line in textwrap.wrap(check.found, _WIDTH - 8):
                self._line(f"        {line}")

    def verdict(self, text: str, *, good: bool) -> None:
        """Write the last line."""
        self._line(self._paint("green" if good else "red", text))

    def _state(self, state: str) -> str:
        color = {"up": "green", "down": "red"}.get(state, "yellow")
        return self._paint(color, f"{state[:4]:<4}")

    def _paint(self, color: str, text: str) -> str:
        return f"\x1b[{_COLORS[color]}m{text}\x1b[0m" if self._color else text

    def _line(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()


def _bar(share: float) -> str:
    return f"{'#' * round(share * _BAR):<{_BAR}}"
