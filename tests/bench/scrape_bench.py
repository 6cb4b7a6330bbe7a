"""How long a scrape takes, and how long it holds the loop: `python tests/bench/scrape_bench.py`.

1,500 rules over one pool of 5,000 members that are probed and have SNAT ports: 80,000 samples, 6 MB. The snapshot is
taken on the loop and rendered in a thread, as `app` and `admin.api` do.
"""

from collections.abc import Callable
from functools import partial

import tables_bench
import uvloop
from beside_loop import beside_loop

from asynclb.control.status import DatapathStatus, Status
from asynclb.datapath.base import Counters, MemberCounters, RuleCounters, SnatCounters, SnatPorts
from asynclb.health.outcome import OutcomeKind
from asynclb.health.record import DURATION_BOUNDS_S, ProbeResults, Record, Results
from asynclb.model import Health, Model
from asynclb.observe.metrics import Snapshot, render
from asynclb.tables.compile import compile_tables

ROUNDS = 5


def source() -> Callable[[], Snapshot]:
    """Return what takes a snapshot of a large instance."""
    rows = tables_bench.one_pool()
    pool = rows[0].pool
    model = Model(
        frontends={row.frontend.name: row.frontend for row in rows},
        backend_pools={pool.name: pool},
        rules=tuple(row.rule for row in rows),
    )
    health = Health(tables_bench.all_up(rows))
    tables = compile_tables(rows, health, seed=tables_bench.SEED, generation=1)
    carried = {row.rule.name: "auto" for row in rows}
    path = DatapathStatus("kernel", 1, 0.0, carried, dict.fromkeys(carried, "xdp"))
    status = Status(
        ready=True,
        config_path="asynclb.yaml",
        config_digest="",
        started_s=0.0,
        generation=1,
        generation_since_s=0.0,
        model=model,
        health=health,
        tables=tables,
        datapaths=(path,),
        last_reload=None,
        reloads={"applied": 1},
    )
    ports = (SnatPorts("frontend-0", 8, {"tcp": 3, "udp": 1}),)
    counters = Counters(
        rules={name: RuleCounters(*range(10**9, 10**9 + 7)) for name in carried},
        members={(pool.name, member.name): MemberCounters(10**12, 10**12, 10**6, 10) for member in pool.members},
        snat={(pool.name, member.name): SnatCounters(9, 0, ports) for member in pool.members},
    )
    records = {(pool.name, member.name, "probe"): Record() for member in pool.members}
    for record in records.values():
        record.add(1, 0.001, OutcomeKind.SUCCESS)
    probe = ProbeResults((5,) * (len(DURATION_BOUNDS_S) + 1), 1.0, 0, 0, 0)

    def take() -> Snapshot:
        results = Results({target: record.counts[:] for target, record in records.items()}, {"probe": probe})
        return Snapshot(status, {"kernel": counters, "proxy": Counters()}, results)

    return take


async def scrape(take: Callable[[], Snapshot]) -> tuple[float, float, int]:
    """Scrape once; return how long it took and how late the loop was at most, in ms, and the bytes."""
    (body, _), took_ms, late_ms = await beside_loop(partial(render, take(), ""))
    return took_ms, late_ms, len(body)


def measure() -> tuple[float, float, int]:
    """Return the median time and the longest stall of some scrapes, in ms, and the bytes of one."""
    take = source()
    found = [uvloop.run(scrape(take)) for _ in range(ROUNDS)]
    return sorted(took_ms for took_ms, _, _ in found)[ROUNDS // 2], max(late for _, late, _ in found), found[0][2]


if __name__ == "__main__":
    took_ms, late_ms, length = measure()
    print(f"scrape of {length / 1e6:.1f} MB: {took_ms:,.0f} ms, event loop held for {late_ms:.1f} ms at most")
