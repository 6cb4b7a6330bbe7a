"""The tables of the kernel datapath, from made-up samples: ratios, targets, and what is said where there is none."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the benchmark is a set of scripts, not a package

import kernel_report
from kernel_bench import KernelResults
from kernel_bpf import Runs
from kernel_changes import Changes
from kernel_load import Cost
from kernel_packets import FLOOR, PROGRAMS, Packets
from kernel_peers import DNAT, SUBJECTS
from loads import Sample
from peers import ASYNCLB, DIRECT, HAPROXY
from proxy_bench import FULL


def line(text: str, start: str) -> list[str]:
    """Return the cells of the first table row that begins so."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def samples(key: str, **values: float) -> dict[tuple[str, str], list[Sample]]:
    """Return three equal rounds of a load."""
    names = dict(zip(("direct", "dnat", "haproxy", "asynclb"), SUBJECTS, strict=True))
    return {(key, names[name]): [Sample(value, 1e5, 0.0)] * 3 for name, value in values.items()}


def test_subjects_stand_in_the_order_of_the_made_up_samples() -> None:
    """The other tests name them by keyword."""
    assert SUBJECTS == (DIRECT, DNAT, HAPROXY, ASYNCLB)


def test_all_targets_of_a_load_must_be_reached() -> None:
    """Faster than HAProxy and slower than nftables is not enough."""
    results = KernelResults(tcp=samples("requests", direct=100, dnat=90, haproxy=50, asynclb=95))
    cells = line(kernel_report.render(results, FULL)[0], "requests")
    assert cells[-4:] == ["**0.95** (at least 0.9)", "**1.06** (at least 1.1)", "**1.90** (at least 1.5)", "no"]


def test_latency_is_a_difference() -> None:
    """Its target is in microseconds above the direct way."""
    results = KernelResults(tcp=samples("latency", direct=30, dnat=33, haproxy=60, asynclb=41))
    assert line(kernel_report.render(results, FULL)[1], "latency")[1:] == ["+11.0", "us", "at most +10", "no"]


def test_the_slowest_delivery_is_held_against_the_target() -> None:
    """Two of three within the target do not reach it."""
    costs = {
        name: [Cost(Runs(ns * 1000, 1000), 1.5e6)] * 3 for name, ns in zip(PROGRAMS, (50, 100, 126, 90), strict=True)
    }
    packets = Packets(costs={("tc", 1_000, name): cost for name, cost in costs.items()})
    cells = line(kernel_report.render(KernelResults(packets=packets), FULL)[0], "tc")
    assert cells[2:] == ["1.50", "50", "100", "126", "90", "**2.00**", "**2.52**", "**1.80**", "at most 2.5", "no"]
    assert PROGRAMS[0] == FLOOR


def test_a_load_below_a_million_frames_is_said_so() -> None:
    """A program that runs seldom finds its caches cold, and its figures are not those that the targets mean."""
    slow, quick = ([Cost(Runs(60_000, 1000), rate)] for rate in (0.9e6, 1.1e6))
    for cost, said in ((slow, True), (quick, False)):
        packets = Packets(costs={("xdp", 1, name): cost for name in PROGRAMS})
        (text,) = kernel_report.render(KernelResults(packets=packets), FULL)
        assert ("fewer than a million" in text) is said


def test_how_long_memory_took_is_told() -> None:
    """Whoever compares two runs sees whether the host was the same in both."""
    packets = Packets(costs={("xdp", 1, name): [Cost(Runs(60_000, 1000), 2e6)] for name in PROGRAMS})
    packets.waits += [150.2, 161.0, 149.6]
    (text,) = kernel_report.render(KernelResults(packets=packets), FULL)
    assert "waited 150 ns (median; 150 to 161)" in text


def test_a_change_is_judged_by_the_slowest() -> None:
    """One reload of many that takes longer misses the target."""
    results = KernelResults(changes=Changes(reload=[50.0, 60.0, 101.0], probe=[1.0, 2.0, 9.0]))
    text = kernel_report.render(results, FULL)[0]
    assert line(text, "reload")[1:] == ["60.0 (worst 101)", "ms", "at most 100", "no"]
    assert line(text, "a probe")[1:] == ["2.00 (worst 9.00)", "ms", "at most 10", "yes"]


def test_a_host_without_the_datapath_says_why() -> None:
    """Nothing else is printed then."""
    (text,) = kernel_report.render(KernelResults(absent="no libbpf"), FULL)
    assert text.endswith("Not measured, for this host has none: no libbpf")
