"""The kernel datapath's tables: Markdown, from the samples of one run. Pure."""

from collections.abc import Sequence
from statistics import median

from kernel_bench import LATENCY, WHOLE_PATH, KernelResults
from kernel_changes import MEMBERS, Changes
from kernel_packets import DELIVERIES, FLOOR, FLOWS, HOOKS, PROGRAMS, WAIT_MB, Packets
from kernel_peers import DNAT, SUBJECTS
from loads import Sample
from peers import ASYNCLB, DIRECT, HAPROXY
from proxy_bench import Plan
from report import number, table, yes

_NONE = "–"  # noqa: RUF001  a dash in an empty cell
_NO_GOALS = ((DIRECT, 0.0), (DNAT, 0.0), (HAPROXY, 0.0))
_GOALS: dict[str, tuple[tuple[str, float], ...]] = {
    "requests": ((DIRECT, 0.9), (DNAT, 1.1), (HAPROXY, 1.5)),
    "upload": ((DIRECT, 0.9), (DNAT, 0.0), (HAPROXY, 0.0)),
    "download": ((DIRECT, 0.9), (DNAT, 0.0), (HAPROXY, 0.0)),
}
"""Rivals and what is to be reached of theirs; 0: nothing was promised."""
_FLOOR_GOALS = {1_000: 2.5, 1_000_000: 5.0}
_LATENCY_GOAL_US, _NEW_FLOWS_GOAL, _MEMORY_GOAL = 10.0, 500_000, 200e6
_RATE = 1e6
_SLOW = (
    "Where fewer than a million frames a second came, others used the caches for longer between two frames than the "
    "targets mean."
)
_RELOAD_GOAL_MS, _PROBE_GOAL_MS = 100.0, 10.0


def render(results: KernelResults, plan: Plan) -> list[str]:
    """Return the tables of what was measured, or why nothing was."""
    if results.absent:
        return [f"### The kernel datapath\n\nNot measured, for this host has none: {results.absent}"]
    parts = [_whole_path(results, plan)] if results.tcp else []
    if results.packets.costs:
        parts.append(_packets(results.packets, plan))
    rows = [*_latency_rows(results), *_flow_rows(results.packets), *_change_rows(results.changes)]
    if rows:
        parts.append(
            "### Latency, new flows, changes\n\n" + table(["", "measured", "unit", "target", "reached"], rows, left=1)
        )
    return parts


def _whole_path(results: KernelResults, plan: Plan) -> str:
    rows = []
    for key, (title, unit, _) in (WHOLE_PATH | LATENCY).items():
        if (key, ASYNCLB) in results.tcp:
            columns = {name: _values(results.tcp[key, name]) for name in SUBJECTS}
            cells = [number(median(columns[name])) for name in SUBJECTS]
            rows.append([title, unit, *cells, *_ratios(key, columns)])
    text = (
        "Two members behind a router, and what its users could pick instead of asynclb; medians of "
        f"{plan.rounds} interleaved rounds, ratios of asynclb to the others, with the targets in brackets. `{DIRECT}`: "
        f"the router forwards, no balancer. `{DNAT}`: nftables picks a member at random, conntrack remembers. "
        f"`{HAPROXY}`: transparent, a thread for each processor."
    )
    heads = ["", "unit", *SUBJECTS, *(f": {rival}" for rival in (DIRECT, DNAT, HAPROXY)), "reached"]
    failed = sum(sample.failed for (_, name), samples in results.tcp.items() if name == ASYNCLB for sample in samples)
    note = f"Requests through the kernel datapath without an answer: {failed:,}."
    return f"### The kernel datapath\n\n{text}\n\n" + table(heads, rows, left=2) + f"\n\n{note}"


def _values(samples: Sequence[Sample]) -> list[float]:
    return [sample.value for sample in samples]


def _ratios(key: str, columns: dict[str, list[float]]) -> list[str]:
    """Return a cell for each rival, and whether all targets are reached. Latency has its target in another table."""
    cells, reached = [], []
    for rival, bound in _GOALS.get(key, _NO_GOALS):
        ratio = median(ours / theirs for ours, theirs in zip(columns[ASYNCLB], columns[rival], strict=True))
        cells.append(f"**{ratio:.2f}** (at least {bound:g})" if bound else f"{ratio:.2f}")
        reached += [ratio >= bound] if bound else []
    return [*cells, yes(all(reached)) if reached else _NONE]


