"""A datapath's own verdict beside the tables': the same, or a difference that is worth an error."""

import pytest

from asynclb.control.beside import beside
from asynclb.control.explain import Explanation
from asynclb.datapath.ask import LiveVerdict
from asynclb.net.drop import Drop

JUDGE = "the loaded program"
SERVED = Explanation("tcp a > b", "member", "why", rule="web", pool="web", member="b1")
REFUSED = Explanation("tcp a > b", str(Drop.SOURCE_NOT_ALLOWED), "why", rule="web")
UNKNOWN = Explanation("tcp a > b", str(Drop.NO_RULE), "why")


@pytest.mark.parametrize(
    ("found", "answer", "agrees", "verdict"),
    [
        (SERVED, LiveVerdict(("web", "b1"), None), True, "member"),
        (SERVED, LiveVerdict(("web", "b2"), None), False, "member"),
        (SERVED, LiveVerdict(("web", "b2"), None, known=True), True, "member"),
        (SERVED, LiveVerdict(None, Drop.NEXT_HOP_UNRESOLVED), False, "next_hop_unresolved"),
        (SERVED, LiveVerdict(None, None), False, "passed"),
        (REFUSED, LiveVerdict(None, Drop.SOURCE_NOT_ALLOWED), True, "source_not_allowed"),
        (REFUSED, LiveVerdict(None, Drop.NO_RULE), False, "no_rule"),
        (REFUSED, LiveVerdict(("web", "b1"), None), False, "member"),
        (UNKNOWN, LiveVerdict(None, None), True, "passed"),
        (UNKNOWN, LiveVerdict(None, Drop.NO_RULE), True, "no_rule"),
        (UNKNOWN, LiveVerdict(("web", "b1"), None), False, "member"),
    ],
)
def test_answers_are_compared(found: Explanation, answer: LiveVerdict, agrees: bool, verdict: str) -> None:
    """Members and reasons must be the same; an open flow may be elsewhere; no rule is as good as not ours."""
    live = beside(found, JUDGE, answer)
    assert (live.asked, live.agrees, live.verdict) == (JUDGE, agrees, verdict)
    assert bool(live.why) == (not agrees or answer.known)


def test_a_difference_says_what_to_do() -> None:
    """A neighbour is looked for, tables are written again."""
    silent = beside(SERVED, JUDGE, LiveVerdict(None, Drop.NEXT_HOP_UNRESOLVED))
    other = beside(SERVED, JUDGE, LiveVerdict(("web", "b2"), None))
    assert "`ip neigh` shows it" in silent.why
    assert "says b2, and the tables say b1: `asynclb reload`" in other.why


def test_what_members_open_themselves_is_not_asked_about() -> None:
    """A question is a packet to a frontend: of another one nothing is known, and nothing differs."""
    live = beside(Explanation("tcp a > b", "translated", "why"), JUDGE, LiveVerdict(None, Drop.NO_RULE))
    assert live.agrees
    assert "what members open themselves" in live.why


def test_nobody_to_ask() -> None:
    """Where there is no program, or none that can be asked, nothing differs."""
    assert "no program to ask" in beside(SERVED, "", None).why
    assert "cannot be asked" in beside(SERVED, JUDGE, None).why
    assert beside(SERVED, JUDGE, None).agrees
