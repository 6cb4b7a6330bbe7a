"""The page's picture of what stands there, and the rates of what passes."""

from dataclasses import replace

from asynclb.admin.page.picture import Picture, changed, draw
from asynclb.admin.page.rates import IDLE, Reading, rates, read
from asynclb.datapath.base import Counters, RuleCounters
from asynclb.discovery.state import SourceStatus
from asynclb.model import FileSource, MembersFrom
from asynclb.net.drop import Drop
from tests.unit.admin.test_verdict import DOWN, UP, status_of
from tests.unit.control.fakes import web_model


def test_a_picture_is_drawn_again_only_for_what_has_changed() -> None:
    """The same snapshots give the same picture; another health gives the documents of those members."""
    status = status_of(web_model("a", "b"), {"a": UP, "b": UP})
    picture = draw(status, Picture(), 0.0)
    assert draw(replace(status, busy_s=1.0), picture, 0.0) is picture
    after = draw(status_of(web_model("a", "b"), {"a": UP, "b": DOWN}), picture, 0.0)
    assert {
        member["name"]: (member["state"], member["share"]) for member in changed(picture.members, after.members)
    } == {
        "a": ("up", 1.0),
        "b": ("down", 0.0),
    }


def test_members_of_a_source_are_marked() -> None:
    """Who stands in the file has no mark; whom the source told of has its kind."""
    model = web_model("a", "b")
    told = model.backend_pools["web"].members[1:]
    found = SourceStatus(MembersFrom(FileSource(path="m.yaml")), 0.0)
    status = replace(status_of(model, {}), discovered={"web": told}, sources={"web": found})
    members = draw(status, Picture(), 0.0).members.values()
    assert {member["name"]: member["source"] for member in members} == {"a": None, "b": "file"}


def test_rates_are_differences_over_time() -> None:
    """Counters of two datapaths are added up; what is idle is left out; without a time between them nothing passed."""
    first = {"proxy": Counters({"web": RuleCounters(bytes_in=100, new_flows=1)})}
    then = {
        "proxy": Counters({"web": RuleCounters(bytes_in=350, new_flows=2), "idle": RuleCounters()}, flows=4),
        "kernel": Counters({"web": RuleCounters(bytes_in=250, flows=3)}, drops={Drop.NO_RULE: 10}, flows=3),
    }
    before, after = read(first, str, 1_000_000_000), read(then, str, 3_000_000_000)
    found = rates(before, after)
    assert found.rules["web"].row == (3, 0.5, 2000, 0, 0)
    assert "idle" not in found.rules
    assert (found.total.flows, found.drops, found.by_reason["kernel", Drop.NO_RULE]) == (7, 5.0, 5.0)
    assert rates(Reading(), after).rules == {}
    assert rates(after, after).total == replace(IDLE, flows=7)
