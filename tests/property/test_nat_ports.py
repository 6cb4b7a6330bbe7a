"""Ports of inbound NAT rules, through any history of a pool."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from asynclb.rules.inbound_nat import assign_range
from tests.unit.rules.test_inbound_nat import NAMES


@given(st.lists(st.lists(st.sampled_from(NAMES), unique=True, max_size=6), max_size=12))
def test_ports_are_disjoint_and_stable(history: list[list[str]]) -> None:
    """Through any history of a pool, members that stay keep their ports, and no two share one."""
    ports: Mapping[str, int] = {}
    for members in history:
        before, ports = ports, assign_range(100, 105, members, ports)
        assert list(ports) == members
        assert len(set(ports.values())) == len(ports)
        assert all(100 <= port <= 105 for port in ports.values())
        assert all(ports[name] == before[name] for name in before.keys() & ports.keys())
        assert assign_range(100, 105, members, ports) == ports
