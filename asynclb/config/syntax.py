"""What libyaml says of broken text, in an operator's words."""

import yaml

from asynclb.errors import Problem

_REMEDIES = (
    ("mapping values are not allowed", "put a value that contains `: ` in quotes, or check the indentation"),
    ("did not find expected ',' or ']'", "close the list with `]`, or put a comma between its values"),
    ("did not find expected ',' or '}'", "close the mapping with `}`, or put a comma between its keys"),
    ("did not find expected node content", "write a value here, and check the brackets and commas"),
    ("did not find expected key", "check the indentation: keys of one mapping start in one column"),
    ("did not find expected '-' indicator", "check the indentation: the dashes of one list stand in one column"),
    ("could not find expected ':'", "write `key: value`, with a space after the colon"),
    ("block sequence entries are not allowed", "begin the list on a line of its own"),
    ("found unexpected end of stream", "close the quote"),
    ("unknown escape character", "use single quotes, in which a backslash is a backslash"),
    ("found undefined tag handle", "put a value that begins with `!` in quotes"),
)
_OTHERWISE = "correct the YAML here; yaml.org/spec has the grammar"


def syntax_problem(error: yaml.YAMLError, text: bytes, file: str) -> Problem:
    """Return libyaml's complaint with the line it is about and a remedy."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return Problem((), "", f"this is not YAML: {error}"[:200], _OTHERWISE, file)
    mark = error.problem_mark
    lines = text.decode("utf-8-sig", "replace").splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    said = ", ".join(part for part in (error.context, error.problem) if part)
    remedy = _tab_or_character(line, mark.column) if "cannot start any token" in said else _remedy(said)
    return Problem((), line.strip()[:80], f"this is not YAML: {said}", remedy, file, mark.line + 1, mark.column + 1)


def _remedy(said: str) -> str:
    return next((remedy for words, remedy in _REMEDIES if words in said), _OTHERWISE)


def _tab_or_character(line: str, column: int) -> str:
    if "\t" in line[: column + 1]:
        return "indent with spaces, not with tabs"
    character = line[column : column + 1]
    return f"put a value that begins with `{character}` in quotes"
