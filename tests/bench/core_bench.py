"""What one packet costs in the core alone, and how long the flow table's longest operations take.

`python tests/bench/core_bench.py` prints ns a packet by number of flows, for the whole decision (parse, flow or table
lookup, rewrite; copy from ring to ring included) and for parsing alone, and the pauses of inserts and of sweeps as
large as the datapath's.
"""

import ctypes
import mmap
import random
import struct
import sys
from ctypes import addressof, byref, c_char, c_uint32, sizeof
from pathlib import Path
from time import perf_counter_ns, process_time_ns

sys.path.insert(0, str(Path(__file__).parents[2]))

from control_bench import Figure

from asynclb import native
from asynclb.datapath.core import Core, RxRing, build_image, layout
from tests.unit.core.world import CLIENTS, SECOND, SERVERS, outbound, pool, row, tcp, world

VIP = "203.0.113.10"
FRAME_SIZE, FRAMES, MAC = 256, 1024, 82
PACKETS = 1_000_000
MILLION = 1_000_000
SWEEP_BUCKETS = 512
"""As many as packet/datapath.py sweeps at once."""


def sources(flows: int) -> list[tuple[int, int]]:
    """Return distinct (address, port) pairs."""
    return [(0x0B000000 + i // 60_000, 1024 + i % 60_000) for i in range(flows)]


def fill(rx: mmap.mmap, template: bytes, pairs: list[tuple[int, int]]) -> None:
    """Put one frame for each pair into the ring, as the kernel does."""
    head = struct.pack("=IIIHH16x", 1, len(template), len(template), MAC, MAC + 14)
    for slot, (address, port) in enumerate(pairs):
        at = slot * FRAME_SIZE
        frame = template[:26] + struct.pack("!I", address) + template[30:34] + struct.pack("!H", port) + template[36:]
        rx[at + MAC : at + MAC + len(frame)] = frame
        rx[at : at + 32] = head


def open_rings(core: Core) -> tuple[mmap.mmap, mmap.mmap, RxRing]:
    """Return the rings' memory and the receive ring of a core."""
    rx, tx = mmap.mmap(-1, FRAME_SIZE * FRAMES), mmap.mmap(-1, FRAME_SIZE * FRAMES)
    core.attach_egress(SERVERS, tx, FRAME_SIZE, FRAMES)
    return rx, tx, RxRing(rx, ifindex=CLIENTS, frame_size=FRAME_SIZE, frame_count=FRAMES)


def whole(core: Core, flows: int, packets: int, now: int) -> tuple[float, float]:
    """Return ns a packet of the batch call, and the longest batch of 64 in us; the first pass makes the flows."""
    rx, tx, ring = open_rings(core)
    template, pairs = bytes(tcp("11.0.0.1", 1, VIP, 80, 16)), sources(flows)
    rng = random.Random(3)
    total, longest, done = 0, 0, 0
    while done < packets:
        chosen = pairs[done : done + FRAMES] if packets == flows else rng.choices(pairs, k=FRAMES)
        if packets == flows and len(chosen) < FRAMES:
            chosen += pairs[: FRAMES - len(chosen)]
        fill(rx, template, chosen)
        for _ in range(FRAMES // 64):
            before = perf_counter_ns()
            core.receive(ring, 64, now)
            took = perf_counter_ns() - before
            total, longest = total + took, max(longest, took)
        tx[:] = bytes(len(tx))
        done += FRAMES
    core.detach_egress(SERVERS)
    return total / done, longest / 1000


def parse_only() -> float:
    """Return ns of a parse, in one call each less the price of a call."""
    assert native.library is not None
    frame = bytes(tcp("11.0.0.1", 1, VIP, 80, 16))
    data, key = (c_char * len(frame)).from_buffer_copy(frame), layout.Key()
    before = perf_counter_ns()
    native.library.asynclb_core_parse_many(
        ctypes.c_void_p(addressof(data)), c_uint32(len(frame)), byref(key), c_uint32(PACKETS)
    )
    return (perf_counter_ns() - before) / PACKETS


def sweep(core: Core, now: int, buckets: int) -> tuple[float, float]:
    """Return the longest of the calls that visit the whole table, and all of them together, in ms."""
    longest, total, done = 0, 0, False
    while not done:
        before = perf_counter_ns()
        done = core.sweep(now, buckets).done
        took = perf_counter_ns() - before
        longest, total = max(longest, took), total + took
    return longest / 1e6, total / 1e6


def own_connections(members: int, each: int) -> tuple[float, float, float]:
    """Return ns of processor time that a connection of a member's own takes to get a port, and the share that got one.

    The first figure is of a table whose memory is new, so that the system makes a page for every few flows; the second
    of the same table once it has been filled and swept, as that of a balancer that has been up for a while. Members
    have 64 ports each on one address; of every 64 connections to one destination 25 are open at the end.
    """
    backend = pool("web", *(f"10.{1 + i // 250}.{i % 250}.1" for i in range(members)))
    found = world(outbound=(outbound(backend, VIP, ports=64, first=128),), seed=9)
    core = Core(members * each * 5 // 2, max_rules=16, max_members=members, max_next_hops=members)
    core.publish(build_image(found.tables, found.plan))
    addresses = [member.address.packed for member in backend.members]
    first = _opened(core, addresses, each, SECOND)
    sweep(core, 500 * SECOND, SWEEP_BUCKETS)
    again = _opened(core, addresses, each, 500 * SECOND)
    counted, made = core.counters(), 2 * (members * each // FRAMES * FRAMES)
    got = sum(member.new_flows for member in counted.members.values())
    core.close()
    return first, again, got / made


def _opened(core: Core, addresses: list[bytes], each: int, now: int) -> float:
    """Let every address open so many connections; return ns of processor time for one."""
    rx = mmap.mmap(-1, FRAME_SIZE * FRAMES)
    ring = RxRing(rx, ifindex=SERVERS, frame_size=FRAME_SIZE, frame_count=FRAMES)
    template, took, made = bytes(tcp("10.1.0.1", 1, "198.51.100.1", 443)), 0, 0
    head = struct.pack("=IIIHH16x", 1, len(template), len(template), MAC, MAC + 14)
    slot = 0
    for number in range(each):
        destination = struct.pack("!I", 0x0B00_0000 + number // 25)
        tail = destination + struct.pack("!H", 1024 + number) + template[36:]
        for address in addresses:
            at = slot * FRAME_SIZE
            rx[at + MAC : at + MAC + len(template)] = template[:26] + address + tail
            rx[at : at + 32] = head
            slot += 1
            if slot == FRAMES:
                before = process_time_ns()
                core.receive(ring, FRAMES, now)
                took, made, slot = took + process_time_ns() - before, made + FRAMES, 0
    return took / made


def figures(packets: int) -> list[Figure]:
    """Return all figures; targets are those of the flow table."""
    parse, found = parse_only(), []
    found.append(Figure("parsing alone, a packet", parse, "ns"))
    for flows in (1, 1_000, 100_000, MILLION):
        core = world(row(pool("web", *(f"10.1.0.{i}" for i in range(1, 101))), VIP)).core(MILLION)
        insert, pause = whole(core, flows, flows, SECOND)
        cost, _ = whole(core, flows, min(PACKETS, packets), SECOND)
        what = f"core alone, {flows:,} {'flow' if flows == 1 else 'flows'}, a packet"
        found += [Figure(what, cost, "ns"), Figure(f"{what}, to parsing alone", cost / parse, "x")]
        if flows == MILLION:
            found += _table_figures(core, insert, pause)
        core.close()
    first, again, share = own_connections(1_000, 1_000)
    found.append(Figure("outbound rule, a new connection of 1,000 members with 1,000 each", again, "ns", 2_000))
    found.append(Figure("outbound rule, the same while the table's memory is new", first, "ns", 2_000))
    found.append(Figure("outbound rule, of those connections without a port", 100 * (1 - share), "%"))
    return found


def _table_figures(core: Core, insert_ns: float, pause_us: float) -> list[Figure]:
    """Return the figures of a full flow table, and empty it."""
    kept = core.counters().flows
    size = sizeof(layout.Bucket) * (MILLION // 8) / MILLION
    idle_ms, _ = sweep(core, SECOND, SWEEP_BUCKETS)
    expiry_ms, whole_ms = sweep(core, 500 * SECOND, SWEEP_BUCKETS)
    return [
        Figure("flow table, memory of one flow of a million", size, "bytes", 128, inclusive=True),
        Figure("flow table, of a million flows without an entry", MILLION - kept, "flows"),
        Figure("flow table, a new flow while it fills to a million", insert_ns, "ns"),
        Figure("flow table, longest batch of 64 new flows", pause_us / 1e3, "ms", 5),
        Figure("flow table, longest sweep with nothing to expire", idle_ms, "ms", 5),
        Figure("flow table, longest sweep while all expires", expiry_ms, "ms", 5),
        Figure("flow table, all sweeps that expire a million flows", whole_ms, "ms"),
    ]


if __name__ == "__main__":
    for figure in figures(PACKETS):
        print(f"{figure.what}: {figure.value:,.2f} {figure.unit}")
