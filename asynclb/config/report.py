"""Collects what is wrong with a configuration, each problem with its place in the file.

A report stops listening after `MAX_PROBLEMS`: nobody reads more, and hostile input must not make the refusal slow.
"""

from collections.abc import Collection

from asynclb.config.source import SourceMap
from asynclb.config.values import suggest
from asynclb.errors import Path, Problem

MAX_PROBLEMS = 1000
MAX_COMPARISONS = 20_000  # of names, for suggestions; about 10 us each
_MAX_VALUE = 80  # characters of a value that are shown


class Report:
    """Problems and warnings found so far. Owner: one call of `parse`."""

    def __init__(self, source: SourceMap) -> None:
        self.source = source
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []
        self._comparisons = 0

    @property
    def full(self) -> bool:
        """Whether further problems would be dropped."""
        return len(self._problems) >= MAX_PROBLEMS

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems so far, in the order of the file."""
        return _in_order(self._problems)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The warnings so far, in the order of the file."""
        return _in_order(self._warnings)

    def suggest(self, word: str, known: Collection[str]) -> str:
        """Return the known word that is probably meant, or '' where none is close or enough has been compared."""
        self._comparisons += len(known)
        return suggest(word, known) if self._comparisons <= MAX_COMPARISONS else ""

    def add(self, problem: Problem) -> None:
        """Add a problem that already knows its place."""
        if not self.full:
            self._problems.append(problem)

    def problem(
        self, path: Path, value: object, rule: str, remedy: str, *, code: str = "", at_key: bool = False
    ) -> None:
        """Add something that refuses the configuration."""
        if not self.full:
            found = Problem(path, show(value), rule, remedy, code=code)
            self._problems.append(self.source.locate(found, at_key=at_key))

    def warning(self, path: Path, value: object, rule: str, remedy: str) -> None:
        """Add something that works but is probably not what was meant."""
        if len(self._warnings) < MAX_PROBLEMS:
            self._warnings.append(self.source.locate(Problem(path, show(value), rule, remedy)))


def _in_order(problems: list[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: (problem.line, problem.column)))


def show(value: object) -> str:
    """Return a value as the configuration spells it, or '' for a mapping or a list, which its place shows better."""
    if isinstance(value, dict | list):
        return ""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = str(value)
    return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 3]}..."
