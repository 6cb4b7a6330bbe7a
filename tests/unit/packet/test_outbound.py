"""Outbound rules in the packet datapath: the guard's words, what is counted, and what is refused."""

from ipaddress import ip_address, ip_network

from asynclb.control.assign import NOT_EXECUTABLE, assign
from asynclb.datapath.base import Counters, MemberCounters, SnatCounters, SnatPorts
from asynclb.datapath.core.memory import MARKS
from asynclb.datapath.frames.limits import own_sources
from asynclb.datapath.frames.report import with_snat
from asynclb.datapath.packet.guard import guarded
from asynclb.datapath.packet.ruleset import ruleset
from asynclb.kinds import static_candidates
from asynclb.model import DatapathName, Model
from asynclb.observe.health_events import snat_uses
from tests.unit.core.world import outbound, pool, row

WEB = pool("web", "10.1.0.11", "10.1.0.12")
VIP = ip_address("203.0.113.10")


def test_the_guard_drops_what_members_open_but_to_direct_destinations_and_members() -> None:
    """One rule for the members with the same destinations; their own network's host stays reachable for them."""
    rule = outbound(WEB, str(VIP), direct=(ip_network("192.0.2.0/24"),))
    text = ruleset(guarded([], [("eth0", 2)], frozenset(), [rule]))
    assert (
        "meta pkttype host ip saddr { 10.1.0.11, 10.1.0.12 } "
        "ip daddr != { 10.1.0.11/32, 10.1.0.12/32, 169.254.0.0/16, 192.0.2.0/24 } drop"
    ) in text
    assert "elements = { 203.0.113.10 }" in text


def test_ports_in_use_are_counted_for_each_member_and_protocol() -> None:
    """Marks within a member's blocks are its ports in use; attempts are all, with a port or without."""
    rule = outbound(WEB, str(VIP))
    marks = bytearray(2 * MARKS)
    marks[200], marks[MARKS + 201] = 0b111, 0b1
    counted = Counters(members={("web>out-web", "m0"): MemberCounters(new_flows=5, failed=2)})
    found = with_snat(counted, [rule], marks, {0: VIP})
    assert found.members == {}
    ports = SnatPorts("f-203.0.113.10", 8, {"tcp": 3, "udp": 0}, "out-web")
    assert found.snat["web", "m0"] == SnatCounters(7, 2, (ports,))
    assert found.snat["web", "m1"].ports[0].used == {"tcp": 0, "udp": 1}
    uses = list(snat_uses([found]))
    assert [(use.member, use.allocated, use.used, use.failed) for use in uses] == [("m0", 8, 3, 2), ("m1", 8, 1, 0)]


def test_an_address_of_the_host_is_no_source() -> None:
    """The host's stack would reset what comes back: the rule is refused with the remedy."""
    rule = outbound(WEB, str(VIP))
    (problem,) = own_sources([rule], {VIP})
    assert "address of the host itself" in problem.rule
    assert own_sources([rule], {ip_address("203.0.113.9")}) == ()


def test_rules_of_one_pool_share_a_datapath_that_can_translate() -> None:
    """`auto` passes over the proxy for the pool's rules; with `proxy` the outbound rule is refused with the reason."""
    rows, rules = [row(WEB, str(VIP), 80, 8080)], [outbound(WEB, str(VIP))]
    choices, problems = assign(Model(), rows, static_candidates(), rules)
    assert not problems
    assert choices["out-web"].datapath == choices[rows[0].key].datapath != "proxy"
    _, problems = assign(Model(datapath=DatapathName.PROXY), rows, static_candidates(), rules)
    assert [problem.code for problem in problems] == [NOT_EXECUTABLE]
    assert "never sees connections that members open" in problems[0].rule
