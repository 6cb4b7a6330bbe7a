"""How full the kernel datapath's flow maps are, as one number."""

import pytest

from asynclb.datapath.kernel.counting import capacity
from asynclb.datapath.kernel.sweep import Counted

LIMITS = (1_000, 250)


def test_the_share_that_is_told_is_that_of_the_fuller_map() -> None:
    """Each family has a map of its own, and the one that is full evicts, however empty the other is."""
    for by_map, share in (((800, 0), 0.8), ((0, 200), 0.8), ((700, 100), 0.7), ((100, 200), 0.8), ((1_000, 250), 1.0)):
        flows = sum(by_map)
        assert flows / capacity(Counted(flows, by_map=by_map), LIMITS) == pytest.approx(share, rel=0.001), by_map


def test_without_flows_there_is_room_in_both() -> None:
    """Before the first pass, and when nothing was found, the maps' sizes are added up."""
    assert capacity(Counted(), LIMITS) == capacity(Counted(by_map=(0, 0)), LIMITS) == 1_250
