"""The sweep: what is over ends, the rest is counted, and no call is long."""

import errno
import os
from collections.abc import Iterator
from ctypes import sizeof
from ipaddress import ip_address

import pytest

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS, Conn
from asynclb.datapath.core.places import mapped
from asynclb.datapath.kernel.flows import BATCH, flows_in, full_key
from asynclb.datapath.kernel.programs import State
from asynclb.datapath.kernel.sweep import Sweep
from asynclb.native.libbpf import BpfError, Libbpf, MapInfo
from tests.unit.kernel.flow_maps import flow_maps, put_four

NOW_MS = 0xFFFF_FF00
"""Shortly before the clock wraps."""
TCP = 6


@pytest.fixture
def state(bpf: Libbpf) -> Iterator[State]:
    """Give the test the tables of flows, empty."""
    found = flow_maps(bpf, 20_000)
    yield found
    found.close()


def four(number: int) -> bytes:
    """Return the key of a TCP flow."""
    return bytes(layout.Key4(0x0A000001, 0xCB00710A, 1_024 + number, 80, TCP, 0, 0))


def six(number: int) -> bytes:
    """Return the key of a TCP flow over IPv6."""
    ends = layout.Address(0x20010DB8 << 32, 1), layout.Address(0x20010DB8 << 32, 2)
    return bytes(layout.Key(*ends, 1_024 + number, 80, TCP, 0))


def flow(left_ms: int, **fields: int) -> bytes:
    """Return a flow that is over in so many milliseconds."""
    return bytes(layout.Flow(deadline_ms=(NOW_MS + left_ms) & 0xFFFF_FFFF, **fields))


def whole_pass(sweep: Sweep) -> list[layout.KeyedFlow]:
    """Sweep to the end of a pass; return the flows that want resets."""
    resets, before = [], sweep.passes
    while sweep.passes == before:
        resets += sweep.step(NOW_MS, 1)
    return resets


def test_one_pass_counts_both_tables(bpf: Libbpf, state: State) -> None:
    """Open flows are counted by rule and member over IPv4 and IPv6; those past their deadline are gone."""
    for number in range(300):
        put_four(bpf, state, four(number), flow(500, rule=1, member=number % 3))
        bpf.update(state["flows6"], six(number), flow(-1 if number < 100 else 400, rule=2, member=5))
    sweep = Sweep(bpf, state, lambda: (3, 6, 0))
    assert whole_pass(sweep) == []
    assert sweep.counted.flows == 500
    assert sweep.counted.rules == {1: 300, 2: 200}
    assert sweep.counted.members == {0: 100, 1: 100, 2: 100, 5: 200}
    assert sweep.ended == 100
    assert len(list(flows_in(bpf, state))) == 500


def test_numbers_beyond_those_in_use(bpf: Libbpf, state: State) -> None:
    """A flow of a rule that nobody knows is counted as open, and as nobody's."""
    put_four(bpf, state, four(1), flow(500, rule=900, member=70_000))
    sweep = Sweep(bpf, state, lambda: (3, 6, 0))
    whole_pass(sweep)
    assert (sweep.counted.flows, sweep.counted.rules, sweep.counted.members) == (1, {}, {})


def test_who_is_told(bpf: Libbpf, state: State) -> None:
    """Open TCP connections of rules with `tcp_reset` are handed out when they idle out, with their keys."""
    reset = CONSTANTS["FLOW_RESET"]
    put_four(bpf, state, four(1), flow(-5, flags=reset, state=Conn.ESTABLISHED))
    put_four(bpf, state, four(2), flow(-5, flags=reset, state=Conn.CLOSED))
    put_four(bpf, state, four(3), flow(-5, state=Conn.ESTABLISHED))
    bpf.update(state["flows6"], six(4), flow(-5, flags=reset, state=Conn.ESTABLISHED))
    sweep = Sweep(bpf, state, lambda: (1, 1, 0))
    assert [keyed.key.source_port for keyed in whole_pass(sweep)] == [1_025, 1_028]
    assert whole_pass(sweep) == []


def test_what_idled_out_is_remembered(bpf: Libbpf, state: State) -> None:
    """Connections stay for minutes after they idled out, and are nobody's open flows; others are gone at once."""
    put_four(bpf, state, four(1), flow(-5, state=Conn.ESTABLISHED))
    put_four(bpf, state, four(2), flow(-5, state=Conn.SYN))
    put_four(bpf, state, four(3), flow(-5 - CONSTANTS["EXPIRED_MS"], state=Conn.ESTABLISHED))
    sweep = Sweep(bpf, state, lambda: (1, 1, 0))
    whole_pass(sweep)
    assert [keyed.key.source_port for keyed in flows_in(bpf, state)] == [1_025]
    assert (sweep.counted.flows, sweep.ended) == (0, 2)


def test_a_step_is_bounded(bpf: Libbpf, state: State) -> None:
    """However many flows there are, a step looks at no more than it was told to."""
    for number in range(3 * BATCH):
        put_four(bpf, state, four(number), flow(-5))
    sweep = Sweep(bpf, state, lambda: (1, 1, 0))
    sweep.step(NOW_MS, 1)
    assert 0 < sweep.ended <= BATCH
    whole_pass(sweep)
    assert sweep.ended == 3 * BATCH


class Stumbling(Libbpf):
    """The library, whose next look at a map fails."""

    fails = 1

    def map_info(self, fd: int) -> MapInfo:
        """Fail once, or return a map's shape."""
        if self.fails:
            self.fails -= 1
            raise BpfError("map the table of flows", errno.ENOMEM)
        return super().map_info(fd)


def test_a_pass_that_fails(bpf: Libbpf, state: State) -> None:
    """It is told of, and the next step begins a pass anew."""
    put_four(bpf, state, four(1), flow(500))
    sweep = Sweep(Stumbling(), state, lambda: (1, 1, 0))
    with pytest.raises(BpfError, match="Cannot allocate"):
        sweep.step(NOW_MS, 1)
    whole_pass(sweep)
    assert sweep.counted.flows == 1


@pytest.mark.parametrize(("source", "version"), [("10.0.0.1", 4), ("2001:db8::1", 6)])
def test_a_short_key_means_the_same(source: str, version: int) -> None:
    """A flow's full key is the one that the native core has, whichever map it is in."""
    found = full_key(layout.Key4, four(7)) if version == 4 else full_key(layout.Key, six(7))
    assert (found.source.high, found.source.low) == mapped(ip_address(source))
    assert (found.source_port, found.destination_port, found.protocol) == (1_031, 80, TCP)


def test_flows_are_as_large_as_the_maps_have_them() -> None:
    """An entry is a line of the cache, and the descriptors of a state can be closed twice."""
    assert sizeof(layout.Flow) == 64
    state = State({"flows4": os.open("/dev/null", os.O_RDONLY)})
    state.close()
    state.close()
