"""What the demo claims, checked against what was seen. Pure.

The witnesses are independent of the balancer: the members' access logs, the load clients' own records, and the
forwarding tables computed here again from configuration and health.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from asynclb.lab.load import Answer, Failure
from asynclb.lab.nginx import LogTail
from asynclb.lab.wrk import WrkResult
from asynclb.net.flow import PROTOCOL_NUMBERS, Flow, Protocol
from asynclb.tables.lookup import Verdict, lookup
from asynclb.tables.tables import Tables

_SLACK_S = (
    0.5  # a member is gone a moment before we know that, and is told to be down a moment before nobody is sent to it
)
_SIGMAS = 6  # a correct balancer misses one of the demo's dozen shares in 10 million runs; of five, in 100,000


@dataclass(frozen=True, slots=True)
class Check:
    """One claim, whether it holds, and the figures that show it."""

    claim: str
    holds: bool
    found: str


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time in which nothing changed: which members took new flows, with which weights, by which tables.

    Units: `start_s` and `end_s` seconds since the epoch.
    """

    name: str
    start_s: float
    end_s: float
    weights: Mapping[str, int]
    tables: Tables

    def __contains__(self, at_s: float) -> bool:
        return self.start_s <= at_s < self.end_s


@dataclass(frozen=True, slots=True)
class Kill:
    """A member that was killed, the tables at that moment, and how many of wrk's connections were on it.

    Where the balancer passes packets on, clients meet the member's own refusal until the probe has seen it. A proxy
    asks another member instead.

    Units: `at_s`, when it was gone, and `known_s`, until when refusals are the member's: seconds since the epoch.
    """

    member: str
    at_s: float
    tables: Tables
    wrk_connections: int
    known_s: float = 0.0


def check_clients(logs: Mapping[str, LogTail], clients: Iterable[str]) -> Check:
    """Check that every member saw the clients' own addresses and no other."""
    expected = set(clients)
    seen = {member: set(log.clients) for member, log in logs.items()}
    wrong = [f"{member} saw {', '.join(sorted(who)) or 'nobody'}" for member, who in seen.items() if who != expected]
    count = sum(log.clients.total() for log in logs.values())
    found = "; ".join(wrong) or f"{', '.join(sorted(expected))} in {count:,} requests"
    return Check("members saw the clients' own addresses", not wrong, found)


def check_shares(phase: Phase, logs: Mapping[str, LogTail]) -> Check:
    """Check each member's share of new connections against its weight, within six standard deviations."""
    counts = {member: sum(at_s in phase for at_s in log.started) for member, log in logs.items()}
    total, weights = sum(counts.values()), sum(phase.weights.values())
    parts, holds = [], total > 0
    for member, count in counts.items():
        expected = phase.weights.get(member, 0) / weights
        tolerance = _SIGMAS * math.sqrt(expected * (1 - expected) / max(total, 1))
        share = count / max(total, 1)
        holds = holds and abs(share - expected) <= tolerance
        parts.append(f"{member} {share:.1%} ({100 * expected:.1f} +-{100 * tolerance:.1f})")
    return Check(f"shares by weight, {phase.name}: {total:,} new connections", holds, ", ".join(parts))


def check_placement(phases: Sequence[Phase], answers: Iterable[Answer], address: str, port: int) -> Check:
    """Check that each new connection of a steady phase went to the very member that the tables name for it."""
    right, wrong = 0, []
    for answer in answers:
        phase = next((phase for phase in phases if answer.fresh and answer.at_s in phase), None)
        if phase is None:
            continue
        expected = _member(phase.tables, answer.client, answer.port, address, port)
        if expected == answer.member:
            right += 1
        else:
            wrong.append(f"{answer.client}:{answer.port} on {answer.member}, not {expected}")
    found = f"{len(wrong)} elsewhere, first {wrong[0]}" if wrong else f"{right:,} of {right:,}"
    return Check("new connections went where the tables say", right > 0 and not wrong, found)


def check_failures(kill: Kill, requests: int, failures: Sequence[Failure], address: str, port: int) -> Check:
    """Check that no request failed but on connections to the killed member, open then or refused until it was known."""
    strange = []
    for failure in failures:
        member = failure.member or _member(kill.tables, failure.client, failure.port, address, port)
        refused = kill.known_s and kill.at_s - _SLACK_S <= failure.opened_s <= kill.known_s + _SLACK_S
        if refused and member in ("", kill.member):
            continue
        if member != kill.member or failure.opened_s > kill.at_s:
            strange.append(f"{failure.what} from {failure.client} on {member or 'nobody'}")
    found = f"{len(failures)} of {requests:,} failed, all on connections to {kill.member}, which was killed"
    if strange:
        kinds = "; ".join(f"{count}x {text}" for text, count in Counter(strange).most_common(3))
        found = f"{len(strange)} of {requests:,} failed elsewhere: {kinds}"
    return Check(f"no request failed but on {kill.member}'s connections", not strange, found)


def check_wrk(kill: Kill, results: Sequence[WrkResult]) -> Check:
    """Check that wrk saw no more errors than it had connections on the killed member, and no bad answer at all."""
    errors: Counter[str] = Counter()
    for result in results:
        errors.update(result.errors)
    lost, refused = errors["read"] + errors["write"], errors["connect"]
    if (
        kill.known_s
    ):  # the member refused until it was known to be down: wrk sees that when it connects, writes or reads
        lost, refused = min(lost, kill.wrk_connections), 0
    holds = lost <= kill.wrk_connections and not (refused or errors["timeout"] or errors["status"])
    kinds = ", ".join(f"{kind} {count}" for kind, count in errors.items() if count) or "none"
    rate = sum(result.requests_per_s for result in results)
    found = f"{rate:,.0f} requests/s; errors: {kinds}; connections on {kill.member}: {kill.wrk_connections}"
    claim = f"wrk met refusals of {kill.member} at most" if kill.known_s else "wrk lost nothing but its connections"
    return Check(claim if kill.known_s else f"{claim} on {kill.member}", holds, found)


def connections_on(tables: Tables, member: str, ends: Iterable[tuple[str, int]], address: str, port: int) -> int:
    """Count the client ends whose connections the tables put on the member."""
    return sum(_member(tables, client, client_port, address, port) == member for client, client_port in ends)


def _member(tables: Tables, client: str, client_port: int, address: str, port: int) -> str:
    if not client:
        return ""  # it never got as far as having an address
    flow = Flow(ip_address(client), client_port, ip_address(address), port, PROTOCOL_NUMBERS[Protocol.TCP])
    verdict = lookup(tables, flow)
    return verdict.member.name if isinstance(verdict, Verdict) else ""
