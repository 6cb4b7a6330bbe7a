"""The metrics of the operator's contract, made from one snapshot per scrape.

There are no counters of our own to keep: what is exported is read from the controller, the datapaths and the prober
when somebody asks. A snapshot is taken on the loop and rendered in a thread, one at a time.
"""

import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics

import asynclb
from asynclb.control.status import Status
from asynclb.datapath.base import Counters, summed
from asynclb.discovery import Result, SourceState
from asynclb.health.record import DURATION_BOUNDS_S, KINDS, Results
from asynclb.model import HealthState, effective_health
from asynclb.net.drop import Drop
from asynclb.observe.exposition import exposition
from asynclb.observe.flowlog import FlowLogReport, LineResult
from asynclb.tables.row import FrontendKey

_REST_S = 50e-6
"""Until who waits for the interpreter's lock is awake and has it: 400 times for 80,000 samples."""
_RESTS_S = 0.1
"""All rests of a scrape: where the processor is wanted by others as well, each of them takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that one scrape shows."""

    status: Status
    counters: Mapping[str, Counters]
    results: Results
    reached: Mapping[FrontendKey, float] = field(default_factory=dict)
    """Share of the last minute's measurements that reached a member; keys not yet measured are missing."""
    flow_log: FlowLogReport = field(default_factory=FlowLogReport)


