"""Writes the Grafana dashboards beside this file: `python conf/grafana/generate.py`.

Each dashboard is a list of rows of panels; a panel is a title, a unit and its queries. Every query is run by a test
against a Prometheus that scraped a lab, so none of them can be about a metric that does not exist.

Source: Grafana's dashboard JSON model (schema version 39, Grafana 11).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24
_GREEN, _AMBER, _RED = "#3a9a5b", "#d9a21b", "#c4443a"


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and the legend of its series."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """What one panel shows.

    `kind` is timeseries, stat or table; `bad_below` and `bad_above` colour values on the wrong side of a bound.
    """

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    description: str = ""
    stacked: bool = False
    bad_below: float | None = None
    bad_above: float | None = None


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard: the values of a label."""

    name: str
    metric: str


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One file. Shape: `rows` of panels, each row as high as `heights` says (in grid units of about 30 pixels)."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[tuple[Panel, ...], ...]
    heights: tuple[int, ...]


INSTANCE = Variable("instance", "asynclb_build_info")
_I = 'instance=~"$instance"'
_RULE = f'{_I}, rule=~"$rule"'
_MEMBER = f'{_I}, pool=~"$pool", member=~"$member"'


def overview() -> Dashboard:
    """Return what the person on call opens first: is anything wrong, since when, where."""
    return Dashboard(
        "asynclb-overview",
        "asynclb: overview",
        "Is anything wrong, since when, and where.",
        (INSTANCE,),
        (
            (
                Panel(
                    "Frontend availability",
                    (Query(f"min(asynclb_frontend_availability_ratio{{{_I}}})"),),
                    "percentunit",
                    "stat",
                    "The worst frontend: share of packets sent through the datapath that were given a member.",
                    bad_below=0.9,
                ),
                Panel("Members down", (Query(f"sum(asynclb_member_up{{{_I}}} == bool 0)"),), kind="stat", bad_above=0),
                Panel("Open flows", (Query(f"sum(asynclb_flow_table_entries{{{_I}}})"),), kind="stat"),
                Panel("New flows", (Query(f"sum(rate(asynclb_rule_new_flows_total{{{_I}}}[1m]))"),), "cps", "stat"),
                Panel(
                    "Reloads refused, 1 h",
                    (Query(f'sum(increase(asynclb_reloads_total{{{_I}, result="refused"}}[1h]))'),),
                    kind="stat",
                    bad_above=0,
                ),
            ),
            (
                Panel(
                    "Traffic by rule, from clients",
                    (
                        Query(
                            f'sum by (rule) (rate(asynclb_rule_bytes_total{{{_I}, direction="in"}}[1m])) * 8',
                            "{{rule}}",
                        ),
                    ),
                    "bps",
                    stacked=True,
                ),
                Panel(
                    "Traffic by rule, to clients",
                    (
                        Query(
                            f'sum by (rule) (rate(asynclb_rule_bytes_total{{{_I}, direction="out"}}[1m])) * 8',
                            "{{rule}}",
                        ),
                    ),
                    "bps",
                    stacked=True,
                ),
            ),
            (
                Panel(
                    "Health of pools",
                    (Query(f"avg by (pool) (asynclb_member_up{{{_I}}})", "{{pool}}"),),
                    "percentunit",
                    description="Share of the members that are up.",
                    bad_below=0.5,
                ),
                Panel(
                    "Drops by reason",
                    (Query(f"sum by (reason) (rate(asynclb_drops_total{{{_I}}}[1m])) > 0", "{{reason}}"),),
                    "pps",
                    stacked=True,
                ),
                Panel(
                    "Flow tables",
                    (
                        Query(f"asynclb_flow_table_entries{{{_I}}}", "{{datapath}}"),
                        Query(f"rate(asynclb_flow_evictions_total{{{_I}}}[1m])", "{{datapath}}, evictions/s"),
                    ),
                ),
            ),
            (
                Panel(
                    "Which datapath carries which rule",
                    (Query(f"asynclb_datapath_info{{{_I}}} == 1", "{{rule}}"),),
                    kind="table",
                ),
                Panel(
                    "Generation of the tables",
                    (Query(f"asynclb_table_generation{{{_I}}}", "{{datapath}}"),),
                    description="Lines that part: a datapath cannot follow.",
                ),
            ),
            (
                Panel(
                    "Members from sources",
                    (
                        Query(f"asynclb_discovery_members{{{_I}}}", "{{pool}}"),
                        Query(
                            f"asynclb_discovery_up{{{_I}}}"
                            f" * on (instance, pool) group_left asynclb_discovery_members{{{_I}}}",
                            "{{pool}}, its {{source}} answers",
                        ),
                    ),
                    description="Of pools with `members_from`. While a source does not answer its second line is at 0.",
                ),
                Panel(
                    "Lines of the flow log",
                    (Query(f"sum by (result) (rate(asynclb_flow_log_lines_total{{{_I}}}[1m]))", "{{result}}"),),
                    "cps",
                    description="What is not `written` is lost: a disk that is full or too slow.",
                ),
            ),
        ),
        (4, 8, 8, 8, 8),
    )


