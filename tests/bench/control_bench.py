"""What the rest of asynclb costs: tables, probes, configuration. The loads are those of the benches beside it."""

import ctypes
import multiprocessing
import signal
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess

import config_bench
import health_bench
import scrape_bench
import tables_bench
import uvloop
from beside_loop import beside_loop

from asynclb.config import parse
from asynclb.model import Health, ProbeProtocol
from asynclb.tables.compile import TableCache, compile_tables
from asynclb.tables.row import Row

_ROUNDS = 3
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table; `limit` is what it is to stay under, None where nothing is promised.

    `inclusive`: the limit itself is allowed.
    """

    what: str
    value: float
    unit: str
    limit: float | None = None
    inclusive: bool = False

    @property
    def reached(self) -> bool:
        """Whether it keeps to its limit."""
        return self.limit is None or self.value < self.limit or (self.inclusive and self.value == self.limit)


def tables() -> list[Figure]:
    """Compile 1,500 rules over 5,000 members, and again after one member's change."""
    figures = []
    cases = {"one pool of 5,000": tables_bench.one_pool(), "1,500 pools over 5,000": tables_bench.many_pools()}
    for name, rows in cases.items():
        full_ms, change_ms, stall_ms = _compile_times(rows)
        figures += [
            Figure(f"tables of 1,500 rules, {name} members: compile", full_ms, "ms", 3000),
            Figure(f"tables of 1,500 rules, {name} members: one member changes", change_ms, "ms", 50),
            Figure(f"tables of 1,500 rules, {name} members: event loop held", stall_ms, "ms", 20),
        ]
    return figures


def _compile_times(rows: list[Row]) -> tuple[float, float, float]:
    """Return the best times of some rounds and the longest stall of all, in ms."""
    targets = tables_bench.all_up(rows)
    changed = {**targets, (rows[7].pool.name, "member-7", "probe"): tables_bench.DOWN}
    healths = (Health(targets), Health(changed))
    times: tuple[list[float], list[float]] = ([], [])
    stalls = []
    for _ in range(_ROUNDS):
        cache = TableCache()
        for health, results in zip(healths, times, strict=True):
            work = partial(compile_tables, rows, health, seed=tables_bench.SEED, generation=1, cache=cache)
            _, took_ms, stall_ms = uvloop.run(beside_loop(work))
            results.append(took_ms)
            stalls.append(stall_ms)
    return min(times[0]), min(times[1]), max(stalls)


def scrape() -> list[Figure]:
    """Scrape an instance of 1,500 rules over 5,000 members."""
    took_ms, late_ms, length = scrape_bench.measure()
    what = f"scrape of 1,500 rules over 5,000 members, {length / 1e6:.1f} MB"
    return [Figure(what, took_ms, "ms", 1000), Figure(f"{what}: event loop held", late_ms, "ms", 20)]


def probes(seconds: float, kinds: tuple[str, ...]) -> list[Figure]:
    """Probe 5,000 members every 5 s."""
    context = multiprocessing.get_context("spawn")
    ports: multiprocessing.Queue[dict[str, int]] = context.Queue()
    child: BaseProcess = context.Process(target=_members, args=(ports,), daemon=True)
    child.start()
    try:
        port = ports.get(timeout=20)
        rows = [uvloop.run(health_bench.measure(ProbeProtocol(kind), port[kind], 5000, 5.0, seconds)) for kind in kinds]
    finally:
        child.terminate()
        child.join()
    return [
        Figure(f"{row.kind} probes of 5,000 members every 5 s", row.core_percent, "% of a core", 25) for row in rows
    ]


def _members(ports: "multiprocessing.Queue[dict[str, int]]") -> None:
    """Run the members, and end with the process that wanted them, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    health_bench.members(ports)


def configuration() -> list[Figure]:
    """Read and check a large configuration."""
    cases = {
        "1,500 rules, one pool of 5,000 members": config_bench.one_pool(),
        "1,500 rules, 1,500 pools of 3 members": config_bench.many_pools(),
    }
    figures = []
    for name, text in cases.items():
        times = []
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            parse(text, file="")
            times.append(time.perf_counter() - start)
        figures.append(Figure(f"configuration of {name}, {len(text) / 1024:,.0f} KiB", 1e3 * min(times), "ms"))
    return figures
