"""Which datapath carries which rule.

`auto` is the first datapath in the order of preference that does not refuse the rule; a datapath that is named
is that one or nothing. Every refusal becomes a problem with its reason and its remedy.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from asynclb.datapath.base import Refusal
from asynclb.errors import Path, Problem
from asynclb.model import DatapathName, Model
from asynclb.rules import path_of
from asynclb.tables.row import FrontendKey, Row
from asynclb.tables.snat import SnatRule
from asynclb.tables.tables import Tables

NOT_EXECUTABLE = "NO_DATAPATH"
"""The problem code of a rule that no datapath can carry."""


Judge = Callable[[Row], Refusal | None]


def no_outbound(_rule: SnatRule) -> Refusal | None:
    """Refuse every outbound rule, as a datapath does that never sees what members open themselves."""
    why = "it moves bytes between sockets and never sees connections that members open themselves"
    return Refusal(why, "use `datapath: packet` or `kernel` for the rules of this pool")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A datapath that can be asked whether it carries a row. `refusal` does no I/O; any thread may call it."""

    name: str
    refusal: Callable[[Row], Refusal | None]
    clashes: Callable[[], Judge] | None = None
    """Makes a judge for one assignment, which is shown the rows that the datapath would carry, one after the other."""
    outbound: Callable[[SnatRule], Refusal | None] = no_outbound
    """Why the datapath cannot carry an outbound rule, or None."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The datapath that carries a rule, and why this one."""

    datapath: str
    why: str


Choices = Mapping[FrontendKey | str, Choice]
"""By a row's key, or by the name of an outbound rule."""


def assign(
    model: Model, rows: Collection[Row], candidates: Sequence[Candidate], outbound: Collection[SnatRule] = ()
) -> tuple[Choices, tuple[Problem, ...]]:
    """Choose a datapath for each row and each outbound rule, or say why none can carry it.

    What a member opens itself and what it answers pass the same datapath: only that can tell the two apart. So where
    `auto` chooses for rows of a pool that an outbound rule translates, it passes over datapaths that cannot do that.
    Order: `candidates` from the most to the least preferred.
    """
    choices: dict[FrontendKey | str, Choice] = {}
    problems = []
    translated = {member.address: rule for rule in outbound for member in rule.pool.members}
    judges = {candidate.name: candidate.clashes() for candidate in candidates if candidate.clashes is not None}
    for row in rows:
        wanted = row.rule.datapath or model.datapath
        also = next((translated[m.address] for m in row.pool.members if m.address in translated), None)
        found = _choose(row, str(wanted), candidates, judges, also)
        if isinstance(found, Choice):
            choices[row.key] = found
        else:
            problems.append(_problem(row, path_of(model, row.rule.name), found))
    for rule in outbound:
        chosen = _choose_outbound(rule, str(model.datapath), rows, choices, candidates)
        if isinstance(chosen, Choice):
            choices[rule.name] = chosen
        else:
            problems.append(_no_way(rule.name, path_of(model, rule.name), chosen))
    return choices, tuple(problems)


def _choose_outbound(
    rule: SnatRule, wanted: str, rows: Collection[Row], choices: Choices, candidates: Sequence[Candidate]
) -> Choice | list[tuple[str, Refusal]]:
    """Choose the datapath that has the other rules of these members; without any, as for other rules."""
    members = {member.address for member in rule.pool.members}
    beside = {
        choices[row.key].datapath: row.rule.name
        for row in rows
        if row.key in choices and not members.isdisjoint(member.address for member in row.pool.members)
    }
    auto = wanted == DatapathName.AUTO
    refusals: list[tuple[str, Refusal]] = []
    for candidate in candidates:
        if not (candidate.name in beside or (not beside and (auto or candidate.name == wanted))):
            continue
        refusal = candidate.outbound(rule)
        others = [name for name in beside if name != candidate.name]
        if refusal is None and others:
            why = f"rule {beside[others[0]]} over the same members is carried by {others[0]}"
            refusal = Refusal(why, f"name one datapath for all rules of pool {rule.pool.name}")
        if refusal is None:
            return Choice(
                candidate.name,
                f"as its members' other rules; {_why(auto, refusals)}" if beside else _why(auto, refusals),
            )
        refusals.append((candidate.name, refusal))
    return refusals


def _choose(
    row: Row, wanted: str, candidates: Sequence[Candidate], judges: Mapping[str, Judge], also: SnatRule | None
) -> Choice | list[tuple[str, Refusal]]:
    auto = wanted == DatapathName.AUTO
    refusals: list[tuple[str, Refusal]] = []
    for candidate in candidates:
        if not auto and candidate.name != wanted:
            continue
        refusal = candidate.refusal(row)
        if refusal is None and auto and also is not None:
            refusal = candidate.outbound(also)
        if refusal is None and candidate.name in judges:
            refusal = judges[candidate.name](row)
        if refusal is None:
            return Choice(candidate.name, _why(auto, refusals))
        refusals.append((candidate.name, refusal))
    return refusals


def _why(auto: bool, passed_over: Iterable[tuple[str, Refusal]]) -> str:
    if not auto:
        return "named in the configuration"
    others = "; ".join(
        f"not {name}: {refusal.why}{f' ({refusal.mend})' if refusal.mend else ''}" for name, refusal in passed_over
    )
    return f"auto; {others}" if others else "auto; the preferred datapath"


def _problem(row: Row, path: Path, refusals: Sequence[tuple[str, Refusal]]) -> Problem:
    if row.rule.datapath is not None:
        path = (*path, "datapath")
    return _no_way(row.rule.name, path, refusals)


def _no_way(name: str, path: Path, refusals: Sequence[tuple[str, Refusal]]) -> Problem:
    reasons = "; ".join(f"{name}: {refusal.why}" for name, refusal in refusals)
    within_reach = [refusal for _, refusal in refusals if not refusal.absent] or [refusal for _, refusal in refusals]
    remedy = "; or ".join(dict.fromkeys(refusal.remedy for refusal in within_reach)) or "use `datapath: auto`"
    return Problem(
        path=path,
        value=name,
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
    outbound = tuple(
        rule
        for rule in tables.outbound
        if (choice := choices.get(rule.name)) is not None and choice.datapath == datapath
    )
    return Tables(tables.generation, tables.seed, mine, frozenset(elsewhere), outbound)