def _packets(packets: Packets, plan: Plan) -> str:
    rows = [
        [hook, f"{flows:,}", *_packet_cells(packets, hook, flows)]
        for hook in HOOKS
        for flows in FLOWS
        if (hook, flows, FLOOR) in packets.costs
    ]
    text = (
        f"Nanoseconds of one run of the program, as the kernel counts them (`kernel.bpf_stats_enabled`); medians of "
        f"{plan.rounds} interleaved rounds, UDP frames of 64 bytes, one direction, each of a flow by chance; each "
        f"processor has flows of its own. `{FLOOR}`: a program that parses "
        "Ethernet, IPv4 and UDP, and redirects. `M/s`: the fewest frames that a program was run on, in millions "
        "a second. The targets are for the slowest delivery."
    )
    heads = ["hook", "flows", "M/s", *PROGRAMS, *(f"{name} : {FLOOR}" for name in DELIVERIES), "target", "reached"]
    slow = any(median(cost.rate for cost in each) < _RATE for each in packets.costs.values())
    notes = [*([_SLOW] if slow else []), *_waits(packets.waits)]
    return "\n\n".join(("### One packet in the kernel", text, table(heads, rows, left=1), *notes))


def _waits(waits: Sequence[float]) -> list[str]:
    if not waits:
        return []
    spread = f"{median(waits):.0f} ns (median; {min(waits):.0f} to {max(waits):.0f})"
    text = (
        f"A processor of this host waited {spread} for a line by chance of {WAIT_MB} MB, which is where the lines of a "
        "million flows are; a virtual machine's neighbours use the same caches and memory."
    )
    return [text]


def _packet_cells(packets: Packets, hook: str, flows: int) -> list[str]:
    costs = {name: packets.costs[hook, flows, name] for name in PROGRAMS}
    rate = min(median(cost.rate for cost in each) for each in costs.values())
    times = [f"{median(cost.ns for cost in costs[name]):.0f}" for name in PROGRAMS]
    ratios = [
        median(ours.ns / floor.ns for ours, floor in zip(costs[name], costs[FLOOR], strict=True)) for name in DELIVERIES
    ]
    goal = _FLOOR_GOALS.get(flows)
    verdict = [f"at most {goal:g}", yes(max(ratios) <= goal)] if goal else [_NONE, _NONE]
    return [f"{rate / 1e6:.2f}", *times, *(f"**{ratio:.2f}**" for ratio in ratios), *verdict]


def _latency_rows(results: KernelResults) -> list[list[str]]:
    if ("latency", ASYNCLB) not in results.tcp:
        return []
    columns = (_values(results.tcp["latency", name]) for name in (ASYNCLB, DIRECT))
    above = median(ours - direct for ours, direct in zip(*columns, strict=True))
    goal = f"at most {_LATENCY_GOAL_US:+g}"
    return [[f"latency of one request, to {DIRECT}", f"{above:+.1f}", "us", goal, yes(above <= _LATENCY_GOAL_US)]]


def _flow_rows(packets: Packets) -> list[list[str]]:
    rows = []
    for hook, costs in packets.new.items():
        rate = 1e9 / median(cost.ns for cost in costs)
        text = (
            f"new flows in one core's time, {hook} ({median(packets.counted[hook]):.1%} of the frames counted as such)"
        )
        rows.append([text, number(rate), "1/s", f"at least {_NEW_FLOWS_GOAL:,}", yes(rate >= _NEW_FLOWS_GOAL)])
        passed = median(cost.rate for cost in costs)
        rows.append([f"new flows forwarded, sender included, {hook}", number(passed), "1/s", _NONE, _NONE])
    if packets.memory:
        size = max(packets.memory.values())
        goal = f"at most {_MEMORY_GOAL / 1e6:g}"
        rows.append(["memory of a million flows", number(size / 1e6), "MB", goal, yes(size <= _MEMORY_GOAL)])
    return rows


def _change_rows(changes: Changes) -> list[list[str]]:
    rows = []
    for title, times, goal in (
        (
            f"reload that changes one member of {MEMBERS:,}: no more new flows to the old address",
            changes.reload,
            _RELOAD_GOAL_MS,
        ),
        ("a probe's verdict: no more new flows to the member", changes.probe, _PROBE_GOAL_MS),
    ):
        if times:
            spread = f"{number(median(times))} (worst {number(max(times))})"
            rows.append([f"{title}, after", spread, "ms", f"at most {goal:g}", yes(max(times) <= goal)])
    return rows
