"""Sums over what maps say: the native library and its twins give the same answers."""

import ctypes
import random
from array import array
from ctypes import sizeof

import pytest

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS
from asynclb.datapath.core.memory import MARKS
from asynclb.datapath.core.parting import Going
from asynclb.datapath.kernel.tally import Gauges, Moment, flow_at, is_late, judge, library, mark, parting, sums

NATIVE = library()
needs_library = pytest.mark.skipif(NATIVE is None, reason="the native library has not been built")
NOW_MS = 5_000


def values_of(items: "array[int]") -> "ctypes.Array[ctypes.c_char]":
    """Return words as the memory of a batch."""
    return ctypes.create_string_buffer(items.tobytes(), len(items) * 8)


@pytest.mark.parametrize(("count", "cpus", "words"), [(0, 2, 8), (1, 1, 1), (7, 3, 8), (100, 16, 4)])
def test_processors_are_added_up(count: int, cpus: int, words: int) -> None:
    """Each word of each entry is the sum over the processors, in C and in Python."""
    chance = random.Random(count)
    items = array("Q", (chance.getrandbits(48) for _ in range(count * cpus * words)))
    found = sums(values_of(items), count, cpus, words, native_library=None)
    for entry in range(count):
        for word in range(words):
            wanted = sum(items[(entry * cpus + cpu) * words + word] for cpu in range(cpus))
            assert found[entry * words + word] == wanted
    if NATIVE is not None:
        assert sums(values_of(items), count, cpus, words, native_library=NATIVE) == found


def flows(number: int) -> "ctypes.Array[ctypes.c_char]":
    """Return the memory of a batch of flows: some are over, some are the other half of a hairpin."""
    chance = random.Random(1)
    records = (layout.Flow * number)()
    for record in records:
        record.rule, record.member = chance.randrange(4), chance.randrange(6)
        record.deadline_ms = (NOW_MS + chance.randrange(-100, 100)) & 0xFFFF_FFFF
        record.flags = chance.choice((0, CONSTANTS["FLOW_RETURN"], CONSTANTS["FLOW_RESET"]))
        record.state = chance.choice(list(layout.Conn))
    return ctypes.create_string_buffer(bytes(records), number * sizeof(layout.Flow))


@needs_library
def test_flows_are_judged_alike() -> None:
    """C and Python count the same flows for the same rules and members, and end the same ones."""
    values, late = flows(500), (ctypes.c_uint32 * 500)()
    fast, slow = Gauges(4, 6), Gauges(4, 6)
    moment = Moment(NOW_MS, NOW_MS - 50)
    found = list(judge(values, 500, moment, fast, late, NATIVE))
    assert found == list(judge(values, 500, moment, slow, late, None))
    assert 0 < len(found) < 500
    assert list(fast.rules) == list(slow.rules)
    assert list(fast.members) == list(slow.members)
    assert 0 < fast.flows == slow.flows < 500 - len(found)
    assert 0 < fast.closed == slow.closed < fast.flows
    assert sum(fast.rules) < fast.flows  # halves of hairpins are nobody's


@needs_library
def test_flows_that_end_are_found_alike() -> None:
    """C and Python find the same flows: all of some members, and some of others by rule and port."""
    values, found = flows(500), (ctypes.c_uint32 * 500)()
    going = Going([(1, 2, 0), (3, 4, 0), (0, 4, 8080)], [5], max_members=6)
    fast = list(parting(values, 500, going, found, NATIVE))
    assert fast == list(parting(values, 500, going, found, None))
    records = (flow_at(values, index) for index in fast)
    assert {(record.rule, record.member) for record in records} == {(1, 2), (3, 4), *((rule, 5) for rule in range(4))}


def test_a_deadline_beyond_the_wrap() -> None:
    """Deadlines are compared on a circle of 49 days."""
    assert is_late(10, 10)
    assert is_late(0xFFFF_FFF0, 5)
    assert not is_late(5, 0xFFFF_FFF0)


@needs_library
@pytest.mark.parametrize("kind", [layout.Key4, layout.Key])
def test_ports_of_own_connections_are_marked_alike(kind: type[layout.Key4] | type[layout.Key]) -> None:
    """C and Python mark the same ports in use: those of living halves that answers find, by address and protocol."""
    chance = random.Random(2)
    records, keys = (layout.Flow * 500)(), (kind * 500)()
    both = CONSTANTS["FLOW_RETURN"] | CONSTANTS["FLOW_SNAT"]
    for record, key in zip(records, keys, strict=True):
        record.deadline_ms = NOW_MS + chance.randrange(-100, 100)
        record.flags = chance.choice((0, both, both, CONSTANTS["FLOW_SNAT"], CONSTANTS["FLOW_RETURN"]))
        record.hairpin_port = chance.randrange(4)
        key.destination_port, key.protocol = chance.randrange(1024, 65_536), chance.choice((6, 17))
    values = ctypes.create_string_buffer(bytes(records), 500 * sizeof(layout.Flow))
    data = ctypes.create_string_buffer(bytes(keys), 500 * sizeof(kind))
    fast, slow = bytearray(3 * 2 * MARKS), bytearray(3 * 2 * MARKS)
    mark(data, values, 500, kind, NOW_MS, fast, NATIVE)
    mark(data, values, 500, kind, NOW_MS, slow, None)
    assert fast == slow
    assert 0 < int.from_bytes(fast, "little").bit_count() < 500
