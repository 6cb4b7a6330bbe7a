"""A datapath that drains: open flows go on, new ones find nobody."""

from ipaddress import ip_address

from asynclb.datapath.frames.drained import drained
from asynclb.model import keeps_sessions
from asynclb.net.flow import Flow, Protocol
from asynclb.tables.compile import compile_tables
from asynclb.tables.lookup import Verdict, lookup
from asynclb.tables.snat import SnatRule
from tests.unit.proxy.world import SEED, health_of, member, row


def test_nobody_takes_new_flows_and_everybody_keeps_theirs() -> None:
    """Every rule is still there; its members drain."""
    rows = [row("203.0.113.10", 80, [member("be1", "10.0.2.11"), member("be2", "10.0.2.12")], 8080)]
    tables = compile_tables(rows, health_of(rows), seed=SEED, generation=3)
    flow = Flow(ip_address("10.0.1.11"), 41_000, ip_address("203.0.113.10"), 80, 6)
    assert isinstance(lookup(tables, flow), Verdict)
    ends = drained(tables)
    assert ends.generation == 4
    assert not isinstance(lookup(ends, flow), Verdict)
    (entry,) = ends.entries.values()
    assert all(keeps_sessions(kept, ()) for kept in entry.row.pool.members)


def test_what_members_open_themselves_goes_on() -> None:
    """Their connections keep their ports, and may begin."""
    rows = [row("203.0.113.10", 80, [member("be1", "10.0.2.11")], 8080)]
    outbound = (SnatRule("out", rows[0].pool, (Protocol.TCP,), {}),)
    tables = compile_tables(rows, health_of(rows), seed=SEED, generation=3, outbound=outbound)
    assert drained(tables).outbound == tables.outbound == outbound
