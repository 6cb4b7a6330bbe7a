"""Which worker a frame goes to: the program in the kernel against its twin, over any frame."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynclb.datapath.packet.fanout import Pinning, place_of
from asynclb.net.address import Address
from tests.unit.packet.test_fanout import KEY, PLACES, frame, packet

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loads a program")


@given(ends=st.tuples(st.ip_addresses(), st.ip_addresses()), ports=st.binary(min_size=4, max_size=40))
def test_the_program_is_its_twin(ends: tuple[Address, Address], ports: bytes) -> None:
    """Any two ends: the program says what the twin says, and the same for the way back."""
    source, destination = ends
    if source.version != destination.version:
        destination = type(source)(int(destination) % (1 << source.max_prefixlen))
    pinning = Pinning(KEY)
    try:
        pinning.add({source} if ports[0] & 1 else ())
        ours = {source} if ports[0] & 1 else set()
        for pair in ((source, destination), (destination, source)):
            assert pinning.program.run(frame(packet(*pair, 17, ports))) == place_of(pair, ours, KEY, PLACES)
    finally:
        pinning.close()


@given(
    junk=st.binary(min_size=54, max_size=200),
    kind=st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x81\x00", b"\x88\xa8"]),
)
def test_any_frame_has_a_place(junk: bytes, kind: bytes) -> None:
    """Frames that lie or are cut short behind their first header have a place too; what is not IP has the first."""
    pinning = Pinning(KEY)
    try:
        assert 0 <= pinning.program.run(junk[:12] + kind + junk[14:]) < PLACES
        assert pinning.program.run(junk[:12] + b"\x08\x06" + junk[14:].ljust(28, b"\0")) == 0
    finally:
        pinning.close()
