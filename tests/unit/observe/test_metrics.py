"""The metrics of the contract, read back with prometheus_client's own parsers."""

import asyncio
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.parser import text_string_to_metric_families

from asynclb import rules
from asynclb.control.status import DatapathStatus, Status
from asynclb.datapath.base import Counters, MemberCounters, RuleCounters
from asynclb.health.outcome import OutcomeKind
from asynclb.health.record import DURATION_BOUNDS_S, KINDS, ProbeResults, Results
from asynclb.model import Health, HealthState, MemberHealth, Model
from asynclb.net.drop import Drop
from asynclb.observe.exposition import SLICE, exposition
from asynclb.observe.metrics import Rests, Snapshot, families, render
from asynclb.tables.compile import compile_tables
from tests.unit.control.fakes import web_model

CONTRACT = {
    "asynclb_build_info": {"version", "python"},
    "asynclb_rule_bytes_total": {"rule", "direction"},
    "asynclb_rule_packets_total": {"rule", "direction"},
    "asynclb_rule_syn_total": {"rule"},
    "asynclb_rule_flows": {"rule"},
    "asynclb_rule_new_flows_total": {"rule"},
    "asynclb_member_bytes_total": {"pool", "member", "direction"},
    "asynclb_member_new_flows_total": {"pool", "member"},
    "asynclb_member_up": {"pool", "member", "probe"},
    "asynclb_probe_duration_seconds_bucket": {"probe", "le"},
    "asynclb_probe_duration_seconds_sum": {"probe"},
    "asynclb_probe_duration_seconds_count": {"probe"},
    "asynclb_probe_results_total": {"probe", "member", "result"},
    "asynclb_frontend_availability_ratio": {"frontend"},
    "asynclb_rule_availability_ratio": {"rule"},
    "asynclb_drops_total": {"datapath", "reason"},
    "asynclb_flow_table_entries": {"datapath"},
    "asynclb_flow_evictions_total": {"datapath"},
    "asynclb_stateless_packets_total": {"datapath"},
    "asynclb_flow_table_capacity": {"datapath"},
    "asynclb_table_generation": {"datapath"},
    "asynclb_flow_log_lines_total": {"result"},
    "asynclb_flow_log_sample": set(),
    "asynclb_flow_log_cpu_seconds_total": set(),
    "asynclb_reloads_total": {"result"},
    "asynclb_datapath_info": {"rule", "datapath", "mode"},
}
"""Sample name -> labels: the operator's contract, without what this version does not do (SNAT)."""


def snapshot(model: Model, health: Health, counters: dict[str, Counters], results: Results) -> Snapshot:
    """Make a snapshot of a running process."""
    tables = compile_tables(rules.rows_of(model), health, seed=1, generation=4)
    carried = {entry.row.rule.name: "auto" for entry in tables.entries.values()}
    modes = {name: "sockets" if name == "web-1" else "transparent" for name in carried}
    status = Status(
        ready=True,
        config_path="asynclb.yaml",
        config_digest="d",
        started_s=1.0,
        generation=4,
        generation_since_s=2.0,
        model=model,
        health=health,
        tables=tables,
        datapaths=(DatapathStatus("proxy", 4, 2.0, carried, modes),),
        last_reload=None,
        reloads={"applied": 2, "unchanged": 0, "refused": 1},
    )
    return Snapshot(status, counters, results)


def small() -> Snapshot:
    """Two rules, one of them silent, a member up and one down, in two datapaths."""
    model = web_model("a", "b", rules=2)
    health = Health({("web", "a", "tcp"): MemberHealth(HealthState.UP)})
    first = Counters(
        rules={"web-0": RuleCounters(100, 200, 3, 4, 5, 6, 7)},
        members={("web", "a"): MemberCounters(100, 200, 6, 7)},
        drops={Drop.NO_ELIGIBLE_MEMBER: 9},
        flows=7,
        stateless=3,
    )
    second = Counters(rules={"web-0": RuleCounters(1, 2, 3, 4, 5, 6, 7)}, members={("web", "a"): MemberCounters(1)})
    counts = (0, 2, 1, *(0 for _ in DURATION_BOUNDS_S[3:]), 1)
    checks = [{OutcomeKind.SUCCESS: 3, OutcomeKind.TIMEOUT: 1}.get(kind, 0) for kind in KINDS]
    results = Results({("web", "a", "tcp"): checks}, {"tcp": ProbeResults(counts, 0.5, 0, 0, 0)})
    found = snapshot(model, health, {"proxy": first, "packet": second}, results)
    return replace(found, reached=dict.fromkeys(found.status.tables.entries, 1.0))


