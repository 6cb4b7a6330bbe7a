"""The tables that `make bench` prints: Markdown, from the samples of one run. Pure but for `describe_machine`."""

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

from control_bench import Figure
from loads import Sample
from peers import ASYNCLB, HAPROXY, NGINX, SUBJECTS
from proxy_bench import MEASURES, SPLICED, Goal, Measure, Plan, Results

import asynclb

_MEMORY_LIMIT_KIB = 12.0
_BALANCERS = (ASYNCLB, HAPROXY, NGINX)
_NONE = "–"  # noqa: RUF001  a dash in an empty cell


def render(results: Results, figures: Sequence[Figure], plan: Plan, machine: str, *more: str) -> str:
    """Return all tables; those that nothing was measured for are left out. `more` are others, before the last."""
    best = {measure.key: _best(measure, results) for measure in MEASURES if (measure.key, ASYNCLB) in results.samples}
    parts = [machine]
    if best:
        parts += [_speed(best, plan), *_failures(best), *_splicing(results), _cost(best)]
    if results.memory:
        parts.append(_memory(results))
    parts += more
    if figures:
        parts.append(figures_table("Tables, probes, configuration", figures))
    return "\n\n".join(parts) + "\n"


def describe_machine() -> str:
    """Return a line on the processor, the kernel and the versions of all that was compared."""
    processor = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    kernel = re.match(r"[\d.]*\d", platform.release())
    haproxy = _said("haproxy", "-v").split()[2].partition("-")[0]
    nginx = _said("nginx", "-v").strip().rpartition("/")[2]
    congestion_control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()  # the lab inherits it
    return (
        f"Measured on {os.cpu_count()} cores ({processor[1] if processor else platform.machine()}), "
        f"Linux {kernel[0] if kernel else platform.release()} with {congestion_control}; "
        f"asynclb {asynclb.__version__} on Python {platform.python_version()} with uvloop {version('uvloop')}, "
        f"HAProxy {haproxy}, nginx {nginx}."
    )


def _said(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | {"LC_ALL": "C"})
    return done.stdout + done.stderr


def _method(plan: Plan) -> str:
    return (
        f"Medians of {plan.rounds} interleaved rounds; a ratio is the median of the rounds' own ratios, with the "
        "lowest and the highest behind it. `direct` is the same path through a router without a balancer. All "
        "balancers keep the client's address; client, member and balancer share the cores."
    )


Columns = dict[str, list[Sample]]
"""One measure's samples by subject."""


def _best(measure: Measure, results: Results) -> Columns:
    """Return the measure's samples; HAProxy's are those with or without splicing, whichever are faster."""
    columns = {name: results.samples[measure.key, name] for name in measure.loads}
    spliced = columns.pop(SPLICED, None)
    if spliced is not None and _middle(spliced) > _middle(columns[HAPROXY]):
        columns[HAPROXY] = spliced
    return columns


def _speed(best: dict[str, Columns], plan: Plan) -> str:
    rows = []
    for measure in MEASURES:
        if measure.key in best:
            columns = best[measure.key]
            cells = [number(_middle(columns[name])) if name in columns else _NONE for name in SUBJECTS]
            rows.append([measure.title, measure.unit, *cells, *_ratio_cells(measure, columns)])
    heads = ["", "unit", *SUBJECTS, "asynclb : rival", "target", "reached"]
    return f"### Speed\n\n{_method(plan)}\n\n" + table(heads, rows, left=2)


def _ratio_cells(measure: Measure, columns: Columns) -> list[str]:
    goal = measure.goal
    if goal is None:
        return [_NONE, _NONE, _NONE]
    pairs = zip(columns[ASYNCLB], columns[goal.rival], strict=True)
    ratios = [ours.value / theirs.value for ours, theirs in pairs if theirs.value]
    if not ratios:
        return [_NONE, _target(goal), _NONE]
    middle = median(ratios)
    spread = f"**{middle:.2f}** ({min(ratios):.2f} to {max(ratios):.2f}) x {goal.rival}"
    reached = middle >= goal.bound if goal.at_least else middle <= goal.bound
    return [spread, _target(goal), "yes" if reached else "no"]


