"""The demo's checks hold for what a correct balancer does, and fail for each thing that a wrong one does."""

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from asynclb.lab.load import Answer, Failure
from asynclb.lab.nginx import LogTail
from asynclb.lab.verify import Kill, Phase, check_clients, check_failures, check_placement, check_shares, check_wrk
from asynclb.lab.wrk import WrkResult, parse_wrk
from asynclb.model import BackendPool, Frontend, Health, LoadBalancingRule, Member, Scope
from asynclb.net.address import PRIVATE_PREFIXES
from asynclb.net.flow import Flow, Protocol
from asynclb.tables.compile import compile_tables
from asynclb.tables.lookup import Verdict, lookup
from asynclb.tables.row import Delivery, FrontendKey, Row

VIP = "203.0.113.10"
CLIENT = "10.0.1.11"
WEIGHTS = {"be1": 1, "be2": 1, "be3": 2}
POOL = BackendPool("web", tuple(Member(n, ip_address(f"10.0.2.{w + 10}"), w) for n, w in WEIGHTS.items()))
ROW = Row(
    FrontendKey(ip_address(VIP), 80, Protocol.TCP),
    LoadBalancingRule("web", "web", Protocol.TCP, 80, 8080, "web"),
    Frontend("web", ip_address(VIP), Scope.PUBLIC, PRIVATE_PREFIXES),
    POOL,
    Delivery.NAT,
)
TABLES = compile_tables([ROW], Health({}), seed=1, generation=1)
PHASE = Phase("steady", 100.0, 200.0, WEIGHTS, TABLES)
KILL = Kill("be2", 150.0, TABLES, 2)


def member_of(port: int) -> str:
    """Return the member that the tables name for a client port."""
    verdict = lookup(TABLES, Flow(ip_address(CLIENT), port, ip_address(VIP), 80, 6))
    assert isinstance(verdict, Verdict)
    return verdict.member.name


def port_on(member: str) -> int:
    """Return a client port whose connection the tables put on the member."""
    return next(port for port in range(40000, 41000) if member_of(port) == member)


def log(tmp_path: Path, member: str, clients: list[str], started: int = 0) -> LogTail:
    """Write and read an access log with one request of each client and a number of new connections."""
    path = tmp_path / member
    lines = [f"{client} 40000 2 200 150.000 /" for client in clients]
    lines += [f"{CLIENT} {40000 + n} 1 200 150.000 /" for n in range(started)]
    path.write_text("\n".join([*lines, "10.9.9.9 4"]))  # the last line is half written
    tail = LogTail(path)
    tail.read()
    return tail


def test_a_log_is_read_as_it_grows(tmp_path: Path) -> None:
    """A half-written line is counted once it is whole, and nothing is counted twice."""
    tail = log(tmp_path, "be1", [CLIENT], started=2)
    assert (dict(tail.clients), tail.started) == ({CLIENT: 3}, [150.0, 150.0])
    with (tmp_path / "be1").open("a") as file:
        file.write("1 1 200 151.000 /\n")
    tail.read()
    tail.read()
    assert dict(tail.clients) == {CLIENT: 3, "10.9.9.9": 1}


def test_an_address_that_is_not_a_client_fails(tmp_path: Path) -> None:
    """A member that saw the balancer's address, or never saw one of the clients, refutes the claim."""
    both = ["10.0.1.11", "10.0.1.12"]
    good, masked, blind = (
        log(tmp_path, "be1", both),
        log(tmp_path, "be2", [*both, "10.0.2.1"]),
        log(tmp_path, "be3", both[:1]),
    )
    assert check_clients({"be1": good}, both).holds
    assert not check_clients({"be1": good, "be2": masked}, both).holds
    assert not check_clients({"be1": good, "be3": blind}, both).holds


@pytest.mark.parametrize(
    ("counts", "holds"),
    [
        ({"be1": 250, "be2": 250, "be3": 500}, True),
        ({"be1": 280, "be2": 230, "be3": 490}, True),
        ({"be1": 333, "be2": 333, "be3": 334}, False),
        ({"be1": 0, "be2": 0, "be3": 0}, False),
    ],
)
def test_shares_follow_weights_within_chance(tmp_path: Path, counts: dict[str, int], holds: bool) -> None:
    """Weights 1, 1, 2 allow what chance explains, not equal shares, and not the absence of load."""
    logs = {member: log(tmp_path, member, [], started) for member, started in counts.items()}
    assert check_shares(PHASE, logs).holds is holds