def samples(found: Snapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return (name, labels) -> value."""
    text, _ = render(found, "")
    parsed = text_string_to_metric_families(text.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in parsed for s in family.samples}


def test_names_and_labels_are_the_contract() -> None:
    """Exactly the contract's names with exactly its labels, besides the process metrics; no `_created` series."""
    found: dict[str, set[str]] = {}
    for name, labels in samples(small()):
        if not name.startswith("process_"):
            found.setdefault(name, set()).update(key for key, _ in labels)
    assert found == CONTRACT


def test_values() -> None:
    """What two datapaths counted for one rule is added up; health, availability and reloads are as in the status."""
    found = samples(small())
    assert found["asynclb_rule_bytes_total", (("direction", "in"), ("rule", "web-0"))] == 101
    assert found["asynclb_rule_flows", (("rule", "web-0"),)] == 14
    assert found["asynclb_member_bytes_total", (("direction", "out"), ("member", "a"), ("pool", "web"))] == 200
    assert found["asynclb_member_up", (("member", "b"), ("pool", "web"), ("probe", "tcp"))] == 0
    assert found["asynclb_frontend_availability_ratio", (("frontend", "vip"),)] == 1
    assert found["asynclb_reloads_total", (("result", "refused"),)] == 1
    assert found["asynclb_datapath_info", (("datapath", "proxy"), ("mode", "transparent"), ("rule", "web-0"))] == 1
    assert found["asynclb_stateless_packets_total", (("datapath", "proxy"),)] == 3
    assert found["asynclb_datapath_info", (("datapath", "proxy"), ("mode", "sockets"), ("rule", "web-1"))] == 1
    assert found["asynclb_drops_total", (("datapath", "proxy"), ("reason", "no_eligible_member"))] == 9
    assert found["asynclb_probe_results_total", (("member", "a"), ("probe", "tcp"), ("result", "timeout"))] == 1


def test_each_port_is_available_by_itself() -> None:
    """A port that is down halves its frontend; what is not measured is absent, and there as the tables say."""
    found = small()
    down, other = found.status.tables.entries
    halved = samples(replace(found, reached={down: 0.0}))
    assert halved["asynclb_frontend_availability_ratio", (("frontend", "vip"),)] == 0.5
    assert halved["asynclb_rule_availability_ratio", (("rule", "web-0"),)] == 0
    assert ("asynclb_rule_availability_ratio", (("rule", "web-1"),)) not in halved
    assert other.port == 81


def test_the_histogram_is_cumulative() -> None:
    """Buckets hold everything up to their bound; the last one is the count."""
    found = samples(small())
    buckets = [value for (name, _), value in found.items() if name == "asynclb_probe_duration_seconds_bucket"]
    assert buckets[:3] == [0, 2, 3]
    assert buckets == sorted(buckets)
    assert buckets[-1] == found["asynclb_probe_duration_seconds_count", (("probe", "tcp"),)] == 4


def test_openmetrics_is_valid() -> None:
    """The strict parser of OpenMetrics reads what is sent to whoever asks for it."""
    text, content_type = render(small(), "application/openmetrics-text; version=1.0.0")
    families = {family.name for family in openmetrics.text_string_to_metric_families(text.decode())}
    assert content_type.startswith("application/openmetrics-text")
    assert {"asynclb_rule_bytes", "asynclb_probe_duration_seconds"} <= families


def test_odd_names_are_escaped() -> None:
    """A quote, a backslash or a line break in a name comes back as it was."""
    odd = 'a"b\\c\nd'
    counters = {"proxy": Counters(rules={odd: RuleCounters(1)})}
    found = samples(snapshot(web_model("a"), Health({}), counters, Results({}, {})))
    assert found["asynclb_rule_bytes_total", (("direction", "in"), ("rule", odd))] == 1


@pytest.mark.parametrize("wanted", [False, True])
def test_the_text_is_the_librarys(wanted: bool) -> None:
    """What is written here is byte for byte what the library writes, for every family and for odd names and numbers."""
    odd = GaugeMetricFamily("odd", 'Says "no"\\ and\nmore.', labels=["b", "a"])
    for value in (0, -1.5, 1e-9, 12_345_678, 2**53, float("inf"), float("-inf"), float("nan")):
        odd.add_metric([f'quoted "{value}"', "back\\slash\nand more \N{SNOWMAN}"], value)
    found = [*families(small()), odd, CounterMetricFamily("bare", "Has no labels.", value=3)]
    library: Any = openmetrics_text if wanted else generate_latest

    class Registry:
        def collect(self) -> list[Metric]:
            return found

    expected = library(Registry())
    assert exposition(found, openmetrics=wanted) == expected


def test_others_have_their_turn_between_slices() -> None:
    """No more than one slice of lines is made in a row, however large a family is."""
    flows = GaugeMetricFamily("flows", "Flows.", labels=["rule"])
    for number in range(5 * SLICE):
        flows.add_metric([str(number)], number)
    left = [len(flows.samples)]
    text = exposition([flows], openmetrics=False, rest=lambda: left.append(len(flows.samples)))
    assert len(text.splitlines()) == 2 + 5 * SLICE
    assert left[-1] == 0
    assert max(before - after for before, after in pairwise(left)) <= SLICE


def test_rests_come_to_an_end() -> None:
    """On a machine where a rest takes long there are few of them, so that the scrape is answered in time."""
    rests = Rests(left_s=1e-9)
    rests()
    left_s = rests.left_s
    assert left_s < 0
    rests()
    assert rests.left_s == left_s


def test_every_family_has_help() -> None:
    """Each family says what it is in a sentence."""
    text = render(small(), "")[0].decode()
    for name in CONTRACT:
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        assert re.search(rf"^# HELP {family} \S.*\.$", text, re.MULTILINE), name


@pytest.mark.slow
async def test_a_big_scrape_does_not_hold_the_loop() -> None:
    """1,500 rules and 5,000 members are rendered in a thread while the loop goes on."""
    model = web_model(*(f"m{i}" for i in range(200)), rules=1500)
    counters = Counters(
        rules={f"web-{i}": RuleCounters(1, 2, 3, 4, 5, 6, 7) for i in range(1500)},
        members={("web", f"m{i}"): MemberCounters(1, 2, 3, 4) for i in range(5000)},
    )
    found = snapshot(model, Health({}), {"proxy": counters}, Results({}, {}))
    work = asyncio.create_task(asyncio.to_thread(render, found, ""))
    turns = 0
    while not work.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert len((await work)[0]) > 1_000_000
    assert turns > 1
