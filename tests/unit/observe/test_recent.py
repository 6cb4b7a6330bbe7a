"""The last events in memory."""

from asynclb.events import Event
from asynclb.observe.recent import KEPT, Recent
from tests.unit.control.fakes import Log


def test_events_are_passed_on_and_the_last_are_kept() -> None:
    """A reader gets those after the last one that it has seen; the oldest are forgotten."""
    log = Log()
    recent = Recent(log, clock=lambda: 12.5)
    for number in range(KEPT + 10):
        recent(Event.MEMBER_DOWN, member=f"m{number}")
    assert len(log.events) == KEPT + 10
    kept = recent.since(0)
    assert (len(kept), kept[0]["number"], kept[-1]["number"]) == (KEPT, 11, KEPT + 10)
    assert recent.since(KEPT + 9) == [
        {"number": KEPT + 10, "at": 12.5, "level": "warning", "event": "member_down", "fields": {"member": "m209"}}
    ]


def test_what_is_long_is_cut() -> None:
    """A traceback or a thousand problems do not fill the memory."""
    recent = Recent(Log())
    recent(Event.CONFIG_REFUSED, problems=tuple(f"problem {number}" for number in range(1000)), text="x" * 10_000)
    fields = recent.since(0)[0]["fields"]
    assert fields["problems"].endswith("problem 4; and 995 more")
    assert len(fields["text"]) == 503
