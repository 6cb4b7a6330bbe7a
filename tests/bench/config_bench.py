"""What reading a large configuration costs: 1,500 rules over one pool of 5,000 members, then 1,500 pools.

Run: python tests/bench/config_bench.py
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

from asynclb.config import parse
from asynclb.config.reader import read

RULES, MEMBERS, FRONTENDS, ROUNDS = 1500, 5000, 600, 5


def one_pool() -> bytes:
    """Return a configuration in which every rule shares one pool."""
    limits = "limits: {rules_per_member: 1500, members_per_frontend: 15000, members_of_all_frontends: 7500000}"
    lines = ["version: 1", limits, "frontends:"]
    lines += [f"  f{i}: {{address: 10.0.{i >> 8}.{i & 255}}}" for i in range(FRONTENDS)]
    lines += ["backend_pools:", "  web:", "    members:"]
    lines += [f"      - {{name: m{i}, address: 10.1.{i >> 8}.{i & 255}, weight: {i % 10 + 1}}}" for i in range(MEMBERS)]
    lines += ["probes:", "  http: {protocol: http, port: 8080, path: /healthz, interval: 5s}", "rules:"]
    for i in range(RULES):
        lines += [f"  - name: r{i}", f"    frontend: f{i % FRONTENDS}", "    protocol: tcp"]
        lines += [f"    frontend_port: {80 + i // FRONTENDS}", f"    backend_port: {8000 + i}"]
        lines += ["    backend_pool: web", "    probe: http", "    idle_timeout: 4m", "    tcp_reset: true"]
    return "\n".join(lines).encode()


def many_pools() -> bytes:
    """Return a configuration in which each rule has a pool of its own, for `compat: azure`."""
    lines = ["version: 1", "compat: azure", "frontends:"]
    lines += [f"  f{i}: {{address: 10.0.{i >> 8}.{i & 255}}}" for i in range(FRONTENDS)]
    lines += ["backend_pools:"]
    for i in range(RULES):
        members = (f"{{name: m{k}, address: 10.{2 + (i >> 8)}.{i & 255}.{k}}}" for k in range(1, 4))
        lines.append(f"  p{i}: {{members: [{', '.join(members)}]}}")
    lines += ["rules:"]
    for i in range(RULES):
        port = 80 + i // FRONTENDS
        lines.append(
            f"  - {{name: r{i}, frontend: f{i % FRONTENDS}, protocol: tcp, frontend_port: {port}, backend_pool: p{i}}}"
        )
    return "\n".join(lines).encode()


def median_s(action: Callable[[], object]) -> float:
    """Return the median time of some rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Print the figures."""
    for name, text in (("5,000 members x 1,500 rules", one_pool()), ("1,500 pools of 3, compat: azure", many_pools())):
        reading, whole = median_s(partial(read, text, file="")), median_s(partial(parse, text, file=""))
        size = len(text) / 1024
        print(f"{name}: {size:,.0f} KiB, read {reading * 1e3:.0f} ms, read and checked {whole * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
