"""Flows that the core tells of: one of so many, the same in C and in Python, when they begin and when they end."""

import pytest

from asynclb import native
from asynclb.datapath.core.layout import Told
from asynclb.datapath.core.memory import flow_view
from asynclb.datapath.frames.lifetimes import is_sampled
from asynclb.net.flow import Protocol
from tests.unit.core.world import CLIENTS, SECOND, pool, row, udp, world

pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)

PORTS = range(1_000, 1_800)


@pytest.mark.parametrize(
    ("vip", "client", "member"),
    [("203.0.113.10", "198.51.100.7", "10.1.0.11"), ("2001:db8::10", "2001:db8:1::7", "2001:db8:2::11")],
)
def test_one_of_so_many_is_told_of(vip: str, client: str, member: str) -> None:
    """C and Python choose the same flows, a fourth of them; each is told of when it begins and when it is over."""
    core = world(row(pool("web", member), vip, port=53, protocol=Protocol.UDP)).core()
    core.listen(ends=True, starts=True)
    for port in PORTS:
        core.process(bytes(udp(client, port, vip, 53)), ifindex=CLIENTS, now_ns=SECOND)
    flows = [flow_view(told) for told in core.told()]
    assert len(flows) == len(PORTS)
    wanted = {flow.client_port for flow in flows if is_sampled(flow, 4)}
    assert len(wanted) == pytest.approx(len(PORTS) / 4, rel=0.25)
    core.listen(ends=True, starts=True, sample=4)
    while not core.sweep(SECOND * 1_000, 1_000).done:
        pass
    ends = list(core.told())
    assert {told.told for told in ends} == {Told.LATE}
    assert {flow_view(told).client_port for told in ends} == wanted
    for port in PORTS:
        core.process(bytes(udp(client, port, vip, 53)), ifindex=CLIENTS, now_ns=SECOND * 1_001)
    assert {flow_view(told).client_port for told in core.told()} == wanted
