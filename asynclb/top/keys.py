"""From the bytes of a terminal to keys, and from keys to what is shown. Pure.

Source: ECMA-48 and xterm's control sequences, as terminals that set TERM to xterm, screen, tmux, linux or vt220 send.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from asynclb.top.model import COLUMNS, View

ESCAPE = "\x1b"
_SEQUENCES = {
    "[A": "up",
    "[B": "down",
    "OA": "up",
    "OB": "down",
    "[C": "right",
    "[D": "left",
    "OC": "right",
    "OD": "left",
    "[5~": "page up",
    "[6~": "page down",
    "[H": "home",
    "[F": "end",
    "OH": "home",
    "OF": "end",
    "[1~": "home",
    "[4~": "end",
    "OP": "help",
    "[11~": "help",
    "[[A": "help",
    "OS": "filter",
    "[14~": "filter",
    "[[D": "filter",
    "[17~": "sort",
    "[21~": "quit",
    "[Z": "back",
}
_LONGEST = max(map(len, _SEQUENCES))
_LETTERS = {
    "q": "quit",
    "\x03": "quit",
    "/": "filter",
    "\\": "filter",
    "?": "help",
    "h": "help",
    "\t": "next",
    "<": "left",
    ">": "right",
    ",": "left",
    ".": "right",
    "I": "invert",
    "i": "invert",
    "j": "down",
    "k": "up",
    "g": "home",
    "G": "end",
    " ": "pause",
}


def read_keys(text: str) -> Iterator[str]:
    """Yield keys: names for those with a meaning everywhere, `escape`, `enter`, `erase`, and characters as they are."""
    while text:
        if text[0] == ESCAPE:
            name, text = _sequence(text[1:])
            yield name
        else:
            yield {"\r": "enter", "\n": "enter", "\x7f": "erase", "\b": "erase"}.get(text[0], text[0])
            text = text[1:]


def _sequence(rest: str) -> tuple[str, str]:
    for length in range(_LONGEST, 1, -1):
        if rest[:length] in _SEQUENCES:
            return _SEQUENCES[rest[:length]], rest[length:]
    if rest[:1] == "[":  # one that is not known: skip it whole
        end = next((index for index, letter in enumerate(rest[1:], 1) if "@" <= letter <= "~"), len(rest) - 1)
        return "unknown", rest[end + 1 :]
    return "escape", rest


@dataclass(frozen=True, slots=True)
class Ui:
    """What the user has chosen. `sort` is a column of the view; None is the order of the configuration."""

    view: View = View.RULES
    place: int = 0
    sort: int | None = None
    down: bool = True
    filter: str = ""
    typing: bool = False
    paused: bool = False
    help: bool = False
    quit: bool = False
    places: dict[View, int] = field(default_factory=dict)


def press(ui: Ui, key: str, page: int, rows: int) -> Ui:
    """Return what a key makes of it. `page`: rows on a screen; `rows`: rows that there are."""
    if key in ("\x03", "quit"):
        return replace(ui, quit=True)
    if ui.typing:
        return _type(ui, key)
    key = _LETTERS.get(key, key)
    if ui.help:
        return replace(ui, help=False, quit=key == "quit")
    last = max(0, rows - 1)
    moves = {"up": -1, "down": 1, "page up": -page, "page down": page, "home": -rows, "end": rows}
    if key in moves:
        return replace(ui, place=min(max(0, min(ui.place, last) + moves[key]), last))
    views = list(View)
    if key in ("next", "back"):
        step = 1 if key == "next" else -1
        return _turn(ui, views[(views.index(ui.view) + step) % len(views)])
    if key.isdecimal() and 0 < int(key) <= len(views):
        return _turn(ui, views[int(key) - 1])
    return _choose(ui, key)


def _choose(ui: Ui, key: str) -> Ui:
    columns = len(COLUMNS[ui.view])
    match key:
        case "left" | "right" | "sort":
            step = -1 if key == "left" else 1
            now = ui.sort if ui.sort is not None else (-1 if step > 0 else 0)
            return replace(ui, sort=(now + step) % columns, place=0)
        case "invert":
            return replace(ui, down=not ui.down, place=0)
        case "filter":
            return replace(ui, typing=True)
        case "escape":
            return replace(ui, filter="", sort=None, place=0)
        case "pause":
            return replace(ui, paused=not ui.paused)
        case "help":
            return replace(ui, help=True)
        case "quit":
            return replace(ui, quit=True)
        case _:
            return ui


def _turn(ui: Ui, view: View) -> Ui:
    return replace(ui, view=view, place=0, sort=None, down=True) if view is not ui.view else ui


def _type(ui: Ui, key: str) -> Ui:
    match key:
        case "enter":
            return replace(ui, typing=False)
        case "escape":
            return replace(ui, typing=False, filter="", place=0)
        case "erase":
            return replace(ui, filter=ui.filter[:-1], place=0)
        case _ if len(key) == 1 and key.isprintable():
            return replace(ui, filter=ui.filter + key, place=0)
        case _:
            return ui
