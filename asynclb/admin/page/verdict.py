"""What is wrong, the worst first: the page's first line. Pure.

What an operator has asked for (a member drained or taken out) is not wrong, and is told as a note.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from asynclb.admin.page.picture import Document, Picture
from asynclb.admin.page.rates import Rates, Reading
from asynclb.control.status import Status
from asynclb.net.drop import Drop

MOST = 50  # findings that are told one by one; more than anybody reads
_NAMED = 3  # members that are named in one sentence
_FULL = 0.8  # of a flow table: the threshold of the alert of the same meaning

_OURS = frozenset(
    (
        Drop.NO_ELIGIBLE_MEMBER,
        Drop.MEMBERS_UNREACHABLE,
        Drop.FLOW_TABLE_FULL,
        Drop.OUT_OF_DESCRIPTORS,
        Drop.LISTEN_OVERFLOW,
        Drop.NEXT_HOP_UNRESOLVED,
        Drop.EGRESS_FULL,
        Drop.SNAT_PORTS_EXHAUSTED,
    )
)
"""Drops that somebody here can do something about; the others are what senders did."""


class Severity(StrEnum):
    """How bad it is."""

    CRITICAL = "critical"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence, and the pool that it is about."""

    severity: Severity
    text: str
    pool: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The first line, how bad it is (`ok`, or the worst finding's severity), and every finding."""

    state: str
    line: str
    findings: tuple[Finding, ...]


def judge(status: Status, picture: Picture, rates: Rates, reading: Reading) -> Verdict:
    """Return what is wrong, the worst first."""
    found = [*_process(status), *_rules(picture), *_members(picture), *_reload(status), *_traffic(rates, reading)]
    order = list(Severity)
    found.sort(key=lambda finding: order.index(finding.severity))
    wrong = [finding for finding in found if finding.severity is not Severity.NOTE]
    if wrong:
        return Verdict(str(wrong[0].severity), wrong[0].text, tuple(found[:MOST]))
    return Verdict("ok", _all_well(picture), tuple(found[:MOST]))


def _process(status: Status) -> Iterator[Finding]:
    if status.stopping:
        yield Finding(Severity.CRITICAL, "The instance is stopping and takes no new flows.")
    elif not status.ready:
        yield Finding(Severity.CRITICAL, "The instance is starting: its first tables are not applied yet.")


def _rules(picture: Picture) -> Iterator[Finding]:
    """Yield a finding for each pool whose rules reach nobody that is healthy."""
    by_pool: dict[tuple[str, str], list[str]] = {}
    for rule in picture.rules.values():
        by_pool.setdefault((rule["pool"], rule["state"]), []).append(rule["name"])
    for (pool, state), names in by_pool.items():
        rules = f"Rule {names[0]}" if len(names) == 1 else f"{len(names):,} rules ({_listed(names)})"
        drops, sends = ("drops", "sends") if len(names) == 1 else ("drop", "send")
        if state == "silent":
            text = f"{rules} {drops} every new flow: no member of pool {pool} is eligible."
            yield Finding(Severity.CRITICAL, text, pool)
        elif state == "all_down":
            text = f"{rules} {sends} new flows to all members of pool {pool}, though none is healthy."
            yield Finding(Severity.CRITICAL, text, pool)


def _members(picture: Picture) -> Iterator[Finding]:
    pools: dict[str, dict[str, list[Document]]] = {}
    sizes: Counter[str] = Counter()
    for member in picture.members.values():
        sizes[member["pool"]] += 1
        if member["state"] != "up":
            pools.setdefault(member["pool"], {}).setdefault(member["state"], []).append(member)
    for pool, states in pools.items():
        for state, members in states.items():
            severity, word = _WORDS[state]
            yield Finding(severity, _sentence(pool, members, word, sizes[pool]), pool)


_WORDS = {
    "down": (Severity.WARNING, "down"),
    "partly": (Severity.WARNING, "down by one of the probes"),
    "waiting": (Severity.NOTE, "waiting for the first checks"),
    "drain": (Severity.NOTE, "draining, as asked for"),
    "off": (Severity.NOTE, "out of service, as asked for"),
}


def _sentence(pool: str, members: list[Document], word: str, size: int) -> str:
    if len(members) == 1:
        why = next(
            (found["detail"] or found["reason"] for found in members[0]["health"] if found["state"] == "down"), ""
        )
        told = f": {why}" if why and word.startswith("down") else ""
        return f"{members[0]['name']} of pool {pool} is {word}{told}."
    names = _listed(member["name"] for member in members)
    return f"{len(members):,} of {size:,} members of pool {pool} are {word}: {names}."


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    more = len(known) - _NAMED
    return ", ".join(known[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _reload(status: Status) -> Iterator[Finding]:
    last = status.last_reload
    if last is not None and last.result == "refused":
        first = str(last.problems[0]) if last.problems else "no reason is known"
        more = f" ({len(last.problems) - 1} more)" if len(last.problems) > 1 else ""
        text = f"The last reload was refused, generation {status.generation} stays active: {first}{more}"
        yield Finding(Severity.WARNING, text)


def _traffic(rates: Rates, reading: Reading) -> Iterator[Finding]:
    path, flows, capacity = reading.fullest
    if capacity and flows >= capacity * _FULL:
        share = f"{flows:,} of {capacity:,}"
        yield Finding(Severity.WARNING, f"The flow table of {path} is nearly full: {share} entries are taken.")
    for reason, per_s in _by_reason(rates).items():
        if per_s >= 1:
            yield Finding(Severity.WARNING, f"{per_s:,.0f} a second are dropped: {reason}.")


def _by_reason(rates: Rates) -> Mapping[Drop, float]:
    found: dict[Drop, float] = {}
    for (_, reason), per_s in rates.by_reason.items():
        if reason in _OURS:
            found[reason] = found.get(reason, 0.0) + per_s
    return found


def _all_well(picture: Picture) -> str:
    members = len(picture.members)
    up = sum(member["state"] == "up" for member in picture.members.values())
    rules = len(picture.rules)
    if not rules:
        return "All is well, and there are no rules."
    counted = (
        f"{'every' if up == members else f'{up:,} of {members:,}'} {'member is' if up == members else 'members are'} up"
    )
    return f"All is well: {rules:,} {'rule serves' if rules == 1 else 'rules serve'}, {counted}."