def test_a_member_without_eligibility_may_get_nothing(tmp_path: Path) -> None:
    """One connection to a member that is down refutes the share of that phase."""
    phase = Phase("without be2", 100.0, 200.0, {"be1": 1, "be3": 2}, TABLES)
    logs = {member: log(tmp_path, member, [], n) for member, n in {"be1": 333, "be2": 0, "be3": 667}.items()}
    assert check_shares(phase, logs).holds
    logs["be2"] = log(tmp_path, "be2", [], 1)
    assert not check_shares(phase, logs).holds


def test_placement_is_exact() -> None:
    """One new connection on another member than the tables name refutes the claim; others are not asked."""
    right = [Answer(150.0, CLIENT, port, member_of(port), fresh=True) for port in range(40000, 40100)]
    assert check_placement([PHASE], right, VIP, 80).holds
    elsewhere = Answer(150.0, CLIENT, port_on("be1"), "be3", fresh=True)
    assert not check_placement([PHASE], [*right, elsewhere], VIP, 80).holds
    later = Answer(250.0, CLIENT, port_on("be1"), "be3", fresh=True)
    kept = Answer(150.0, CLIENT, port_on("be1"), "be3", fresh=False)
    assert check_placement([PHASE], [*right, later, kept], VIP, 80).holds
    assert not check_placement([PHASE], [], VIP, 80).holds


@pytest.mark.parametrize(
    ("at_s", "holds"), [(149.7, True), (150.1, True), (150.7, True), (150.9, False), (149.4, False)]
)
def test_refusals_until_the_probe_has_seen_it(at_s: float, holds: bool) -> None:
    """Where packets are passed on, the dead member's refusals reach clients until it is known to be down."""
    known = replace(KILL, known_s=150.3)
    assert check_failures(known, 1000, [Failure(at_s, at_s, "", 0, "", "refused")], VIP, 80).holds is holds


@pytest.mark.parametrize(
    ("failure", "holds"),
    [
        (Failure(149.0, 150.1, CLIENT, 1, "be2", "reset"), True),
        (Failure(149.9, 150.1, CLIENT, port_on("be2"), "", "reset"), True),
        (Failure(149.0, 150.1, CLIENT, 1, "be1", "reset"), False),
        (Failure(149.9, 150.1, CLIENT, port_on("be3"), "", "reset"), False),
        (Failure(150.5, 150.6, CLIENT, port_on("be2"), "", "reset"), False),
        (Failure(150.1, 150.1, "", 0, "", "refused"), False),
    ],
    ids=["known", "by the tables", "other member", "other by the tables", "opened after the kill", "never connected"],
)
def test_only_connections_that_died_with_the_member_may_fail(failure: Failure, holds: bool) -> None:
    """A failure is excused if its connection was open to the killed member when it died, and by nothing else."""
    assert check_failures(KILL, 1000, [failure], VIP, 80).holds is holds


@pytest.mark.parametrize(
    ("errors", "holds"),
    [
        ({}, True),
        ({"read": 2}, True),
        ({"read": 3}, False),
        ({"connect": 1}, False),
        ({"timeout": 1}, False),
        ({"status": 1}, False),
    ],
)
def test_wrk_may_lose_its_connections_on_the_member(errors: dict[str, int], holds: bool) -> None:
    """As many read errors as connections on the killed member are expected; anything more refutes the claim."""
    none = dict.fromkeys(("connect", "read", "write", "timeout", "status"), 0)
    assert check_wrk(KILL, [WrkResult(1000, 10.0, none | errors)]).holds is holds


def test_wrk_output_is_understood() -> None:
    """Counts, rate and every kind of error are read from wrk's summary."""
    text = """\
  100 requests in 1.00s, 18.02KB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:     99.50
"""
    errors = {"connect": 1, "read": 2, "write": 3, "timeout": 4, "status": 5}
    assert parse_wrk(text) == WrkResult(100, 99.5, errors)
