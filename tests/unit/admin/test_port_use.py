"""How many SNAT ports members use, as `show`, `top` and the verdict tell it."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from asynclb.admin.counting import counters_document
from asynclb.admin.outbound import outbound_documents
from asynclb.admin.page.frame import MOST_PORTS, port_rows
from asynclb.admin.port_use import counted_by, port_uses, read_counted
from asynclb.admin.situation import Situation
from asynclb.admin.tables_text import table_text
from asynclb.admin.verdict import judge
from asynclb.datapath.base import Counters, MemberCounters
from asynclb.datapath.core.memory import MARKS
from asynclb.datapath.frames.report import with_snat
from asynclb.model import BackendPool, Health
from asynclb.net.flow import Protocol
from asynclb.tables.compile import compile_tables
from asynclb.tables.snat import SnatRule
from tests.unit.admin.test_verdict import NOW_S, status_of
from tests.unit.control.fakes import web_model
from tests.unit.core.world import outbound, pool

VIPS = ("203.0.113.10", "203.0.113.11")
WEB = pool("web", "10.1.0.11", "10.1.0.12", "10.1.0.13")
SOURCES = dict(enumerate(map(ip_address, VIPS)))


def counted(*rules: SnatRule, tcp: int = 0, udp: int = 0, failed: int = 0) -> dict[str, Counters]:
    """Return counters of a datapath where so many ports are in use, from each address's first one on."""
    marks = bytearray(2 * MARKS * len(SOURCES))
    first = min(block for rule in rules for parts in rule.slices.values() for part in parts for block in part.blocks)
    for number in SOURCES:
        for protocol, count in enumerate((tcp, udp)):
            base = (2 * number + protocol) * MARKS + first
            marks[base : base + 64] = ((1 << count) - 1).to_bytes(64, "little")
    numbers = {(rule.place, "m0"): MemberCounters(new_flows=tcp, failed=failed) for rule in rules}
    return {"packet": with_snat(Counters(members=numbers), rules, marks, SOURCES)}


def documents_of(*rules: SnatRule, **used: int) -> tuple[Any, Any]:
    """Return the state document's outbound part, as `show outbound` needs it, and the counters'."""
    status = status_of(web_model("a"), {})
    tables = compile_tables((), Health({}), seed=7, generation=3, outbound=rules)
    state = {"rules": [], "pools": [], "inbound_nat_rules": [], "last_reload": None, "started": None}
    state |= {"generation": 3, "ready": True, "stopping": False, "uptime_s": 1.0}
    state |= {"outbound_rules": outbound_documents(replace(status, tables=tables))}
    return state, counters_document(counted(*rules, **used), 1.0)


def test_each_member_has_its_own_line_and_the_fullest_is_first() -> None:
    """Allocated, used by protocol, free and failed; free is what the protocol that uses more leaves."""
    state, counters = documents_of(outbound(WEB, VIPS[0], ports=64), tcp=65, udp=3, failed=2)
    lines = table_text("outbound", state, counters).splitlines()
    assert lines[0] == "! m0 of pool web uses 64 of its 64 SNAT ports (rule out-web, tcp); raise its allocated_ports."
    assert lines[1].split() == ["OUTBOUND", "RULE", "POOL", "MEMBER", "PORTS", "TCP", "UDP", "FREE", "FAILED", "FROM"]
    assert lines[2].split()[:8] == ["out-web", "web", "m0", "64", "64", "3", "0", "2"]
    assert lines[3].split()[:8] == ["out-web", "web", "m1", "64", "1", "0", "63", "0"]
    assert "One in use still serves other destinations" in lines[-2]


def test_members_that_share_have_one_line() -> None:
    """Where all have the same ports, what is in use is told once, over all addresses together."""
    rule = replace(outbound(WEB, *VIPS), shared=True)
    rule = replace(rule, slices={member.name: rule.slices["m0"] for member in WEB.members})
    state, counters = documents_of(rule, tcp=7, failed=1)
    (warning, _heads, line, *_rest) = table_text("outbound", state, counters).splitlines()
    assert line.split()[:9] == ["out-web", "web", "all", "3", "16", "14", "0", "2", "1"]
    assert warning == (
        "! The members of pool web use 14 of the 16 SNAT ports that they share (rule out-web, tcp); "
        "name another frontend in the rule."
    )


