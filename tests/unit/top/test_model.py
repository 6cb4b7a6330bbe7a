"""Rates, rows and screens, without a terminal."""

from typing import Any

import pytest

from asynclb.top.keys import Ui, press, read_keys
from asynclb.top.model import Look, Rates, View, rates
from asynclb.top.view import draw


def counters(clock_s: float, new_flows: int = 0, drops: int = 0, pid: int = 1) -> Any:
    """Return the counters of two rules and two members."""
    numbers = {"bytes_in": 1000 * new_flows, "bytes_out": 5000 * new_flows, "new_flows": new_flows, "flows": 3}
    numbers |= {"packets_in": 9 * new_flows, "packets_out": 9 * new_flows}
    path = {"name": "proxy", "flows": 6, "capacity": 0, "drops": {"no_rule": drops} if drops else {}}
    return {
        "clock_s": clock_s,
        "pid": pid,
        "datapaths": [path],
        "rules": [{"name": name, **numbers} for name in ("web", "dns")],
        "members": [{"pool": "web", "name": name, **numbers} for name in ("a", "b")],
    }


def state() -> Any:
    """Return the state of two rules over two members, one of which is down."""

    def member(name: str, health: str) -> Any:
        found = {"state": health, "reason": f"Reason_{health}", "detail": "", "since": "2027-01-15T08:00:10.000Z"}
        member: Any = {"name": name, "address": "10.1.0.11", "admin_state": "none", "weight": 1}
        return member | {"override": None, "health": [found]}

    rule = {
        "kind": "load_balancing",
        "pool": "web",
        "eligible": 1,
        "members": 2,
        "protocol": "tcp",
        "address": "203.0.113.10",
        "port": 80,
        "backend_port": 8080,
        "delivery": "nat",
    }
    return {
        "stopping": False,
        "ready": True,
        "started": "2027-01-15T08:00:00.000Z",
        "uptime_s": 100.0,
        "generation": 4,
        "last_reload": None,
        "rules": [
            {**rule, "name": "web", "state": "serving", "datapath": "proxy"},
            {**rule, "name": "dns", "state": "silent", "datapath": None},
        ],
        "inbound_nat_rules": [],
        "tables": [{"pool": "web", "members": [{"name": "a", "share": 1.0}]}],
        "pools": [{"name": "web", "members": [member("a", "up"), member("b", "down")]}],
    }


LOOK = Look(state(), counters(12.0, 200, drops=30), {"clients": [], "open": 0})


def test_rates_are_differences_by_second() -> None:
    """Two looks two seconds apart give bits, flows and drops in a second."""
    found = rates(counters(10.0, 100, drops=10), counters(12.0, 200, drops=30))
    assert (found.rules["web"].new_flows, found.rules["web"].bits_in) == (50.0, 400_000.0)
    assert found.total.bits_out == 4_000_000.0
    assert found.drops == {("proxy", "no_rule"): 10.0}


@pytest.mark.parametrize("after", [counters(10.0, 200), counters(9.0, 200), counters(12.0, 200, pid=2)])
def test_no_rates_over_a_restart_or_without_time(after: Any) -> None:
    """A new process counts from 0, and two looks at one instant say nothing."""
    assert rates(counters(10.0, 100), after) == Rates()


def test_counters_that_fall_are_no_rate() -> None:
    """A rule whose counters begin anew is shown with 0, not with less."""
    assert rates(counters(10.0, 100), counters(12.0, 50)).rules["web"].new_flows == 0.0


def texts(ui: Ui, width: int = 80, height: int = 24) -> list[str]:
    """Draw and return the lines."""
    found = rates(counters(10.0, 100, drops=10), LOOK.counters)
    return [line.text for line in draw(LOOK, found, ui, width, height).lines]


def test_the_first_line_says_what_is_wrong_and_bad_rows_stand_first() -> None:
    """A silent rule is in the first line, and its row before the one that serves."""
    lines = texts(Ui())
    assert lines[0] == "Rule dns drops every new flow: no member of pool web is eligible. (and 1 more)"
    assert lines[1].startswith("up 100s  generation 4  flows 6  new 100/s  in 800kb/s  out 4.0Mb/s  drops 10/s")
    assert lines[3].split()[:3] == ["RULE", "STATE", "UP"]
    assert [line.split()[0] for line in lines[4:6]] == ["dns", "web"]
    assert lines[-1].startswith("F1 help")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("\x1b[A\x1b[B\x1bOA", ["up", "down", "up"]),
        ("\x1bOP\x1b[14~\x1b[21~", ["help", "filter", "quit"]),
        ("\x1b", ["escape"]),
        ("\x1b[99;99~x", ["unknown", "x"]),
        ("a\r\x7f", ["a", "enter", "erase"]),
    ],
)
def test_sequences_of_terminals(typed: str, expected: list[str]) -> None:
    """Arrows, function keys and escape are told apart; sequences that are not known are skipped whole."""
    assert list(read_keys(typed)) == expected