def render(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """Return the exposition and its content type: OpenMetrics where the `Accept` header asks for it, else text.

    Cost: about 6 us a sample; call it in a thread.
    """
    wanted = "application/openmetrics-text" in accept
    body = exposition(families(snapshot), openmetrics=wanted, rest=Rests())
    return body, openmetrics.CONTENT_TYPE_LATEST if wanted else CONTENT_TYPE_PLAIN_0_0_4


class Rests:
    """Short ones, for as long as there is time for any. Owner: one rendering."""

    def __init__(self, left_s: float = _RESTS_S) -> None:
        self.left_s = left_s

    def __call__(self) -> None:
        """Let others have their turn."""
        if self.left_s > 0:
            began_s = time.perf_counter()
            time.sleep(_REST_S)
            self.left_s -= time.perf_counter() - began_s


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield every family of the contract that applies, and what the kernel says of the process."""
    status, counters = snapshot.status, snapshot.counters
    yield from _about(status)
    yield from _rules(counters.values())
    yield from _members(counters.values())
    yield from _snat(counters.values())
    yield from _health(status, snapshot.reached)
    yield from _probes(snapshot.results)
    yield from _sources(status)
    yield from _datapaths(status, counters)
    yield from _flow_log(snapshot.flow_log)
    yield from ProcessCollector(registry=None).collect()


def _about(status: Status) -> Iterator[Metric]:
    info = GaugeMetricFamily("asynclb_build_info", "Version of asynclb.", labels=["version", "python"])
    info.add_metric([asynclb.__version__, platform.python_version()], 1)
    yield info
    reloads = CounterMetricFamily("asynclb_reloads", "Reloads by result.", labels=["result"])
    for result, count in status.reloads.items():
        reloads.add_metric([result], count)
    yield reloads


def _rules(counters: Iterable[Counters]) -> Iterator[Metric]:
    rows = summed(item for part in counters for item in part.rules.items())
    both = ["rule", "direction"]
    volume = CounterMetricFamily(
        "asynclb_rule_bytes", "Bytes: payload by proxy, frames by packet and kernel; in is from clients.", labels=both
    )
    packets = CounterMetricFamily("asynclb_rule_packets", "Packets as the datapath sees them.", labels=both)
    syn = CounterMetricFamily("asynclb_rule_syn", "TCP connection attempts.", labels=["rule"])
    flows = GaugeMetricFamily("asynclb_rule_flows", "Flows open now.", labels=["rule"])
    new = CounterMetricFamily("asynclb_rule_new_flows", "Flows that were given a member.", labels=["rule"])
    for name, row in rows.items():
        volume.add_metric([name, "in"], row.bytes_in)
        volume.add_metric([name, "out"], row.bytes_out)
        packets.add_metric([name, "in"], row.packets_in)
        packets.add_metric([name, "out"], row.packets_out)
        syn.add_metric([name], row.syn)
        flows.add_metric([name], row.flows)
        new.add_metric([name], row.new_flows)
    yield from (volume, packets, syn, flows, new)


def _members(counters: Iterable[Counters]) -> Iterator[Metric]:
    rows = summed(
        ((pool.partition("/")[0], member), row)  # `pool/member` is that member as inbound NAT rules reach it
        for part in counters
        for (pool, member), row in part.members.items()
    )
    labels = ["pool", "member"]
    volume = CounterMetricFamily(
        "asynclb_member_bytes", "Bytes: payload by proxy, frames by packet and kernel.", labels=[*labels, "direction"]
    )
    new = CounterMetricFamily("asynclb_member_new_flows", "Flows given to the member.", labels=labels)
    for (pool, member), row in rows.items():
        volume.add_metric([pool, member, "in"], row.bytes_in)
        volume.add_metric([pool, member, "out"], row.bytes_out)
        new.add_metric([pool, member], row.new_flows)
    yield from (volume, new)


def _snat(counters: Iterable[Counters]) -> Iterator[Metric]:
    labels = ["pool", "member"]
    allocated = GaugeMetricFamily(
        "asynclb_snat_ports_allocated", "SNAT ports that the member may use, of all addresses.", labels=labels
    )
    used = GaugeMetricFamily(
        "asynclb_snat_ports_used", "SNAT ports of the member's that connections use now.", labels=[*labels, "protocol"]
    )
    connections = CounterMetricFamily(
        "asynclb_snat_connections",
        "Connections that the member opened itself: all attempts, and those that found no port.",
        labels=[*labels, "state"],
    )
    for part in counters:
        for (pool, member), found in part.snat.items():
            allocated.add_metric([pool, member], sum(ports.allocated for ports in found.ports))
            for protocol in ("tcp", "udp"):
                count = sum(ports.used.get(protocol, 0) for ports in found.ports)
                used.add_metric([pool, member, protocol], count)
            connections.add_metric([pool, member, "attempted"], found.attempted)
            connections.add_metric([pool, member, "failed"], found.failed)
    yield from (allocated, used, connections)


def _health(status: Status, reached: Mapping[FrontendKey, float]) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "asynclb_member_up",
        "Whether rules act as if the member is up: the probe's word under the admin state; not probed yet is 0.",
        labels=["pool", "member", "probe"],
    )
    for pool, member, probe, value in member_states(status):
        up.add_metric([pool, member, probe], value)
    yield up
    yield from _availability(status, reached)


def _availability(status: Status, reached: Mapping[FrontendKey, float]) -> Iterator[Metric]:
    ratio = GaugeMetricFamily(
        "asynclb_frontend_availability_ratio",
        "Share of packets sent through the datapath to the frontend's rules that were given a member, in a minute.",
        labels=["frontend"],
    )
    for frontend, share in frontend_availability(status, reached).items():
        ratio.add_metric([frontend], share)
    each = GaugeMetricFamily(
        "asynclb_rule_availability_ratio",
        "The same for the one port of the frontend that is the rule's; absent until it is measured.",
        labels=["rule"],
    )
    for key, share in reached.items():
        if (entry := status.tables.entries.get(key)) is not None and entry.row.nat_rule is None:
            each.add_metric([entry.row.rule.name], share)
    yield from (ratio, each)


def member_states(status: Status) -> Iterator[tuple[str, str, str, int]]:
    """Yield (pool, member, probe, 1 if rules act as if it is up) for each series of checks that a rule depends on."""
    rules = {(rule.backend_pool, rule.probe): None for rule in status.model.rules if rule.probe is not None}
    for pool_name, probe in rules:
        for member in status.model.backend_pools[pool_name].members:
            found = effective_health(member, status.health.of(pool_name, member.name, probe))
            yield pool_name, member.name, probe, int(found.state is HealthState.UP)


def frontend_availability(status: Status, reached: Mapping[FrontendKey, float]) -> Mapping[str, float]:
    """Return, for each frontend with rules, the mean of what was measured; before that, what the tables promise."""
    found: dict[str, list[float]] = {}
    for key, entry in status.tables.entries.items():
        if entry.row.nat_rule is None:  # ports of inbound NAT rules are there, whatever the members' health
            found.setdefault(entry.row.frontend.name, []).append(reached.get(key, float(entry.table.size > 0)))
    return {frontend: sum(values) / len(values) for frontend, values in found.items()}


def _probes(results: Results) -> Iterator[Metric]:
    outcomes = CounterMetricFamily("asynclb_probe_results", "Checks by result.", labels=["probe", "member", "result"])
    for (probe, member), counts in _by_probe(results).items():
        for kind, count in zip(KINDS, counts, strict=True):
            outcomes.add_metric([probe, member, kind], count)
    yield outcomes
    durations = HistogramMetricFamily("asynclb_probe_duration_seconds", "Time a check took.", labels=["probe"])
    for probe, found in results.probes.items():
        durations.add_metric([probe], _buckets(found.counts), found.sum_s)
    yield durations


def _sources(status: Status) -> Iterator[Metric]:
    """Yield nothing of pools without a source."""
    up = GaugeMetricFamily(
        "asynclb_discovery_up", "Whether the source of the pool's members answers.", labels=["pool", "source"]
    )
    members = GaugeMetricFamily(
        "asynclb_discovery_members", "Members in force that the source told of.", labels=["pool"]
    )
    updates = CounterMetricFamily(
        "asynclb_discovery_updates", "Answers of the source by what became of them.", labels=["pool", "result"]
    )
    refused = GaugeMetricFamily(
        "asynclb_discovery_refused", "Whether the source's last answer is not in force.", labels=["pool"]
    )
    answered = GaugeMetricFamily(
        "asynclb_discovery_last_answer_timestamp_seconds", "When the source answered last; 0: never.", labels=["pool"]
    )
    for pool, found in status.sources.items():
        up.add_metric([pool, found.members_from.source.kind], found.state is SourceState.UP)
        members.add_metric([pool], len(status.discovered.get(pool, ())))
        refused.add_metric([pool], found.result is Result.REFUSED)
        answered.add_metric([pool], found.answered_s)
        for result, count in found.updates.items():
            updates.add_metric([pool, result], count)
    yield from (up, members, updates, refused, answered)


def _by_probe(results: Results) -> Mapping[tuple[str, str], Sequence[int]]:
    """Add up the checks of a probe on members of one name: two pools may call different members the same."""
    sums: dict[tuple[str, str], Sequence[int]] = {}
    for (_, member, probe), counts in results.targets.items():
        row = sums.get((probe, member))
        sums[probe, member] = counts if row is None else [a + b for a, b in zip(row, counts, strict=True)]
    return sums


def _buckets(counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return cumulative buckets under their upper bounds, as the exposition format wants them."""
    bounds = (*(str(bound) for bound in DURATION_BOUNDS_S), "+Inf")
    total, buckets = 0, []
    for bound, count in zip(bounds, counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def _datapaths(status: Status, counters: Mapping[str, Counters]) -> Iterator[Metric]:
    drops = CounterMetricFamily("asynclb_drops", "What was not forwarded, by reason.", labels=["datapath", "reason"])
    entries = GaugeMetricFamily("asynclb_flow_table_entries", "Flows open now.", labels=["datapath"])
    capacity = GaugeMetricFamily(
        "asynclb_flow_table_capacity", "Flows the table has room for; 0 is no limit of its own.", labels=["datapath"]
    )
    evictions = CounterMetricFamily(
        "asynclb_flow_evictions", "Flows given up to make room for others.", labels=["datapath"]
    )
    stateless = CounterMetricFamily(
        "asynclb_stateless_packets", "Balanced without a flow's entry, as the table was full.", labels=["datapath"]
    )
    for name, found in counters.items():
        for reason in Drop:
            drops.add_metric([name, reason], found.drops.get(reason, 0))
        entries.add_metric([name], found.flows)
        capacity.add_metric([name], found.capacity)
        evictions.add_metric([name], found.evictions)
        stateless.add_metric([name], found.stateless)
    generation = GaugeMetricFamily(
        "asynclb_table_generation", "Generation of the tables that new flows meet.", labels=["datapath"]
    )
    info = GaugeMetricFamily(
        "asynclb_datapath_info", "Which datapath carries a rule.", labels=["rule", "datapath", "mode"]
    )
    for datapath in status.datapaths:
        generation.add_metric([datapath.name], datapath.generation)
        for rule, mode in datapath.modes.items():
            info.add_metric([rule, datapath.name, mode], 1)
    yield from (drops, entries, capacity, evictions, stateless, generation, info)


def _flow_log(report: FlowLogReport) -> Iterator[Metric]:
    lines = CounterMetricFamily(
        "asynclb_flow_log_lines", "Lines of the flow log by what became of them.", labels=["result"]
    )
    for result in LineResult:
        lines.add_metric([result], report.lines.get(result, 0))
    yield lines
    yield GaugeMetricFamily(
        "asynclb_flow_log_sample", "Of how many flows one is written to the flow log now; 0 without one.", report.sample
    )
    yield CounterMetricFamily(
        "asynclb_flow_log_cpu_seconds", "Processor time that the flow log has taken, in all.", report.spent_s
    )