def rule() -> Dashboard:
    """Return one rule, both directions."""
    variables = (INSTANCE, Variable("rule", "asynclb_rule_flows"))
    by = "{{rule}} {{direction}}"
    return Dashboard(
        "asynclb-rule",
        "asynclb: rule",
        "One rule: who comes, how much, and what is lost.",
        variables,
        (
            (
                Panel("Open flows", (Query(f"sum(asynclb_rule_flows{{{_RULE}}})"),), kind="stat"),
                Panel("New flows", (Query(f"sum(rate(asynclb_rule_new_flows_total{{{_RULE}}}[1m]))"),), "cps", "stat"),
                Panel("SYN", (Query(f"sum(rate(asynclb_rule_syn_total{{{_RULE}}}[1m]))"),), "pps", "stat"),
            ),
            (
                Panel(
                    "Bytes",
                    (Query(f"sum by (rule, direction) (rate(asynclb_rule_bytes_total{{{_RULE}}}[1m])) * 8", by),),
                    "bps",
                ),
                Panel(
                    "Packets",
                    (Query(f"sum by (rule, direction) (rate(asynclb_rule_packets_total{{{_RULE}}}[1m]))", by),),
                    "pps",
                    description="Sockets see no packets: for TCP through the proxy this stays at 0.",
                ),
            ),
            (
                Panel(
                    "New flows and SYN",
                    (
                        Query(f"sum by (rule) (rate(asynclb_rule_new_flows_total{{{_RULE}}}[1m]))", "{{rule}} flows"),
                        Query(f"sum by (rule) (rate(asynclb_rule_syn_total{{{_RULE}}}[1m]))", "{{rule}} SYN"),
                    ),
                    "cps",
                    description="SYN far above flows: connections that nobody accepts, or a flood.",
                ),
                Panel("Open flows", (Query(f"sum by (rule) (asynclb_rule_flows{{{_RULE}}})", "{{rule}}"),)),
            ),
        ),
        (4, 8, 8),
    )


def member() -> Dashboard:
    """Return the members of a pool beside one another: who is down, who gets more than its share."""
    variables = (INSTANCE, Variable("pool", "asynclb_member_up"), Variable("member", "asynclb_member_up"))
    return Dashboard(
        "asynclb-member",
        "asynclb: members",
        "The members of a pool beside one another.",
        variables,
        (
            (
                Panel(
                    "Health",
                    (Query(f"min by (pool, member) (asynclb_member_up{{{_MEMBER}}})", "{{pool}}/{{member}}"),),
                    description="1 is up, as rules act.",
                    bad_below=1,
                ),
                Panel(
                    "Changes of health in an hour",
                    (Query(f"changes(asynclb_member_up{{{_MEMBER}}}[1h])", "{{pool}}/{{member}} {{probe}}"),),
                    bad_above=5,
                ),
            ),
            (
                Panel(
                    "New flows",
                    (Query(f"rate(asynclb_member_new_flows_total{{{_MEMBER}}}[1m])", "{{pool}}/{{member}}"),),
                    "cps",
                ),
                Panel(
                    "Bytes",
                    (
                        Query(
                            f"rate(asynclb_member_bytes_total{{{_MEMBER}}}[1m]) * 8",
                            "{{pool}}/{{member}} {{direction}}",
                        ),
                    ),
                    "bps",
                ),
            ),
            (
                Panel(
                    "Checks by result",
                    (
                        Query(
                            "sum by (member, result) "
                            f'(rate(asynclb_probe_results_total{{{_I}, member=~"$member"}}[1m]))',
                            "{{member}} {{result}}",
                        ),
                    ),
                    "cps",
                ),
                Panel(
                    "Time a check takes",
                    (
                        Query(_quantile(0.5), "{{probe}} median"),
                        Query(_quantile(0.95), "{{probe}} 95th percentile"),
                    ),
                    "s",
                ),
            ),
        ),
        (8, 8, 8),
    )