def test_keys_choose_what_is_shown() -> None:
    """Tab turns the view, filters are typed and cleared, columns are sorted, pages move and stop at the end."""

    def typed(text: str, ui: Ui | None = None) -> Ui:
        ui = ui or Ui()
        for key in read_keys(text):
            ui = press(ui, key, 10, 100)
        return ui

    assert typed("\t").view is View.MEMBERS
    assert typed("\x1b[Z").view is View.OUTBOUND
    assert typed("4").view is View.DROPS
    assert typed("/qq\x7f\r").filter == "q"
    assert typed("/q\x1b").filter == ""
    assert typed(">>").sort == 1
    assert typed("I").down is False
    assert typed("\x1b[6~\x1b[6~k").place == 19
    assert typed("G").place == 99
    assert typed("Gg").place == 0
    assert typed("?").help
    assert typed("?x").help is False
    assert typed("q").quit
    assert typed(" ").paused


def test_filter_and_order() -> None:
    """A filter keeps rows that contain it; a number sorts the highest first, a name from A on, and the other way."""
    assert [line.split()[0] for line in texts(Ui(filter="WEB", view=View.MEMBERS))[4:6]] == ["web/b", "web/a"]
    assert texts(Ui(filter="nothing"))[4] == "no rules with 'nothing'"
    by_name = Ui(sort=0, view=View.MEMBERS)
    assert [line.split()[0] for line in texts(by_name)[4:6]] == ["web/a", "web/b"]
    assert "MEMBER^" in texts(by_name)[3]
    assert [line.split()[0] for line in texts(Ui(sort=0, down=False, view=View.MEMBERS))[4:6]] == ["web/b", "web/a"]
    shares = Ui(sort=3, view=View.MEMBERS)
    assert [line.split()[0] for line in texts(shares)[4:6]] == ["web/a", "web/b"]


def test_the_first_line_fits_and_says_how_much_else_is_wrong() -> None:
    """A sentence goes on in the next lines where there is room; at their end it is cut, not how much else is wrong."""
    assert texts(Ui(), 50, 19)[0] == "Rule dns drops every new flow: no me~ (and 1 more)"
    lines = texts(Ui(), 50, 20)
    assert lines[:2] == ["Rule dns drops every new flow: no member of pool", "web is eligible. (and 1 more)"]
    assert (lines[2].split()[0], len(lines)) == ("up", 20)
    assert texts(Ui(), 24, 24)[:3] == [
        "Rule dns drops every new",
        "flow: no member of pool",
        "web is eli~ (and 1 more)",
    ]
    assert texts(Ui(), 24, 24)[3].startswith("up 100s")


def test_at_80_columns_members_show_traffic_and_why() -> None:
    """A long reason is cut before the columns of traffic are left out."""
    state_now: Any = state()
    long = "GET /healthz answered 503, expected 200 to 299, after three redirections"
    state_now["pools"][0]["members"][1]["health"][0]["detail"] = long
    look = Look(state_now, counters(12.0, 200), {})
    found = rates(counters(10.0, 100), look.counters)
    lines = [line.text for line in draw(look, found, Ui(View.MEMBERS), 80, 24).lines]
    assert lines[3].split()[:3] == ["MEMBER", "STATE", "FOR"]
    assert "b/s" in lines[3]
    assert lines[4].split()[:3] == ["web/b", "down", "90s"]
    assert lines[4].endswith("~")
    assert len(lines[4]) == 80
    assert max(map(len, lines)) <= 80


def test_nobody_answers() -> None:
    """Before the first answer, and when the process has gone, the first line says so and what to do."""
    trouble = "no asynclb answers at x"
    assert draw(None, Rates(), Ui(), 80, 24, trouble).lines[0].text == trouble
    found = draw(LOOK, Rates(), Ui(), 80, 24, trouble).lines
    assert (found[0].text, found[0].look) == (trouble, "bad")
    assert found[4].text.split()[0] == "dns"


def test_the_members_with_the_fewest_snat_ports_left_stand_first() -> None:
    """A member without a free port is bad; those that share their ports are one row."""

    def used(name: str, tcp: int, *, failed: int = 0, shared: bool = False) -> Any:
        part = {"rule": "out", "frontend": "web", "allocated": 64, "used": {"tcp": tcp}, "shared": shared}
        return {"pool": "all" if shared else "web", "name": name, "attempted": 9, "failed": failed, "ports": [part]}

    snat = [used("a", 5), used("b", 64, failed=3), *(used(name, 50, shared=True) for name in "cd")]
    look = Look(state(), {**counters(12.0, 200), "snat": snat}, {})
    lines = draw(look, Rates(), Ui(View.OUTBOUND, place=-1), 80, 24).lines
    assert lines[0].text == "Rule dns drops every new flow: no member of pool web is eligible. (and 3 more)"
    assert [(line.text.split(), line.look) for line in lines[3:7]] == [
        (["MEMBER", "USED", "TCP", "UDP", "FREE", "PORTS", "FAILED", "RULE"], "head"),
        (["web/b", "100%", "64", "-", "0", "64", "3", "out"], "bad"),
        (["all/all", "2", "78%", "50", "-", "14", "64", "0", "out"], "warn"),
        (["web/a", "8%", "5", "-", "59", "64", "0", "out"], "plain"),
    ]
