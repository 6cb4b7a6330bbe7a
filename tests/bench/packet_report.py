"""The packet datapath's tables: Markdown, from the samples of one run. Pure."""

from collections.abc import Sequence
from statistics import median

from control_bench import Figure
from packet_bench import FLOWS, FORWARDERS, TCP_LOADS, TCP_SUBJECTS, PacketResults
from packet_peers import ASYNCLB, DIRECT, KERNEL, LOOP, PYTHON
from proxy_bench import Plan
from report import figures_table, number, table, yes

_LOOP_GOAL, _PYTHON_GOAL, _LATENCY_GOAL_US = 0.8, 10.0, 150.0
_NONE = "–"  # noqa: RUF001  a dash in an empty cell


def render(results: PacketResults, core: Sequence[Figure], plan: Plan) -> list[str]:
    """Return the tables of what was measured."""
    parts = [_packets(results, plan)] if results.packets else []
    if results.tcp:
        parts.append(_tcp(results))
    if results.rings:
        parts.append(_rings(results))
    if core:
        parts.append(figures_table("The packet core alone", core))
    return parts


def _packets(results: PacketResults, plan: Plan) -> str:
    rows = []
    for flows in FLOWS:
        values = {name: [sample.value for sample in results.packets[flows, name]] for name in FORWARDERS}
        offered = min(median(results.offered[flows, name]) for name in FORWARDERS if name != KERNEL)
        cells = [number(median(values[name])) for name in FORWARDERS]
        goals = _goal(values[ASYNCLB], values[LOOP], _LOOP_GOAL), _goal(values[ASYNCLB], values[PYTHON], _PYTHON_GOAL)
        rows.append([f"{flows:,}", number(offered), *cells, *goals[0], *goals[1]])
    text = (
        "Packets a second that reach the member through one UDP rule (`nat`), one direction, frames of 64 bytes; "
        f"medians of {plan.rounds} interleaved rounds. `{LOOP}`: a C program that swaps the link addresses of what a "
        f"packet socket maps, and sends it on. `{KERNEL}`: the kernel's routing with nftables, in the sender's own "
        f"time. `{PYTHON}`: the datapath's rings with its decision in plain Python. The sender has one processor, the "
        "subject the other; `offered` is the least that was sent to one of them."
    )
    heads = ["flows", "offered", *FORWARDERS]
    heads += [f": {LOOP}", "target", "reached", f": {PYTHON}", "target", "reached"]
    return f"### Packets\n\n{text}\n\n" + table(heads, rows, left=0)


def _goal(ours: Sequence[float], theirs: Sequence[float], bound: float) -> list[str]:
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    spread = f"**{median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"
    return [spread, f"at least {bound:g}", yes(median(ratios) >= bound)]


def _tcp(results: PacketResults) -> str:
    rows = []
    for key, (title, unit, _) in TCP_LOADS.items():
        if (key, ASYNCLB) not in results.tcp:
            continue
        values = {name: [sample.value for sample in results.tcp[key, name]] for name in TCP_SUBJECTS}
        cells = [number(median(values[name])) for name in TCP_SUBJECTS]
        rows.append([title, unit, *cells, *_against_direct(key, values[ASYNCLB], values[DIRECT])])
    failed = sum(sample.failed for (_, name), samples in results.tcp.items() if name == ASYNCLB for sample in samples)
    heads = ["", "unit", *TCP_SUBJECTS, f"{ASYNCLB} to {DIRECT}", "target", "reached"]
    note = f"Requests through the packet datapath without an answer: {failed:,}."
    return "### TCP through the packet datapath\n\n" + table(heads, rows, left=2) + f"\n\n{note}"


def _against_direct(key: str, ours: Sequence[float], direct: Sequence[float]) -> list[str]:
    if key == "packet-latency":
        above = median(mine - other for mine, other in zip(ours, direct, strict=True))
        return [f"**{above:+.0f} us**", f"at most {_LATENCY_GOAL_US:+g} us", yes(above <= _LATENCY_GOAL_US)]
    ratio = median(mine / other for mine, other in zip(ours, direct, strict=True))
    return [f"{ratio:.2f} x", _NONE, _NONE]


def _rings(results: PacketResults) -> str:
    titles = {
        "frames": ("frames taken in, nothing else done", "1/s"),
        "latency": ("a lone frame, there and back", "us"),
    }
    rows = [
        [*titles[what], *(number(median(results.rings[what, version])) for version in ("v2", "v3"))] for what in titles
    ]
    text = (
        "A program that does nothing else, with a ring of 2 MiB; V3 hands a block over when it is full, or after 1 ms."
    )
    return f"### Receive rings\n\n{text}\n\n" + table(["", "unit", "TPACKET_V2", "TPACKET_V3"], rows, left=2)
