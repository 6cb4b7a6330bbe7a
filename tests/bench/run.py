"""Run the benchmarks: `sudo python tests/bench/run.py [--quick] [--only requests,udp | --against REV] [--out FILE]
[--update-readme]`.

Needs root for network namespaces, and wrk, iperf3, HAProxy and nginx with its stream module (Debian: wrk, iperf3,
haproxy, nginx-light, libnginx-mod-stream) beside asynclb. The tables go to standard output, progress to standard error.
Takes ten minutes or so, with --quick three; every load ends by itself, and what was set up goes, also after a
kill -9 (then at the next start of any lab).
"""

import argparse
import asyncio
import re
import resource
import signal
import sys
import time
from collections.abc import Collection, Coroutine, Sequence
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this checkout, whatever is installed

import against  # noqa: E402  after the path
import control_bench  # noqa: E402
import flowlog_bench  # noqa: E402
import kernel_bench  # noqa: E402
import kernel_report  # noqa: E402
import packet_bench  # noqa: E402
import packet_report  # noqa: E402
import proxy_bench  # noqa: E402
import report  # noqa: E402

from asynclb.errors import AsynclbError, HostError  # noqa: E402
from asynclb.lab import require_root, require_tools  # noqa: E402

README = ROOT / "README.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
_DESCRIPTORS = 32768  # 5,000 connections have two ends in the balancer, one in a client and one in the member
_T = TypeVar("_T")
_CONTROL = ("tables", "probes", "config", "scrape")
_KEYS = (
    *(measure.key for measure in proxy_bench.MEASURES),
    "memory",
    flowlog_bench.KEY,
    *packet_bench.KEYS,
    *kernel_bench.KEYS,
    *_CONTROL,
)
_PROXY = {*(measure.key for measure in proxy_bench.MEASURES), "memory"}


def main(words: Sequence[str]) -> int:
    """Carry out the command line and return the exit code."""
    options = _options(words)
    keys = options.only.split(",") if options.only else _KEYS
    if unknown := set(keys) - set(_KEYS):
        sys.stderr.write(f"--only: no {', '.join(sorted(unknown))}; there are {', '.join(_KEYS)}\n")
        return 2
    try:
        if options.against:
            sys.stdout.write(compare(options.against, rounds=3 if options.quick else 7))
            return 0
        if options.update_readme:
            placed(README.read_text(), "")  # refuse now, not in six minutes
        text = bench(keys, quick=options.quick)
    except AsynclbError as error:
        sys.stderr.write("\n".join([str(error), *getattr(error, "__notes__", ())]) + "\n")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("stopped; nothing is left behind\n")
        return 130
    sys.stdout.write(text)
    if options.out:
        Path(options.out).write_text(text)
    if options.update_readme:
        README.write_text(placed(README.read_text(), text))
    return 0


def bench(keys: Collection[str], *, quick: bool) -> str:
    """Measure what `keys` name and return the tables.

    Raises: HostError -> not root, or a program is missing; LabError -> something does not work as it should.
    """
    plan = proxy_bench.QUICK if quick else proxy_bench.FULL
    results, packets = proxy_bench.Results(), packet_bench.PacketResults()
    figures, core = list[control_bench.Figure](), list[control_bench.Figure]()
    require_tools("haproxy", "nginx", "wrk", "iperf3", "openssl")
    if _PROXY & set(keys):
        require_root("network namespaces")
        _raise_descriptor_limit()
        results = asyncio.run(_stoppable(proxy_bench.run(plan, keys, _say)))
    if (set(packet_bench.KEYS) - {"core"}) & set(keys):
        require_root("network namespaces")
        packets = asyncio.run(_stoppable(packet_bench.run(plan, keys, _say)))
    kernel = kernel_bench.KernelResults()
    if set(kernel_bench.KEYS) & set(keys):
        require_root("network namespaces")
        require_tools("ethtool", "tc")
        kernel = asyncio.run(_stoppable(kernel_bench.run(plan, keys, _say)))
    if flowlog_bench.KEY in keys:
        require_root("network namespaces")
        figures += asyncio.run(_stoppable(flowlog_bench.run(plan, _say)))
    if "core" in keys:
        _say("the packet core")
        core = packet_bench.core(quick=quick)
    if "tables" in keys:
        _say("tables")
        figures += control_bench.tables()
    if "probes" in keys:
        _say("probes")
        figures += control_bench.probes(5.0, ("tcp",)) if quick else control_bench.probes(15.0, ("tcp", "http", "udp"))
    if "config" in keys:
        _say("configuration")
        figures += control_bench.configuration()
    if "scrape" in keys:
        _say("a scrape")
        figures += control_bench.scrape()
    tables = [*kernel_report.render(kernel, plan), *packet_report.render(packets, core, plan)]
    return report.render(results, figures, plan, report.describe_machine(), *tables)


def compare(revision: str, *, rounds: int) -> str:
    """Measure the common path beside that of another revision, and return the table. Raises: as `bench`."""
    require_root("network namespaces")
    require_tools("git", "nginx", "wrk", "iperf3")
    return against.render(against.run(revision, rounds, _say), revision)


async def _stoppable(work: Coroutine[None, None, _T]) -> _T:
    """Let SIGTERM end the measurements as Ctrl-C does, so that the lab is removed in order."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure asynclb beside HAProxy and nginx, and print Markdown tables.")
    parser.add_argument("--quick", action="store_true", help="two short rounds: does it work, not how fast is it")
    parser.add_argument("--only", metavar="NAMES", default="", help=f"some of {','.join(_KEYS)}")
    parser.add_argument("--against", metavar="REV", help="only what a packet and a request cost, beside a revision's")
    parser.add_argument("--out", metavar="FILE", help="write the tables to a file as well")
    parser.add_argument(
        "--update-readme", action="store_true", help="put these tables into README.md, between its marks"
    )
    return parser.parse_args(words)


def placed(readme: str, text: str) -> str:
    """Return the README with the tables between its marks; those that were not measured this time stay as they are.

    Raises: HostError -> it has no such marks.
    """
    before, begin, rest = readme.partition(BEGIN)
    middle, end, after = rest.partition(END)
    if not begin or not end:
        raise HostError(f"{README}: there is no place for the tables; put {BEGIN} and {END} on lines of their own")
    return f"{before}{BEGIN}\n{_renewed(middle, text)}{END}{after}"


def _renewed(old: str, new: str) -> str:
    """Return all tables in the old order, new ones last, behind what machine this is; of each the newer."""
    (_, *before), (machine, *fresh) = (
        re.split(r"^(?=### )", text.strip() + "\n\n", flags=re.MULTILINE) for text in (old, new)
    )
    tables = {table.partition("\n")[0]: table for table in (*before, *fresh)}
    return (machine + "".join(tables.values())).rstrip() + "\n"


def _raise_descriptor_limit() -> None:
    """Let this process and all that it starts open enough files, or as many as the host allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= _DESCRIPTORS:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, max(hard, _DESCRIPTORS)))
    except (ValueError, PermissionError):  # a container's root may not raise the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
