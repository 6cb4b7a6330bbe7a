"""What a verdict is made of: what is known of rules, members, the last reload and the traffic at one instant. Pure.

Whoever judges has seen it as a JSON document (`show`, `top`) or as snapshots (the page); both say it in these words,
so that the same fault is told in the same sentence everywhere.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import PurePath
from typing import Any

from asynclb.admin.port_use import PortUse, port_uses, read_counted

State = Mapping[str, Any]
"""The document of `GET /api/v1/state`."""

_SEVERAL = 5  # flows without an answer; fewer may be on their way


class MemberState(StrEnum):
    """The one word by which a member is told. `drain` and `off` are what an operator wants."""

    UP = "up"
    DOWN = "down"
    PARTLY = "partly"
    """Up by one probe, down by another."""
    WAITING = "waiting"
    """Not probed yet."""
    DRAIN = "drain"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class RuleFacts:
    """A rule's state, in the words of `control.edges.RuleState`."""

    name: str
    pool: str
    state: str


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """How a member is; if a probe has found it down, why and since when.

    Units: `since_s` seconds since the epoch; 0: not known.
    """

    pool: str
    name: str
    state: MemberState
    why: str = ""
    since_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """How the source of a pool's members is: `state` in the words of `discovery.SourceState`.

    `members` of it are in force; `problems` are why its last answer was refused. Units: as in `MemberFacts`.
    """

    pool: str
    name: str
    state: str
    members: int
    error: str = ""
    problems: tuple[str, ...] = ()
    since_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A TCP rule whose port floating IP changes, which had flows and no answers: these go another way."""

    rule: str
    port: str
    backend_port: int
    flows: int


@dataclass(frozen=True, slots=True)
class RefusedReload:
    """The last reload, if it was refused: when, its first problem, and how many more there are."""

    at_s: float
    first: str
    more: int = 0


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that may be wrong. Units: `at_s` seconds since the epoch; `dropped` reason -> drops in a second."""

    at_s: float
    generation: int
    ready: bool = True
    stopping: bool = False
    rules: tuple[RuleFacts, ...] = ()
    members: tuple[MemberFacts, ...] = ()
    sources: tuple[SourceFacts, ...] = ()
    refused: RefusedReload | None = None
    unanswered: tuple[Unanswered, ...] = ()
    fullest: tuple[str, int, int] = ("", 0, 0)
    """(datapath, flows, capacity) of the flow table that has the least room left; capacity 0: none is limited."""
    ports: tuple[PortUse, ...] = ()
    """Members' SNAT ports, where most of them are in use."""
    dropped: Mapping[str, float] = field(default_factory=dict)


def member_state(admin_state: str, weight: int, probed: Iterable[str]) -> MemberState:
    """Return the word for a member, of its admin state, its weight and what each probe says."""
    if admin_state == "drain":
        return MemberState.DRAIN
    if admin_state == "down" or not weight:
        return MemberState.OFF
    states = set(probed)
    if "down" in states:
        return MemberState.PARTLY if "up" in states else MemberState.DOWN
    return MemberState.WAITING if "unknown" in states else MemberState.UP


def unanswered(rules: Iterable[State], passed: Mapping[str, tuple[int, int]]) -> Iterator[Unanswered]:
    """Yield the rules whose members answer past this host. `passed`: rule -> (new flows, packets out) so far.

    Members answer from a port that clients never asked, so that no connection comes about.
    """
    for rule in rules:
        changed = rule["delivery"] == "floating" and str(rule["port"]) != str(rule["backend_port"])
        flows, answers = passed.get(rule["name"], (0, 0))
        if changed and rule["protocol"] == "tcp" and flows >= _SEVERAL and not answers:
            yield Unanswered(rule["name"].partition("/")[0], str(rule["port"]), rule["backend_port"], flows)


def told_why(detail: str, reason: str, address: str) -> str:
    """Return why a member is down: what the check met, without the address that the reader has beside it."""
    place, _, met = detail.partition(": ")
    return met if met and address in place else detail or reason


def told_problem(text: str, file: str) -> str:
    """Return a problem's text with its file's name alone: the place is known, and the rest is to be seen at once."""
    return f"{PurePath(file).name}{text.removeprefix(file)}" if file else text


def of_state(state: State, counters: State | None = None, dropped: Mapping[str, float] | None = None) -> Situation:
    """Return what a state document says; with `counters` and drops in a second, what they say of the traffic too."""
    started_s = _epoch_s(state["started"])
    return Situation(
        at_s=started_s + state["uptime_s"] if started_s else 0.0,
        generation=state["generation"],
        ready=state["ready"],
        stopping=state["stopping"],
        rules=tuple(_rules(state)),
        members=tuple(_members(state)),
        sources=tuple(_sources(state)),
        refused=_refused(state["last_reload"] or {}),
        unanswered=tuple(unanswered(state["rules"], _passed(counters or {}))),
        fullest=_fullest(counters or {}),
        ports=tuple(use for use in port_uses(read_counted(counters or {})) if use.is_high),
        dropped=dropped or {},
    )


def _rules(state: State) -> Iterator[RuleFacts]:
    """Yield each rule once: an inbound NAT rule is one, however many ports it has."""
    for rule in state["rules"]:
        if rule["kind"] != "inbound_nat":
            yield RuleFacts(rule["name"], rule["pool"], rule["state"])
    for rule in state["inbound_nat_rules"]:
        if rule["mappings"]:
            yield RuleFacts(rule["name"], rule["pool"], "serving")


def _members(state: State) -> Iterator[MemberFacts]:
    for pool in state["pools"]:
        for member in pool["members"]:
            health = member["health"]
            word = member_state(member["admin_state"], member["weight"], (found["state"] for found in health))
            down = next((found for found in health if found["state"] == "down"), None)
            if down is None:
                yield MemberFacts(pool["name"], member["name"], word)
            else:
                why = told_why(down["detail"], down["reason"], member["address"])
                yield MemberFacts(pool["name"], member["name"], word, why, _epoch_s(down["since"]))


def _sources(state: State) -> Iterator[SourceFacts]:
    for pool in state["pools"]:
        if (found := pool.get("source")) is not None:
            problems, since_s = tuple(found["problems"]), _epoch_s(found["since"])
            yield SourceFacts(
                pool["name"], found["name"], found["state"], found["members"], found["error"], problems, since_s
            )


def _refused(reload: State) -> RefusedReload | None:
    if reload.get("result") != "refused":
        return None
    problems = reload["problems"]
    first = told_problem(problems[0]["text"], problems[0]["file"]) if problems else ""
    return RefusedReload(_epoch_s(reload["at"]), first, max(0, len(problems) - 1))


def _fullest(counters: State) -> tuple[str, int, int]:
    paths = [(path["name"], path["flows"], path["capacity"]) for path in counters.get("datapaths", ())]
    limited = [path for path in paths if path[2]]
    return max(limited, key=lambda found: found[1] / found[2], default=("", 0, 0))


def _passed(counters: State) -> Mapping[str, tuple[int, int]]:
    return {rule["name"]: (rule["new_flows"], rule["packets_out"]) for rule in counters.get("rules", ())}


def _epoch_s(instant: str | None) -> float:
    return datetime.fromisoformat(instant).timestamp() if instant else 0.0