def _target(goal: Goal) -> str:
    return f"{'at least' if goal.at_least else 'at most'} {goal.bound:g}"


def _failures(best: dict[str, Columns]) -> list[str]:
    """Say how many requests had no answer; nothing of that is hidden in a rate."""
    parts = []
    for measure in MEASURES:
        for name, samples in best.get(measure.key, {}).items():
            failed, work = sum(sample.failed for sample in samples), sum(sample.work for sample in samples)
            if failed:
                parts.append(f"{measure.key}, {name}: {failed:,} of {work + failed:,.0f}")
    return [f"Requests without an answer (refused, reset, or too late): {'; '.join(parts) or 'none'}."]


def _splicing(results: Results) -> list[str]:
    """Say what HAProxy does with and without splicing, since the table has only the better of the two."""
    parts = []
    for measure in MEASURES:
        if (measure.key, SPLICED) in results.samples:
            plain, spliced = (_middle(results.samples[measure.key, name]) for name in (HAPROXY, SPLICED))
            parts.append(f"{measure.key} {number(plain)} without and {number(spliced)} with `option splice-auto`")
    return [f"HAProxy, of which the better stands above, in Gbit/s: {'; '.join(parts)}."] if parts else []


def _cost(best: dict[str, Columns]) -> str:
    rows = []
    for measure in MEASURES:
        if measure.key not in best:
            continue
        columns, (amount, unit) = best[measure.key], measure.cost_of
        costs = {name: median(_costs(columns[name], amount)) for name in _BALANCERS if name in columns}
        rival = measure.goal.rival if measure.goal else HAPROXY
        ratio = f"{costs[ASYNCLB] / costs[rival]:.2f} x {rival}" if costs.get(rival) else _NONE
        cells = [f"{costs[name]:.3f}" if name in costs else _NONE for name in _BALANCERS]
        rows.append([measure.title, f"s per {unit}", *cells, ratio])
    heads = ["", "unit", *_BALANCERS, "asynclb : rival"]
    return "### Processor time of the balancer\n\n" + table(heads, rows, left=2)


def _costs(samples: Iterable[Sample], amount: float) -> list[float]:
    return [sample.cpu_s * amount / sample.work for sample in samples if sample.work] or [0.0]


def _memory(results: Results) -> str:
    rows = []
    for name, memory in results.memory.items():
        worst = max(memory.each, memory.next)
        target = (f"at most {_MEMORY_LIMIT_KIB:g}", yes(worst <= _MEMORY_LIMIT_KIB)) if name == ASYNCLB else None
        cells = (f"{memory.before / 1024:.1f}", f"{memory.each:.1f}", f"{memory.next:.1f}")
        rows.append([name, *cells, *(target or (_NONE, _NONE))])
    heads = ["", "MiB before", "KiB for each", "KiB for the next", "target", "reached"]
    count = results.idle_connections
    text = (
        f"{count:,} proxied TCP connections, idle after one request each; resident memory of the balancer, without the "
        f"kernel's sockets. The next are {count // 5:,} more: what a process had to spare is used up by then."
    )
    return f"### Memory\n\n{text}\n\n" + table(heads, rows, left=1)


def figures_table(title: str, figures: Sequence[Figure]) -> str:
    """Return a table with a line for each figure."""
    rows = [
        [
            figure.what,
            number(figure.value),
            figure.unit,
            *((_limit(figure), yes(figure.reached)) if figure.limit else (_NONE, _NONE)),
        ]
        for figure in figures
    ]
    heads = ["", "took", "unit", "target", "reached"]
    return f"### {title}\n\n" + table(heads, rows, left=1)


def _limit(figure: Figure) -> str:
    return f"{'at most' if figure.inclusive else 'under'} {figure.limit:,g}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    """Return a Markdown table whose first `left` columns are set to the left and all others to the right."""
    lines = [heads, ["---"] * left + ["--:"] * (len(heads) - left), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _middle(samples: Iterable[Sample]) -> float:
    return median(sample.value for sample in samples)


def number(value: float) -> str:
    """Return a figure with as many digits as mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 10 else f"{value:.2f}"


def yes(holds: bool) -> str:
    """Return what stands under `reached`."""
    return "yes" if holds else "no"
