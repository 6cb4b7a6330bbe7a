"""Tables of flows without the programs: what a test puts in lies where a program could have put it."""

import struct
from ctypes import sizeof

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS
from asynclb.datapath.kernel.programs import FlowLimits, State
from asynclb.native.libbpf import MMAPABLE, Libbpf, MapType

WAYS, GROUP = CONSTANTS["SET_WAYS"], CONSTANTS["SET_GROUP"]
REST = layout.Flow.rest


def flow_maps(bpf: Libbpf, flows: int) -> State:
    """Make tables with room for so many flows of each family."""
    groups = FlowLimits(flows4=flows).groups
    sets = bpf.create_map(MapType.ARRAY, "flows4", 4, sizeof(layout.FlowSet), groups * GROUP, MMAPABLE)
    rests = bpf.create_map(MapType.ARRAY, "rests4", 4, sizeof(layout.FlowRest), groups * GROUP * WAYS, MMAPABLE)
    marks = bpf.create_map(MapType.ARRAY, "marks4", 4, 8, groups, MMAPABLE)
    six = bpf.create_map(MapType.LRU_HASH, "flows6", sizeof(layout.Key), sizeof(layout.Flow), flows)
    return State({"flows4": sets, "rests4": rests, "marks4": marks, "flows6": six})


def set_of(bpf: Libbpf, state: State, number: int) -> layout.FlowSet:
    """Return a copy of a set."""
    return layout.FlowSet.from_buffer_copy(
        bpf.lookup(state["flows4"], struct.pack("=I", number), sizeof(layout.FlowSet)) or b""
    )


def put_four(bpf: Libbpf, state: State, key: bytes, flow: bytes) -> bool:
    """Put an IPv4 flow into a set, in place of the one of its key; return whether it is a new one.

    Raises: OverflowError -> the set is full.
    """
    words = struct.unpack("=QQ", key)
    sets = bpf.map_info(state["flows4"]).max_entries
    number = sum(words) * 0x9E37_79B9_7F4A_7C15 % 2**64 * sets >> 64
    found = set_of(bpf, state, number)
    ways = [way for way in range(WAYS) if tuple(found.way[way].word) == words]
    free = [way for way in range(WAYS) if not found.way[way].word[1]]
    if not ways and not free:
        raise OverflowError("the set is full")
    way = (ways or free)[0]
    found.way[way] = layout.FlowWay.from_buffer_copy(flow[: REST.offset] + key)
    bpf.update(state["flows4"], struct.pack("=I", number), bytes(found))
    bpf.update(state["rests4"], struct.pack("=I", number * WAYS + way), flow[REST.offset :])
    bpf.update(state["marks4"], struct.pack("=I", number // GROUP), struct.pack("=Q", 1))
    return not ways
