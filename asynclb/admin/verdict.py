"""What is wrong, the worst first, in the words of whoever is called at night. Pure.

These are the only sentences about it: `show`, `top` and the page print them as they are. What an operator has asked for
(a member drained or taken out) is not wrong, and is told as a note.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from asynclb.admin.counting import drop_meanings
from asynclb.admin.port_use import PortUse
from asynclb.admin.situation import (
    MemberFacts,
    MemberState,
    RefusedReload,
    RuleFacts,
    Situation,
    SourceFacts,
    Unanswered,
)
from asynclb.net.drop import Drop

MOST = 50  # findings that are told one by one; more than anybody reads
_NAMED = 3  # members that are named in one sentence
_FULL = 0.8  # of a flow table: the threshold of the alert of the same meaning

_OURS = (
    Drop.NO_ELIGIBLE_MEMBER,
    Drop.MEMBERS_UNREACHABLE,
    Drop.FLOW_TABLE_FULL,
    Drop.OUT_OF_DESCRIPTORS,
    Drop.LISTEN_OVERFLOW,
    Drop.NEXT_HOP_UNRESOLVED,
    Drop.EGRESS_FULL,
    Drop.SNAT_PORTS_EXHAUSTED,
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

    @property
    def wrong(self) -> Sequence[str]:
        """What somebody should mend, the worst first."""
        return [finding.text for finding in self.findings if finding.severity is not Severity.NOTE]


def judge(situation: Situation) -> Verdict:
    """Return what is wrong, the worst first."""
    found = [
        *_process(situation),
        *_rules(situation.rules),
        *_members(situation.members, situation.at_s),
        *_sources(situation.sources, situation.at_s),
        *_reload(situation.refused, situation),
        *_unanswered(situation.unanswered),
        *_ports(situation.ports),
        *_traffic(situation),
    ]
    order = list(Severity)
    found.sort(key=lambda finding: order.index(finding.severity))
    if found and found[0].severity is not Severity.NOTE:
        return Verdict(str(found[0].severity), found[0].text, tuple(found[:MOST]))
    return Verdict("ok", _nothing_wrong(situation), tuple(found[:MOST]))


def _process(situation: Situation) -> Iterator[Finding]:
    if situation.stopping:
        yield Finding(Severity.CRITICAL, "The instance is stopping and takes no new flows.")
    elif not situation.ready:
        yield Finding(Severity.CRITICAL, "The instance is starting: its first tables are not applied yet.")


def _rules(rules: Iterable[RuleFacts]) -> Iterator[Finding]:
    """Yield a finding for each pool whose rules reach nobody that is healthy."""
    by_pool: dict[tuple[str, str], list[str]] = {}
    for rule in rules:
        by_pool.setdefault((rule.pool, rule.state), []).append(rule.name)
    for (pool, state), names in by_pool.items():
        one = len(names) == 1
        rules_named = f"Rule {names[0]}" if one else f"{len(names):,} rules ({_listed(names)})"
        if state == "silent":
            text = f"{rules_named} {'drops' if one else 'drop'} every new flow: no member of pool {pool} is eligible."
            yield Finding(Severity.CRITICAL, text, pool)
        elif state == "all_down":
            sends = f"{'sends' if one else 'send'} new flows to all members of pool {pool}"
            yield Finding(Severity.CRITICAL, f"{rules_named} {sends}, though none is healthy.", pool)


def _members(members: Iterable[MemberFacts], at_s: float) -> Iterator[Finding]:
    by_state: dict[tuple[str, MemberState], list[MemberFacts]] = {}
    sizes: Counter[str] = Counter()
    for member in members:
        sizes[member.pool] += 1
        if member.state is not MemberState.UP:
            by_state.setdefault((member.pool, member.state), []).append(member)
    for (pool, state), found in by_state.items():
        severity, word = _WORDS[state]
        yield Finding(severity, _sentence(pool, found, word, sizes[pool], at_s), pool)


_WORDS = {
    MemberState.DOWN: (Severity.WARNING, "down"),
    MemberState.PARTLY: (Severity.WARNING, "down by one of the probes"),
    MemberState.WAITING: (Severity.NOTE, "waiting for the first checks"),
    MemberState.DRAIN: (Severity.NOTE, "draining, as asked for"),
    MemberState.OFF: (Severity.NOTE, "out of service, as asked for"),
}


def _sentence(pool: str, members: Sequence[MemberFacts], word: str, size: int, at_s: float) -> str:
    first = members[0]
    if len(members) > 1:
        names = _listed(member.name for member in members)
        return f"{len(members):,} of {size:,} members of pool {pool} are {word}: {names}{_mostly(members)}."
    if first.state not in (MemberState.DOWN, MemberState.PARTLY):
        return f"{first.name} of pool {pool} is {word}."
    since = f" since {moment(first.since_s, at_s)}" if first.since_s else ""
    return f"{first.name} of pool {pool} is {word}{since}{f': {first.why}' if first.why else ''}."


def _sources(sources: Iterable[SourceFacts], at_s: float) -> Iterator[Finding]:
    """Yield a finding for each source whose word is not in force."""
    for source in sources:
        many = "last member stays" if source.members == 1 else f"last {source.members:,} members stay"
        keeps = f"its {many}" if source.members else "the pool has no members of it"
        if source.state == "failed":
            since = f" since {moment(source.since_s, at_s)}" if source.since_s else ""
            text = f"The source of pool {source.pool} fails{since}, {keeps}: {source.error}"
            yield Finding(Severity.WARNING, text, source.pool)
        elif source.state == "waiting":
            text = f"The source of pool {source.pool} ({source.name}) has not answered yet, {keeps}."
            yield Finding(Severity.WARNING, text, source.pool)
        elif source.problems:
            more = f" (and {len(source.problems) - 1:,} more)" if len(source.problems) > 1 else ""
            text = f"What the source of pool {source.pool} says is refused, {keeps}: {source.problems[0]}{more}"
            yield Finding(Severity.WARNING, text, source.pool)


def _mostly(members: Sequence[MemberFacts]) -> str:
    """Return what most of the members have, and how many."""
    reasons = Counter(member.why for member in members if member.why)
    if not reasons:
        return ""
    ((why, number),) = reasons.most_common(1)
    return f" ({'all' if number == len(members) else f'{number:,} of them'}: {why})"


def moment(epoch_s: float, now_s: float) -> str:
    """Return a time of today without its date, of another day with it."""
    then, now = datetime.fromtimestamp(epoch_s, UTC), datetime.fromtimestamp(now_s, UTC)
    return then.strftime("%H:%M:%S UTC" if then.date() == now.date() else "%Y-%m-%d %H:%M UTC")


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    more = len(known) - _NAMED
    return ", ".join(known[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _reload(refused: RefusedReload | None, situation: Situation) -> Iterator[Finding]:
    if refused is None:
        return
    more = f" (and {refused.more:,} more)" if refused.more else ""
    when = moment(refused.at_s, situation.at_s)
    stays = f"The reload of {when} was refused, the old configuration stays"
    yield Finding(Severity.WARNING, f"{stays}: {refused.first or 'no reason is known'}{more}")


def _unanswered(rules: Iterable[Unanswered]) -> Iterator[Finding]:
    for found in rules:
        told = f"Rule {found.rule} had {found.flows:,} flows, and no answer of its members has passed this host"
        must = f"which alone turns port {found.backend_port} into {found.port}"
        yield Finding(Severity.WARNING, f"{told}, {must}: their route to clients has to lead through it.")


def _ports(uses: Iterable[PortUse]) -> Iterator[Finding]:
    """Yield a finding for each outbound rule whose members have used up most of their ports."""
    by_rule: dict[tuple[str, str], list[PortUse]] = {}
    for use in uses:
        by_rule.setdefault((use.pool, use.rule), []).append(use)
    for (pool, rule), found in by_rule.items():
        found.sort(key=lambda use: use.free)
        first = found[0]
        protocol, used = first.most
        named = f"(rule {rule}, {protocol})"
        if first.shared:
            told = (
                f"The members of pool {pool} use {used:,} of the {first.allocated:,} SNAT ports that they share {named}"
            )
        elif len(found) == 1:
            told = f"{first.members[0]} of pool {pool} uses {used:,} of its {first.allocated:,} SNAT ports {named}"
        else:
            names = _listed(f"{use.members[0]} with {use.free:,} left" for use in found)
            told = f"{len(found):,} members of pool {pool} use most of their SNAT ports {named}: {names}"
        remedy = "name another frontend in the rule" if first.shared else "raise its allocated_ports"
        yield Finding(Severity.WARNING, f"{told}; {remedy}.", pool)


def _traffic(situation: Situation) -> Iterator[Finding]:
    path, flows, capacity = situation.fullest
    if capacity and flows >= capacity * _FULL:
        share = f"{flows:,} of {capacity:,}"
        yield Finding(Severity.WARNING, f"The flow table of {path} is nearly full: {share} entries are taken.")
    for reason in _OURS:
        per_s = situation.dropped.get(reason, 0.0)
        if per_s >= 1:
            meaning = drop_meanings().get(reason, "")
            told = f"{per_s:,.0f} a second are dropped as {reason}"
            yield Finding(Severity.WARNING, f"{told}: {meaning}" if meaning else f"{told}.")


def _nothing_wrong(situation: Situation) -> str:
    if not situation.rules:
        return "All is well, and there are no rules."
    states = Counter(member.state for member in situation.members)
    members, rules = len(situation.members), len(situation.rules)
    if waiting := states[MemberState.WAITING]:
        return f"No fault is known yet: {waiting:,} of {members:,} members wait for their first check."
    out = states[MemberState.DRAIN] + states[MemberState.OFF]
    up = "every member is up" if not out else f"{members - out:,} of {members:,} members are up"
    aside = f", {out:,} taken out by operators" if out else ""
    return f"All is well: {rules:,} {'rule serves' if rules == 1 else 'rules serve'}, {up}{aside}."