def test_the_rules_table_has_a_line_for_each_outbound_rule() -> None:
    """`show rules` says who translates what, and where to see how many ports are in use."""
    state, counters = documents_of(outbound(WEB, VIPS[0], ports=64))
    lines = table_text("rules", state, counters).splitlines()
    assert [line.split() for line in lines[-3:-1]] == [
        ["OUTBOUND", "RULE", "FROM", "TRANSLATES", "POOL", "MEMBERS", "PORTS"],
        ["out-web", VIPS[0], "tcp,udp", "web", "3", "64", "each"],
    ]
    assert lines[-1] == "who uses how many of them: asynclb show outbound"


def test_rules_without_ports_are_told_too() -> None:
    """A pool without a way out, one without members, and a configuration without outbound rules."""
    closed = SnatRule("closed", WEB, (), {member.name: () for member in WEB.members})
    empty = SnatRule("empty", BackendPool("none", ()), (Protocol.TCP,), {})
    status = status_of(web_model("a"), {})
    tables = compile_tables((), Health({}), seed=7, generation=3, outbound=(closed, empty))
    state, counters = documents_of(outbound(WEB, VIPS[0]))
    state["outbound_rules"] = outbound_documents(replace(status, tables=tables))
    _heads, first, second, *_ = table_text("outbound", state, counters).splitlines()
    assert first.split()[:4] == ["closed", "web", "all", "3"]
    assert "nothing: disable_outbound_snat" in first
    assert second.split()[:3] == ["empty", "none", "none"]
    assert table_text("rules", state, counters).count("nothing goes out") == 1
    state["outbound_rules"] = []
    assert table_text("outbound", state, counters).startswith("no outbound rule is configured")


def test_many_members_short_of_ports_are_one_sentence() -> None:
    """They are counted, and those with the fewest ports left are named."""
    rule = outbound(WEB, VIPS[0], ports=8)
    uses = port_uses(counted_by(counted(rule, tcp=23).values()))
    verdict = judge(Situation(NOW_S, 3, ports=tuple(use for use in uses if use.is_high)))
    told = "3 members of pool web use most of their SNAT ports (rule out-web, tcp): m0 with 0 left, m1 with 0 left"
    assert verdict.wrong == [f"{told}, m2 with 1 left; raise its allocated_ports."]


def test_documents_say_what_the_counters_say() -> None:
    """What is read from the API's document is what the datapaths have counted, two of them added up."""
    rule = outbound(WEB, VIPS[0], ports=64)
    found = {**counted(rule, tcp=5, failed=1), "kernel": Counters(snat=counted(rule, failed=2)["packet"].snat)}
    both = counted_by(found.values())
    assert read_counted(counters_document(found, 1.0)) == both
    assert both["web", "m0"].failed == 3


def test_the_page_is_sent_those_with_the_least_room() -> None:
    """Each member once, the fullest first, and never more than are read."""
    many = pool("many", *(f"10.1.{number // 200}.{number % 200 + 1}" for number in range(300)))
    found = counted_by(counted(outbound(many, VIPS[0], ports=8), tcp=21).values())
    rows = port_rows(found)
    assert len(rows) == MOST_PORTS
    assert [(row["member"], row["used"]["tcp"], row["free"], row["high"]) for row in rows[:4]] == [
        ("m0", 8, 0, True),
        ("m1", 8, 0, True),
        ("m2", 5, 3, False),
        ("m3", 0, 8, False),
    ]


@pytest.mark.parametrize(("used", "told"), [(48, False), (49, True)])
def test_when_somebody_is_told(used: int, told: bool) -> None:
    """Above three quarters, as the health event of the same meaning."""
    rule = outbound(WEB, VIPS[0], ports=64)
    first = next(port_uses(counted_by(counted(rule, tcp=used).values())))
    assert first.is_high is told
