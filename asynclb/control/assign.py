"""Which datapath carries which rule.

`auto` is the first datapath in the order of preference that does not refuse the rule; a datapath that is named
is that one or nothing. Every refusal becomes a problem with its reason and its remedy.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from asynclb.datapath.base import Refusal
from asynclb.errors import Path, Problem
from asynclb.model import DatapathName, Model
from asynclb.rules import path_of
from asynclb.tables.row import FrontendKey, Row
from asynclb.tables.tables import Tables

NOT_EXECUTABLE = "NO_DATAPATH"
"""The problem code of a rule that no datapath can carry."""


Judge = Callable[[Row], Refusal | None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A datapath that can be asked whether it carries a row. `refusal` does no I/O; any thread may call it."""

    name: str
    refusal: Callable[[Row], Refusal | None]
    clashes: Callable[[], Judge] | None = None
    """Makes a judge for one assignment, which is shown the rows that the datapath would carry, one after the other."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The datapath that carries a rule, and why this one."""

    datapath: str
    why: str


Choices = Mapping[FrontendKey, Choice]


def assign(model: Model, rows: Iterable[Row], candidates: Sequence[Candidate]) -> tuple[Choices, tuple[Problem, ...]]:
    """Choose a datapath for each row, or say why none can carry it.

    Order: `candidates` from the most to the least preferred.
    """
    choices: dict[FrontendKey, Choice] = {}
    problems = []
    judges = {candidate.name: candidate.clashes() for candidate in candidates if candidate.clashes is not None}
    for row in rows:
        wanted = row.rule.datapath or model.datapath
        found = _choose(row, str(wanted), candidates, judges)
        if isinstance(found, Choice):
            choices[row.key] = found
        else:
            problems.append(_problem(row, path_of(model, row.rule.name), found))
    return choices, tuple(problems)


def _choose(
    row: Row, wanted: str, candidates: Sequence[Candidate], judges: Mapping[str, Judge]
) -> Choice | list[tuple[str, Refusal]]:
    auto = wanted == DatapathName.AUTO
    refusals: list[tuple[str, Refusal]] = []
    for candidate in candidates:
        if not auto and candidate.name != wanted:
            continue
        refusal = candidate.refusal(row)
        if refusal is None and candidate.name in judges:
            refusal = judges[candidate.name](row)
        if refusal is None:
            return Choice(candidate.name, _why(auto, refusals))
        refusals.append((candidate.name, refusal))
    return refusals


def _why(auto: bool, passed_over: Iterable[tuple[str, Refusal]]) -> str:
    if not auto:
        return "named in the configuration"
    others = "; ".join(f"not {name}: {refusal.why}" for name, refusal in passed_over)
    return f"auto; {others}" if others else "auto; the preferred datapath"


def _problem(row: Row, path: Path, refusals: Sequence[tuple[str, Refusal]]) -> Problem:
    if row.rule.datapath is not None:
        path = (*path, "datapath")
    reasons = "; ".join(f"{name}: {refusal.why}" for name, refusal in refusals)
    within_reach = [refusal for _, refusal in refusals if not refusal.absent] or [refusal for _, refusal in refusals]
    remedy = "; or ".join(dict.fromkeys(refusal.remedy for refusal in within_reach)) or "use `datapath: auto`"
    return Problem(
        path=path,
        value=row.rule.name,
        rule=f"no datapath here can carry this rule ({reasons or 'there is none of that name'})",
        remedy=remedy,
        code=NOT_EXECUTABLE,
    )


def restrict(tables: Tables, choices: Choices, datapath: str) -> Tables:
    """Return the tables with only the entries that one datapath carries."""
    mine, elsewhere = {}, set()
    for key, entry in tables.entries.items():
        if (choice := choices.get(key)) is not None and choice.datapath == datapath:
            mine[key] = entry
        else:
            elsewhere.add(key.address)
    return Tables(tables.generation, tables.seed, mine, frozenset(elsewhere))
