"""What the page's picture says of the situation, in the words of the verdict. Pure."""

from collections.abc import Iterator, Mapping

from asynclb.admin.page.picture import Picture
from asynclb.admin.page.rates import Rates, Reading
from asynclb.admin.port_use import port_uses
from asynclb.admin.situation import (
    MemberFacts,
    MemberState,
    RefusedReload,
    RuleFacts,
    Situation,
    told_problem,
    told_why,
    unanswered,
)
from asynclb.admin.sources import facts_of
from asynclb.control.status import Status


def of_picture(status: Status, picture: Picture, rates: Rates, reading: Reading, at_s: float) -> Situation:
    """Return what is known at `at_s`, seconds since the epoch."""
    last = status.last_reload
    refused = None
    if last is not None and last.result == "refused":
        first = told_problem(str(last.problems[0]), last.problems[0].file) if last.problems else ""
        refused = RefusedReload(last.at_s, first, max(0, len(last.problems) - 1))
    passed = {name: (rule.new_flows, rule.packets_out) for name, rule in reading.rules.items()}
    return Situation(
        at_s=at_s,
        generation=status.generation,
        ready=status.ready,
        stopping=status.stopping,
        rules=tuple(RuleFacts(rule["name"], rule["pool"], rule["state"]) for rule in picture.rules.values()),
        members=tuple(_members(picture)),
        sources=tuple(facts_of(status)),
        refused=refused,
        unanswered=tuple(unanswered(picture.rules.values(), passed)),
        fullest=reading.fullest,
        ports=tuple(use for use in port_uses(reading.snat) if use.is_high),
        dropped=_by_reason(rates),
    )


def _members(picture: Picture) -> Iterator[MemberFacts]:
    for member in picture.members.values():
        state = MemberState(member["state"])
        down = next((found for found in member["health"] if found["state"] == "down"), None)
        if down is None:
            yield MemberFacts(member["pool"], member["name"], state)
        else:
            why = told_why(down["detail"], down["reason"], member["address"])
            yield MemberFacts(member["pool"], member["name"], state, why, down["since"] or 0.0)


def _by_reason(rates: Rates) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for (_, reason), per_s in rates.by_reason.items():
        found[reason] = found.get(reason, 0.0) + per_s
    return found
