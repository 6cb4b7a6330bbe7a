"""How long the forwarding tables take: `python tests/bench/tables_bench.py`.

Prints one line for each case: the time to compile from nothing, the time after one member's change (both without
and with what the cache keeps), and the longest time that the event loop stood still meanwhile.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import uvloop
from beside_loop import beside_loop

from asynclb import native
from asynclb.model import (
    BackendPool,
    Frontend,
    Health,
    HealthState,
    LoadBalancingRule,
    Member,
    MemberHealth,
    Scope,
)
from asynclb.net.flow import Flow, Protocol
from asynclb.net.flowhash import Distribution, flow_hash
from asynclb.tables.compile import TableCache, compile_tables
from asynclb.tables.diff import diff
from asynclb.tables.row import Delivery, FrontendKey, Row

SEED = 0x8C1F0C6E5F0B4A7D
MEMBERS, RULES = 5000, 1500
UP, DOWN = MemberHealth(HealthState.UP), MemberHealth(HealthState.DOWN)


def one_pool() -> list[Row]:
    """1,500 rules over one pool of 5,000 members."""
    members = tuple(Member(f"member-{i}", IPv4Address("10.0.0.1") + i) for i in range(MEMBERS))
    pool = BackendPool("pool", members)
    return [row(i, pool) for i in range(RULES)]


def many_pools() -> list[Row]:
    """1,500 rules over 1,500 pools, which share 5,000 members out among them."""
    members = tuple(Member(f"member-{i}", IPv4Address("10.0.0.1") + i) for i in range(MEMBERS))
    return [row(i, BackendPool(f"pool-{i}", members[i::RULES])) for i in range(RULES)]


def row(number: int, pool: BackendPool) -> Row:
    """Return a TCP rule on a frontend of its own."""
    address = IPv4Address("203.0.113.0") + number
    frontend = Frontend(f"frontend-{number}", address, Scope.PUBLIC, (IPv4Network("0.0.0.0/0"),))
    rule = LoadBalancingRule(f"rule-{number}", frontend.name, Protocol.TCP, 80, 8080, pool.name, probe="probe")
    return Row(FrontendKey(address, 80, Protocol.TCP), rule, frontend, pool, Delivery.NAT)


def all_up(rows: list[Row]) -> dict[tuple[str, str, str], MemberHealth]:
    """Return a health in which every member is up."""
    return {(row.pool.name, member.name, "probe"): UP for row in rows for member in row.pool.members}


@contextmanager
def timed(results: list[float]) -> Iterator[None]:
    """Append the time of the block in milliseconds."""
    start = time.perf_counter()
    yield
    results.append(1000 * (time.perf_counter() - start))


def measure(name: str, rows: list[Row]) -> None:
    """Print the figures of one case."""
    targets = all_up(rows)
    health, changed = Health(targets), Health({**targets, (rows[7].pool.name, "member-7", "probe"): DOWN})
    full, change, delta = list[float](), list[float](), list[float]()
    for _ in range(3):
        cache = TableCache()
        with timed(full):
            old = compile_tables(rows, health, seed=SEED, generation=1, cache=cache)
        with timed(change):
            new = compile_tables(rows, changed, seed=SEED, generation=2, cache=cache)
        with timed(delta):
            moved = diff(old, new)
    kib = sum(table.size for table in {id(e.table): e.table for e in old.entries.values()}.values()) * 2 / 1024
    print(
        f"{name}: compile {min(full):.0f} ms; one member down: compile {min(change):.1f} ms, diff {min(delta):.1f} ms"
    )
    print(f"    rules changed: {len(moved.changed)}; slots take {kib:,.0f} KiB")
    cache = TableCache()
    compile_up = partial(compile_tables, rows, health, seed=SEED, generation=1, cache=cache)
    compile_down = partial(compile_tables, rows, changed, seed=SEED, generation=2, cache=cache)
    for what, work in (("compile", compile_up), ("one member down", compile_down)):
        _, took, stall = uvloop.run(beside_loop(work, asyncio.to_thread))
        print(f"    in a thread: {what} {took:.0f} ms, the loop stood still {stall:.1f} ms at most")


def measure_hash() -> None:
    """Print the cost of the flow hash, which is paid once for every new connection."""
    for flow in (
        Flow(IPv4Address("198.51.100.7"), 41000, IPv4Address("203.0.113.10"), 443, 6),
        Flow(IPv6Address("2001:db8::7"), 41000, IPv6Address("2001:db8::10"), 443, 6),
    ):
        count = 20000
        start = time.perf_counter()
        for _ in range(count):
            flow_hash(SEED, flow, Distribution.FIVE_TUPLE)
        print(f"flow hash, IPv{flow.source.version}: {1e6 * (time.perf_counter() - start) / count:.1f} us")


if __name__ == "__main__":
    print(f"native library: {native.reason}")
    measure("1,500 rules, one pool of 5,000 members", one_pool())
    measure("1,500 rules, 1,500 pools over 5,000 members", many_pools())
    measure_hash()
