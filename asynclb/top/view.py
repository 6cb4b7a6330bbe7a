"""What the screen shows: lines that fit the terminal. Pure."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from asynclb.admin.tables_text import duration, size
from asynclb.admin.verdict import judge
from asynclb.top.keys import Ui
from asynclb.top.model import COLUMNS, Column, Document, Look, Rates, Row, Style, View, rows_of

__all__ = ["Line", "Picture", "View", "draw"]

HEAD_LINES = 4  # what is wrong, totals, views, heads of columns
_MOST_FIRST = 3  # lines of what is wrong, where the screen has as many as a terminal has at least
_TALL = 20
FOOT_LINES = 1
_GAP = "  "


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the screen and how it looks: a style of rows, or `bar`, `head`, `tab`, `good`, `chosen`."""

    text: str
    look: str = "plain"


@dataclass(frozen=True, slots=True)
class Picture:
    """A screen, and how many rows there are to move among."""

    lines: tuple[Line, ...]
    rows: int


def page_of(height: int) -> int:
    """Return how many rows fit."""
    return max(1, height - HEAD_LINES - FOOT_LINES)


def draw(look: Look | None, found: Rates, ui: Ui, width: int, height: int, trouble: str = "") -> Picture:
    """Return the screen. `trouble` is why nothing new can be shown."""
    if look is None:
        first = Line(trouble or "asking ...", "bad" if trouble else "plain")
        return Picture(_fit([first, *[Line("")] * (height - 2), _foot(ui)], width, height), 0)
    if ui.help:
        return Picture(_fit([*map(Line, HELP), *[Line("")] * height], width, height), 0)
    head = [*_head(look, found, ui, trouble, width, height)]
    rows = _arranged(rows_of(ui.view, look, found), ui)
    page = max(1, page_of(height) - len(head) + HEAD_LINES - 1)
    place = min(ui.place, max(0, len(rows) - 1))
    start = min(max(0, place - page // 2), max(0, len(rows) - page))
    table = list(_table(COLUMNS[ui.view], rows[start : start + page], place - start, ui, width))
    table += [Line("")] * (1 + page - len(table))
    return Picture(_fit([*head, *table, _foot(ui)], width, height), len(rows))


def _fit(lines: Sequence[Line], width: int, height: int) -> tuple[Line, ...]:
    return tuple(Line(line.text[:width], line.look) for line in lines[:height])


def _head(look: Look, found: Rates, ui: Ui, trouble: str, width: int, height: int) -> Iterator[Line]:
    verdict = judge(look.situation(found))
    most = _MOST_FIRST if height >= _TALL else 1
    style = "good" if verdict.state == "ok" and not trouble else "bad"
    more = 0 if trouble else len(verdict.wrong) - 1
    yield from (Line(text, style) for text in _first(trouble or verdict.line, more, width, most))
    yield Line(_totals(look, found, ui))
    tabs = " ".join(
        f"[{number} {view.upper()}]" if view is ui.view else f" {number} {view} " for number, view in enumerate(View, 1)
    )
    yield Line(tabs, "tab")


def _first(text: str, more: int, width: int, most: int) -> list[str]:
    """Return what is wrong in lines that fit, at most so many, with how much else is wrong."""
    rest = f" (and {more} more)" if more > 0 else ""
    whole = textwrap.wrap(f"{text}{rest}", width, break_on_hyphens=False)
    if len(whole) <= most:
        return whole
    lines = textwrap.wrap(text, width, break_on_hyphens=False)
    last = " ".join(lines[most - 1 :])
    return [*lines[: most - 1], f"{_cut(last, max(1, width - len(rest)))}{rest}"]


def _totals(look: Look, found: Rates, ui: Ui) -> str:
    total, drops = found.total, sum(found.drops.values())
    flows = sum(path["flows"] for path in look.counters["datapaths"])
    parts = [
        f"up {duration(look.state['uptime_s'])}",
        f"generation {look.state['generation']}",
        f"flows {flows:,}",
        f"new {total.new_flows:,.0f}/s",
        f"in {size(total.bits_in)}b/s",
        f"out {size(total.bits_out)}b/s",
        f"drops {drops:,.0f}/s",
    ]
    return f"{'PAUSED  ' if ui.paused else ''}{_GAP.join(parts)}"


def _arranged(rows: list[Row], ui: Ui) -> list[Row]:
    """Return the rows that pass the filter, in the order that was asked for; what is bad first if none was."""
    wanted = ui.filter.lower()
    kept = [row for row in rows if wanted in " ".join(row.cells).lower()]
    if ui.sort is None:
        if ui.view in (View.CLIENTS, View.DROPS, View.OUTBOUND):
            return (
                sorted(kept, key=lambda row: -row.order[1]) if ui.down else sorted(kept, key=lambda row: row.order[1])
            )
        rank = {Style.BAD: 0, Style.WARN: 1, Style.PLAIN: 2}
        return sorted(kept, key=lambda row: rank[row.style], reverse=not ui.down)
    column = ui.sort
    number = COLUMNS[ui.view][column].right
    return sorted(kept, key=lambda row: row.order[column], reverse=ui.down == number)


def _table(columns: Sequence[Column], rows: Sequence[Row], chosen: int, ui: Ui, width: int) -> Iterator[Line]:
    widths = _widths(columns, rows, width)
    heads = tuple(_headed(column, index, ui) for index, column in enumerate(columns))
    yield Line(_joined(heads, columns, widths), "head")
    for index, row in enumerate(rows):
        yield Line(_joined(row.cells, columns, widths), "chosen" if index == chosen else row.style.value)
    if not rows:
        nothing = f"no {ui.view} with {ui.filter!r}" if ui.filter else _EMPTY[ui.view]
        yield Line(nothing)


_EMPTY = {
    View.RULES: "no rules are configured",
    View.MEMBERS: "no pool has a member",
    View.CLIENTS: "no flow is open",
    View.DROPS: "nothing was dropped since the process started",
    View.OUTBOUND: "no outbound rule translates what members open themselves",
}


def _headed(column: Column, index: int, ui: Ui) -> str:
    return f"{column.head}{'v' if ui.down == column.right else '^'}" if index == ui.sort else column.head


def _widths(columns: Sequence[Column], rows: Sequence[Row], width: int) -> dict[int, int]:
    """Return the columns that fit, with their widths; the first one gives way before another one is left out."""
    wanted = {
        index: max([len(column.head) + 1, *(len(row.cells[index]) for row in rows)])
        for index, column in enumerate(columns)
    }
    whole, first = dict(wanted), min(wanted[0], 16)

    def lacking() -> int:
        """Return how many characters are missing for the first column."""
        return first + sum(wanted[index] + len(_GAP) for index in wanted if index) - width

    order = sorted(range(1, len(columns)), key=lambda index: columns[index].keep)
    for index in order:
        if not columns[index].right:
            wanted[index] -= max(0, min(lacking(), wanted[index] - columns[index].least))
    for index in order:
        if lacking() > 0:
            del wanted[index]
    for index in reversed(order):
        if index in wanted and not columns[index].right:
            wanted[index] = min(whole[index], wanted[index] - lacking())  # what those that were left out have freed
    wanted[0] = min(whole[0], max(1, first - lacking()))
    return wanted


def _joined(cells: Sequence[str], columns: Sequence[Column], widths: dict[int, int]) -> str:
    parts = (
        _cut(cells[index], width).rjust(width) if columns[index].right else _cut(cells[index], width).ljust(width)
        for index, width in sorted(widths.items())
    )
    return _GAP.join(parts).rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}~"


def _foot(ui: Ui) -> Line:
    if ui.typing:
        return Line(f"filter: {ui.filter}_   Enter keep  Esc clear", "bar")
    shown = f"   filter: {ui.filter}" if ui.filter else ""
    return Line(f"F1 help  Tab view  F4 filter  < > sort  I invert  space pause  F10 quit{shown}", "bar")


HELP = (
    "asynclb top",
    "",
    "  1 2 3 4 5, Tab      rules, members, clients, drops, outbound",
    "  arrows, PgUp, PgDn  move; Home and End, or g and G, to the ends",
    "  < >, F6             sort by the next column to the left or right",
    "  I                   sort the other way round",
    "  F4, / or \\          filter: type, Enter keeps it, Esc clears it",
    "  Esc                 no filter, and the order of the file, what is wrong first",
    "  space               pause and go on",
    "  F10, q, Ctrl-C      quit",
    "",
    "  UP       members that take new flows, of all in the pool",
    "  FOR      how long a member has been down; WHY its probe says so, or who took it out",
    "  SHARE    of the new flows of the pool's first table",
    "  b/s      bits in a second, of payload as the datapath sees it",
    "  USED     of a member's SNAT ports, by the protocol that uses more; FREE ones nobody uses",
    "  FAILED   connections of members that found no SNAT port, since the start",
    "",
    "  any key goes back",
)


def as_document(look: Look, found: Rates, view: View) -> dict[str, Any]:
    """Return one screen for programs."""
    names = [column.head for column in COLUMNS[view]]
    rows: list[Document] = [dict(zip(names, row.order, strict=True)) for row in rows_of(view, look, found)]
    return {"wrong": list(judge(look.situation(found)).wrong), view.value: rows}
