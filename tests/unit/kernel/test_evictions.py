"""How many flows the kernel gave up: what was made, is not there and was not deleted."""

from ctypes import sizeof
from functools import partial

import pytest

from asynclb.datapath.core import layout
from asynclb.datapath.kernel.evictions import Evictions
from asynclb.datapath.kernel.flows import walk
from asynclb.datapath.kernel.sweep import Sweep
from asynclb.native.libbpf import Libbpf
from tests.unit.kernel.flow_maps import flow_maps
from tests.unit.kernel.test_sweep import NOW_MS, flow, six, whole_pass

ROOM = 2_000


class Programs:
    """What puts flows into small maps, and counts those that had no place before. Owner: a test."""

    def __init__(self, bpf: Libbpf) -> None:
        self._bpf = bpf
        self.state = flow_maps(bpf, ROOM)
        self.made = 0

    def put(self, start: int, number: int, left_ms: int = 60_000) -> None:
        """Make flows over IPv6, whose table the kernel keeps from being full."""
        for index in range(start, start + number):
            self.made += self._bpf.lookup(self.state["flows6"], six(index), sizeof(layout.Flow)) is None
            self._bpf.update(self.state["flows6"], six(index), flow(left_ms))

    def there(self) -> int:
        """Return how many flows there are."""
        found = Sweep(self._bpf, self.state, lambda: (1, 1, 0))
        whole_pass(found)
        return found.counted.flows


@pytest.fixture
def programs(bpf: Libbpf) -> Programs:
    """Give the test programs and their maps."""
    return Programs(bpf)


def test_what_there_is_room_for_is_not_evicted(bpf: Libbpf, programs: Programs) -> None:
    """Flows that begin, are replaced, and are deleted because they are over, or by hand, are no evictions."""
    evictions = Evictions(lambda: programs.made, adopted=False)
    sweep = Sweep(bpf, programs.state, lambda: (1, 1, 0), evictions=evictions)
    programs.put(0, 200)
    programs.put(100, 200, left_ms=-1)
    whole_pass(sweep)
    part = next(walk(bpf, programs.state, 1))
    assert evictions.delete(partial(part.delete, 0))
    assert not evictions.delete(partial(part.delete, 0))
    whole_pass(sweep)
    assert sweep.ended == 200
    assert evictions.number == 0


def test_what_makes_room_is_counted(bpf: Libbpf, programs: Programs) -> None:
    """Three times as many flows as there is room for: all that are neither there nor deleted."""
    evictions = Evictions(lambda: programs.made, adopted=False)
    sweep = Sweep(bpf, programs.state, lambda: (1, 1, 0), evictions=evictions)
    programs.put(0, 6 * ROOM)
    whole_pass(sweep)
    assert evictions.number == 6 * ROOM - programs.there() > ROOM


def test_flows_that_come_during_a_pass(bpf: Libbpf, programs: Programs) -> None:
    """They are no evictions for this pass, and never count twice."""
    evictions = Evictions(lambda: programs.made, adopted=False)
    sweep = Sweep(bpf, programs.state, lambda: (1, 1, 0), evictions=evictions)
    programs.put(0, 3 * ROOM)
    whole_pass(sweep)
    before = evictions.number
    sweep.step(NOW_MS, 1)  # has seen one map
    programs.put(3 * ROOM, ROOM)
    while sweep.passes == 1:
        sweep.step(NOW_MS, 1)
    assert before <= evictions.number <= 4 * ROOM - programs.there()
    whole_pass(sweep)
    assert evictions.number == 4 * ROOM - programs.there()


def test_maps_of_a_process_before(bpf: Libbpf, programs: Programs) -> None:
    """What it deleted or saw evicted is not known, and counts for nothing; what is evicted from here on does."""
    programs.put(0, 4 * ROOM)
    evictions = Evictions(lambda: programs.made, adopted=True)
    sweep = Sweep(bpf, programs.state, lambda: (1, 1, 0), evictions=evictions)
    whole_pass(sweep)
    assert evictions.number == 0
    before = programs.there()
    programs.put(4 * ROOM, 2 * ROOM)
    whole_pass(sweep)
    assert evictions.number == 2 * ROOM + before - programs.there()
