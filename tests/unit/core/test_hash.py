"""The core's hash and layout are the ones that Python has."""

import json
from ctypes import byref, c_uint32, c_uint64, sizeof
from ipaddress import ip_address
from pathlib import Path

import pytest

from asynclb import native
from asynclb.datapath.core import layout
from asynclb.datapath.core.places import mapped
from asynclb.net.drop import Drop
from asynclb.net.flowhash import KEY1_TWEAK, Distribution
from asynclb.tables.row import Delivery

GOLDEN = Path(__file__).parents[2] / "golden" / "flowhash.json"
pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)


def test_the_native_hash_gives_the_golden_vectors() -> None:
    """Every vector, IPv4 and IPv6, every distribution, both kinds of symmetry."""
    assert native.library is not None
    native.library.asynclb_core_hash.restype = c_uint64
    for vector in json.loads(GOLDEN.read_text())["vectors"]:
        source, sport, destination, dport, protocol = vector["flow"]
        ends = (layout.Address(*mapped(ip_address(end))) for end in (source, destination))
        key = layout.Key(*ends, sport, dport, protocol, 0)
        seed = int(vector["seed"], 16)
        hashed = native.library.asynclb_core_hash(
            *(c_uint64(seed), c_uint64(seed ^ KEY1_TWEAK), byref(key)),
            *(c_uint32(layout.Distribution[vector["distribution"].upper()]), c_uint32(vector["symmetric"])),
        )
        assert f"{hashed:#018x}" == vector["hash"]


def test_the_library_was_built_from_this_layout() -> None:
    """The digest covers every size, offset, constant and drop reason; C asserts them when it is compiled."""
    assert native.library is not None
    assert native.library.asynclb_core_layout() & 0xFFFF_FFFF == layout.digest(drop.name for drop in Drop)


def test_the_layout_has_the_words_of_the_tables() -> None:
    """Deliveries and distributions of the tables exist in C under the same names."""
    assert [item.name for item in layout.Delivery] == [item.name for item in Delivery]
    assert [item.name for item in layout.Distribution] == [item.name for item in Distribution]


def test_a_flow_takes_at_most_128_bytes_with_all_that_belongs_to_it() -> None:
    """Nine flows, their tags and deadlines make a bucket of 1,024 bytes, and 8 of 9 are counted on."""
    assert sizeof(layout.Bucket) == 1024
    assert sizeof(layout.Bucket) // 8 <= 128


def test_the_state_table_covers_every_state_and_event() -> None:
    """Each (direction, event) has a next state for each state, and packs into the word that C shifts."""
    assert set(layout.TRANSITIONS) == {(way, event) for way in (0, 1) for event in layout.Event}
    for (way, event), row in layout.TRANSITIONS.items():
        assert len(row) == len(layout.Conn)
        word = layout.transition_word(way, event)
        assert [layout.Conn(word >> 4 * state & 15) for state in layout.Conn] == list(row)
