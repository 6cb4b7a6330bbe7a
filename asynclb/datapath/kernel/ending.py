"""Ends the flows of members whose time is over: both ends of a connection are reset, and nothing is left of it.

Two passes over the flows. The first silences connections and tells who listens; when what the ends had under way has
come to rest, the second removes what ends and tells again, with what the ends have acknowledged since. An end in the
midst of sending believes no other reset. So does the native core (`Core.part`).

A flow of IPv6 that is silenced is written whole, from a copy some microseconds old: a packet counted in between is not
counted in that flow. Its rule's and its member's counters have it.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from ctypes import c_uint32
from functools import partial
from typing import NamedTuple

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS, Conn
from asynclb.datapath.core.parting import HUSH_S, Ending, Going
from asynclb.datapath.core.values import MAX_MEMBERS
from asynclb.datapath.kernel.evictions import Evictions
from asynclb.datapath.kernel.flows import BATCH, Part, full_key, walk
from asynclb.datapath.kernel.programs import State
from asynclb.datapath.kernel.tally import is_late, library, parting
from asynclb.datapath.kernel.thread import in_thread
from asynclb.datapath.kernel.upkeep import Tell, now_ms
from asynclb.native.libbpf import Libbpf

_PAUSE_S = 0.005  # between two batches of 4,096 flows: a million are seen twice in some 4 s
_TCP = 6


class Found(NamedTuple):
    """Of a batch: connections whose ends are to be told, and flows that were open and are removed."""

    told: list[layout.KeyedFlow]
    removed: list[layout.KeyedFlow]


async def end_flows(
    bpf: Libbpf, state: State, ending: Ending, tell: Tell, over: Tell, evictions: Evictions
) -> Mapping[int, int]:
    """End flows: `tell` the ends of connections, say which flows are `over`; return the connections by member.

    Cancel: some have ended; it can be done again. Raises: BpfError -> as above.
    """
    going, ended = Going(ending.flows, ending.members, max_members=MAX_MEMBERS), Counter[int]()
    for last in (False, True):
        steps = part(bpf, state, going, now_ms, evictions, last=last)
        while (found := await in_thread(partial(next, steps, None))) is not None:
            for keyed in found.told:
                tell(keyed)
            for keyed in found.removed:
                over(keyed)
            if last:
                ended.update(keyed.flow.member for keyed in found.told)
            await asyncio.sleep(_PAUSE_S)
        await asyncio.sleep(0 if last else HUSH_S)
    return ended


def part(
    bpf: Libbpf, state: State, going: Going, clock_ms: Callable[[], int], evictions: Evictions, *, last: bool
) -> Iterator[Found]:
    """Go through the flows once, a batch a step."""
    native, found = library(), (c_uint32 * BATCH)()
    for family in range(2):
        for flows in walk(bpf, state, family):
            indexes = parting(flows.values, flows.count, going, found, native)
            yield _ended(flows, list(indexes), clock_ms(), evictions if last else None)


def _ended(flows: Part, indexes: list[int], now: int, evictions: Evictions | None) -> Found:
    """Silence flows; or remove them, and let that be counted."""
    ended = Found([], [])
    for index in indexes:
        flow = flows.read(index)
        if flow is None:
            continue
        keyed = layout.KeyedFlow(full_key(flows.kind, flows.key(index)), flow)
        if is_open := _is_open(keyed, now):
            ended.told.append(keyed)
        if evictions is not None:
            evictions.delete(partial(flows.delete, index))
            if not is_late(flow.deadline_ms, now):
                ended.removed.append(keyed)
        elif is_open:
            flows.silence(index)
    return ended


def _is_open(keyed: layout.KeyedFlow, now: int) -> bool:
    """Return whether a flow is a connection that its ends believe in: one that idled out was told of before."""
    flow = keyed.flow
    half = flow.flags & CONSTANTS["FLOW_RETURN"] and not flow.flags & CONSTANTS["FLOW_SNAT"]
    return keyed.key.protocol == _TCP and flow.state != Conn.CLOSED and not is_late(flow.deadline_ms, now) and not half
