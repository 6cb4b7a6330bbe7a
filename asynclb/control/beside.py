"""What a datapath itself says of a flow, beside what the tables say. Pure.

Both decide by one configuration, so that another answer is something to look into: tables that did not arrive, a next
hop that nobody answers for, or a bug. Only an open flow may know better: it stays where it is while tables change.
"""

from dataclasses import dataclass

from asynclb.control.explain import Explanation
from asynclb.control.outward import OUTWARD
from asynclb.control.status import Status
from asynclb.datapath.ask import LiveVerdict
from asynclb.net.drop import Drop
from asynclb.net.flow import Flow

MEMBER, PASSED = "member", "passed"
"""A member gets the packet; or it is not the datapath's, and goes where it would go without."""


@dataclass(frozen=True, slots=True)
class Live:
    """A datapath's own verdict. Fields that do not apply are empty."""

    asked: str = ""
    """Who was asked; empty: nobody."""
    verdict: str = ""
    """`member`, `passed`, or the drop reason."""
    pool: str = ""
    member: str = ""
    agrees: bool = True
    why: str = ""


def carrier(status: Status, found: Explanation, flow: Flow) -> str:
    """Return the datapath that the flow's packets meet, or ''."""
    for path in status.datapaths:
        if found.rule in path.rules:
            return path.name
    at = {entry.row.rule.name for key, entry in status.tables.entries.items() if key.address == flow.destination}
    return next((path.name for path in status.datapaths if at & path.rules.keys()), "")


def beside(found: Explanation, judge: str, answer: LiveVerdict | None) -> Live:
    """Compare an answer with the tables' own. `judge` is who gave it; nobody, where there is no program."""
    if found.verdict in OUTWARD:
        return Live(why="datapaths are asked about what comes to frontends, not about what members open themselves")
    if not judge:
        return Live(why="there is no program to ask: sockets take what the tables say")
    if answer is None:
        return Live(why=f"{judge} cannot be asked at the moment; try again")
    verdict = MEMBER if answer.member else str(answer.drop or PASSED)
    pool, member = answer.member or ("", "")
    if answer.known:
        return Live(judge, verdict, pool, member, True, "by a flow that is open: it stays while tables change")
    agrees = (pool, member) == (found.pool, found.member) if found.verdict == MEMBER else _is_same_drop(found, answer)
    return Live(judge, verdict, pool, member, agrees, "" if agrees else _difference(found, judge, verdict, member))


def _is_same_drop(found: Explanation, answer: LiveVerdict) -> bool:
    """Return whether both give the packet to nobody, for one reason; without a rule it may be nobody's business."""
    if answer.member is not None:
        return False
    return str(answer.drop) == found.verdict or (found.verdict == Drop.NO_RULE and answer.drop is None)


def _difference(found: Explanation, judge: str, verdict: str, member: str) -> str:
    says = f"{judge} says {member or verdict}, and the tables say {found.member or found.verdict}"
    if verdict == Drop.NEXT_HOP_UNRESOLVED:
        return f"{says}: {found.member} does not answer for its address on the wire (`ip neigh` shows it)"
    return f"{says}: `asynclb reload` writes its tables again; if that does not mend it, it is a bug of asynclb"