def _quantile(share: float) -> str:
    rate = f"sum by (probe, le) (rate(asynclb_probe_duration_seconds_bucket{{{_I}}}[1m]))"
    return f"histogram_quantile({share}, {rate})"


def snat() -> Dashboard:
    """Return the SNAT ports of members that call out."""
    variables = (INSTANCE, Variable("pool", "asynclb_snat_ports_allocated"))
    pool = f'{_I}, pool=~"$pool"'
    return Dashboard(
        "asynclb-snat",
        "asynclb: SNAT",
        "Ports of outbound rules: who has how many left.",
        variables,
        (
            (
                Panel(
                    "Ports in use, of those allocated",
                    (
                        Query(
                            f"max by (pool, member) (asynclb_snat_ports_used{{{pool}}} / on (instance, pool, member)"
                            f" group_left () (asynclb_snat_ports_allocated{{{pool}}} > 0))",
                            "{{pool}}/{{member}}",
                        ),
                    ),
                    "percentunit",
                    bad_above=0.75,
                ),
                Panel(
                    "Ports in use",
                    (Query(f"asynclb_snat_ports_used{{{pool}}}", "{{pool}}/{{member}} {{protocol}}"),),
                ),
            ),
            (
                Panel(
                    "Connections",
                    (
                        Query(
                            f"sum by (pool, member, state) (rate(asynclb_snat_connections_total{{{pool}}}[1m]))",
                            "{{pool}}/{{member}} {{state}}",
                        ),
                    ),
                    "cps",
                    description="`failed` found no free port.",
                ),
                Panel("Ports allocated", (Query(f"asynclb_snat_ports_allocated{{{pool}}}", "{{pool}}/{{member}}"),)),
            ),
        ),
        (8, 8),
    )


DASHBOARDS = (overview, rule, member, snat)


def document(dashboard: Dashboard) -> dict[str, Any]:
    """Return a dashboard in Grafana's shape."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["asynclb"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), *(_variable(variable) for variable in dashboard.variables)]},
        "links": [
            {"type": "dashboards", "tags": ["asynclb"], "title": "asynclb", "asDropdown": True, "keepTime": True}
        ],
        "panels": list(_panels(dashboard)),
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(variable: Variable) -> dict[str, Any]:
    return {
        "name": variable.name,
        "label": variable.name,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": f"label_values({variable.metric}, {variable.name})", "refId": variable.name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for panels, height in zip(dashboard.rows, dashboard.heights, strict=True):
        edges = [_WIDTH * index // len(panels) for index in range(len(panels) + 1)]
        for panel, left, right in zip(panels, edges, edges[1:], strict=False):
            number += 1
            yield _panel(panel, number, {"x": left, "y": y, "w": right - left, "h": height})
        y += height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    table = panel.kind == "table"
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": _DATASOURCE,
            "expr": query.expression,
            "legendFormat": query.legend or "__auto",
            **({"format": "table", "instant": True} if table else {}),
        }
        for index, query in enumerate(panel.queries)
    ]
    custom = {"fillOpacity": 20 if panel.stacked else 0, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": _thresholds(panel)}
    if panel.kind == "timeseries":
        defaults |= {"custom": custom, "min": 0}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    if panel.kind == "table":
        return {"showHeader": True}
    return {
        "legend": {"displayMode": "table", "placement": "right", "calcs": ["lastNotNull"]},
        "tooltip": {"mode": "multi"},
    }


def _thresholds(panel: Panel) -> dict[str, Any]:
    steps: Sequence[dict[str, Any]] = [{"color": _GREEN, "value": None}]
    if panel.bad_below is not None:
        steps = [{"color": _RED, "value": None}, {"color": _GREEN, "value": panel.bad_below}]
    elif panel.bad_above is not None:
        nearly = [{"color": _AMBER, "value": panel.bad_above * 0.8}] if panel.bad_above else []
        steps = [*steps, *nearly, {"color": _RED, "value": panel.bad_above or 1}]
    return {"mode": "absolute", "steps": steps}


def rendered(dashboard: Dashboard) -> str:
    """Return the file's text."""
    return json.dumps(document(dashboard), indent=1) + "\n"


def main() -> None:
    """Write every dashboard."""
    for make in DASHBOARDS:
        (HERE / f"{make.__name__}.json").write_text(rendered(make()))


if __name__ == "__main__":
    main()
