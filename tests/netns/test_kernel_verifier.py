"""The verifier accepts the object with every combination of settings, for root and with two capabilities."""

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from asynclb.datapath.core import layout
from asynclb.datapath.kernel.programs import SLACK, SMALLEST_IMAGE, Entry, choose, tails
from asynclb.native.libbpf import Libbpf
from tests.unit.core.loaded import OBJECT, need_programs, restrain

HELPER = (0, 1)
"""Whether the kernel tells how long frames are; Linux before 5.18 does not, and the other way takes CAP_PERFMON."""
CAPACITIES = (SMALLEST_IMAGE, 1 << 25)


_WAYS = list(product(HELPER, CAPACITIES, (False, True)))


@pytest.mark.parametrize(("xdp_length", "capacity", "restrained"), _WAYS)
def test_the_object_loads(xdp_length: int, capacity: int, restrained: bool) -> None:
    """The settings are constants to the verifier, which looks at each combination as at a program of its own."""
    need_programs()
    with ThreadPoolExecutor(1) as thread, Libbpf().open_object(OBJECT.read_bytes(), "asynclb") as opened:
        if restrained:
            thread.submit(restrain).result()
        settings = layout.KernelSettings.from_buffer_copy(opened.initial(".rodata.settings"))
        settings.image_mask, settings.xdp_length = capacity - 1, xdp_length
        opened.set_initial(".rodata.settings", bytes(settings))
        opened.set_value_size("images", capacity + SLACK)
        firsts = thread.submit(choose, opened, Entry).result()
        assert firsts[Entry.XDP] == ("asynclb_xdp_plain" if restrained else "asynclb_xdp")
        thread.submit(opened.load).result()
        others = (name for entry, first in firsts.items() for name in tails(entry, first).values())
        assert all(opened.program(name) >= 0 for name in (*firsts.values(), *others))
