"""What one packet costs in the core alone, and how long the flow table's longest operations take.

`python tests/bench/core_bench.py` prints ns a packet by number of flows, for the whole decision (parse, flow or table
lookup, rewrite; copy from ring to ring included) and for parsing alone, and the pauses of inserts and sweeps.
"""

import ctypes
import mmap
import random
import struct
import sys
from ctypes import addressof, byref, c_char, c_uint32
from pathlib import Path
from time import perf_counter_ns

sys.path.insert(0, str(Path(__file__).parents[2]))

from asynclb import native
from asynclb.datapath.core import Core, RxRing, layout
from tests.unit.core.world import CLIENTS, SECOND, SERVERS, pool, row, tcp, world

VIP = "203.0.113.10"
FRAME_SIZE, FRAMES, MAC = 256, 1024, 82
PACKETS = 1_000_000


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


def main() -> None:
    """Print the figures."""
    parse = parse_only()
    print(f"parse alone: {parse:.1f} ns a packet")
    print(f"{'flows':>10} {'ns/packet':>10} {'x parse':>8} {'longest batch us':>17} {'inserts ns':>11} {'pause us':>9}")
    for flows in (1, 1_000, 100_000, 1_000_000):
        core = world(row(pool("web", *(f"10.1.0.{i}" for i in range(1, 101))), VIP)).core(1_000_000)
        insert, insert_pause = whole(core, flows, flows, SECOND)
        cost, longest = whole(core, flows, min(PACKETS, 300_000), SECOND)
        print(f"{flows:>10} {cost:>10.1f} {cost / parse:>8.1f} {longest:>17.0f} {insert:>11.1f} {insert_pause:>9.0f}")
        if flows == 1_000_000:
            print(f"flows in the table: {core.counters().flows}, without state: {core.counters().stateless}")
            sweep(core, SECOND, "nothing to expire")
            sweep(core, 500 * SECOND, "everything expires")


def sweep(core: Core, now: int, what: str) -> None:
    """Print the longest of the calls that visit the whole table, 2,048 buckets each."""
    longest, total, done = 0, 0, False
    while not done:
        before = perf_counter_ns()
        done = core.sweep(now, 2_048).done
        took = perf_counter_ns() - before
        longest, total = max(longest, took), total + took
    print(f"sweep, {what}: longest call {longest / 1e6:.2f} ms, whole table {total / 1e6:.1f} ms")


if __name__ == "__main__":
    main()
