"""Numbers for names, the core's numbers under names, and which rules cannot be told apart."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from asynclb.datapath.base import MemberCounters, RuleCounters
from asynclb.datapath.core.values import CoreCounters, FlowView
from asynclb.datapath.frames.ids import Ids
from asynclb.datapath.frames.limits import CLASH_CODE, clash_judge, clashes, static_refusal
from asynclb.datapath.frames.report import counters_of, record_of, total
from asynclb.model import ProxyProtocol
from asynclb.net.drop import Drop
from asynclb.net.flow import Protocol
from asynclb.tables.row import Delivery
from tests.unit.core.world import ha, pool, row

BACKEND = pool("web", "10.0.0.1", "10.0.0.2")


def test_a_number_stays_with_its_name() -> None:
    """Names get numbers in order and keep them, and a name that is asked for twice gets one."""
    ids: Ids[str] = Ids(3)
    assert ids.of(["a", "b", "a"]) == {"a": 0, "b": 1}
    assert ids.of(["c", "b"]) == {"c": 2, "b": 1}
    assert ids.names() == {0: "a", 1: "b", 2: "c"}


def test_more_names_than_numbers() -> None:
    """Nothing is given out when not all can be had; a number that was given back is used again."""
    ids: Ids[str] = Ids(2)
    ids.of(["a"])
    with pytest.raises(LookupError):
        ids.of(["b", "c"])
    assert ids.names() == {0: "a"}
    ids.of(["b"])
    ids.give_back("a")
    assert ids.of(["c"]) == {"c": 0}


def test_counters_by_name() -> None:
    """Members that differ in their address only are added up; numbers without a name are left out."""
    name = ("web", "m0")
    core = CoreCounters(
        rules={0: RuleCounters(packets_in=3), 9: RuleCounters(packets_in=1)},
        members={0: MemberCounters(1, 2, 3, 4), 1: MemberCounters(10, 20, 30, 40), 5: MemberCounters(7, 7, 7, 7)},
        drops={Drop.NO_RULE: 2},
        flows=4,
        capacity=9,
        stateless=0,
        expired=0,
    )
    members = {0: (*name, ip_address("10.0.0.1")), 1: (*name, ip_address("10.0.0.9"))}
    found = counters_of(core, {0: "r"}, members, 0)
    assert found.rules == {"r": RuleCounters(packets_in=3)}
    assert found.members == {name: MemberCounters(11, 22, 33, 44)}
    assert found.drops[Drop.NO_RULE] == 2
    assert (found.flows, found.capacity) == (4, 9)
    assert total([core, core]).capacity == 18


@pytest.mark.parametrize(("backend_port", "target"), [(8080, "10.0.0.1:8080"), (0, "10.0.0.1:443")])
def test_a_flow_by_name(backend_port: int, target: str) -> None:
    """A flow is shown with its rule, client and member; without a port of its own the member is asked on the VIP's."""
    found = row(BACKEND, "203.0.113.1", 443, backend_port)
    view = FlowView(
        client=ip_address("198.51.100.7"), client_port=41000, frontend=ip_address("203.0.113.1"), frontend_port=443,
        protocol=6, rule=0, member=0, state="established", packets_in=1, packets_out=1, bytes_in=60, bytes_out=40,
        created_s=90, deadline_ms=0,
    )  # fmt: skip
    members = {0: ("web", "m0", ip_address("10.0.0.1"))}
    record = record_of(view, {0: found.rule.name}, members, {found.rule.name: found}, 100.0)
    assert (record.protocol, record.client, record.target) == ("tcp", "198.51.100.7:41000", target)
    assert (record.pool, record.member, record.state, record.age_s) == ("web", "m0", "established", 10.0)


@pytest.mark.parametrize(
    ("other", "clash"),
    [
        pytest.param(row(BACKEND, "203.0.113.1", 81, 80), True, id="another port of the VIP"),
        pytest.param(row(BACKEND, "203.0.113.2", 80), True, id="another VIP"),
        pytest.param(row(pool("two", "10.0.0.2"), "203.0.113.2", 80), True, id="another pool with the member"),
        pytest.param(row(BACKEND, "203.0.113.2", 80, 8080), False, id="another backend port"),
        pytest.param(row(BACKEND, "203.0.113.2", 80, protocol=Protocol.UDP), False, id="another protocol"),
        pytest.param(row(BACKEND, "203.0.113.2", 80, delivery=Delivery.FLOATING), False, id="floating"),
        pytest.param(row(pool("two", "10.0.0.3"), "203.0.113.2", 80), False, id="another member"),
        pytest.param(ha(BACKEND, "203.0.113.2"), False, id="HA ports"),
    ],
)
def test_rules_that_cannot_be_told_apart(other: object, clash: bool) -> None:
    """Two rules that translate to one port of one member are a problem with Azure's code, on the later one."""
    problems = clashes([row(BACKEND, "203.0.113.1", 80), other])  # type: ignore[list-item] # a row
    assert [problem.code for problem in problems] == [CLASH_CODE] * clash


@pytest.mark.parametrize(("port", "backend_port", "clash"), [(81, 8080, True), (8080, 8080, True), (81, 81, False)])
def test_floating_rules_whose_members_answer_from_one_port(port: int, backend_port: int, clash: bool) -> None:
    """It is as with members behind `nat`, also where one of them keeps the client's port; judge and problems agree."""
    first = row(BACKEND, "203.0.113.1", 80, 8080, delivery=Delivery.FLOATING)
    second = row(pool("two", "10.0.0.9"), "203.0.113.1", port, backend_port, delivery=Delivery.FLOATING)
    problems, judge = clashes([first, second]), clash_judge()
    assert [problem.code for problem in problems] == [CLASH_CODE] * clash
    assert all("members answer from 203.0.113.1 on port 8080" in problem.rule for problem in problems)
    assert [judge(found) is not None for found in (first, second)] == [False, clash]


def test_what_packets_cannot_carry() -> None:
    """PROXY headers and the balancer's own address as the source are refused, anything else is not."""
    found = row(BACKEND, "203.0.113.1")
    assert static_refusal(found) is None
    for change in ({"proxy_protocol": ProxyProtocol.V2}, {"transparent": False}):
        refusal = static_refusal(replace(found, rule=replace(found.rule, **change)))
        assert refusal is not None
        assert "`datapath: proxy`" in refusal.remedy
