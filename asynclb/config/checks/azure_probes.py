"""What Azure refuses of probes, and what its probes cannot be told: refused with `compat: azure` only.

Source: Azure Load Balancer documentation on probes: one threshold, no time of their own, no host name, status 200 only.
"""

from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.config.schema import ProbeSpec, TlsSpec
from asynclb.config.values import show_duration
from asynclb.errors import Path
from asynclb.model import EXTENDED, ProbeProtocol

HTTP_BLOCKED_PORTS = frozenset({19, 21, 25, 70, 110, 119, 143, 220, 993})
MIN_INTERVAL_S = 5.0
LONGEST_CHECK_S = 30.0
_REMOVE = f"remove it, {EXTENDED}"


def check_azure_probes(draft: Draft, report: Report) -> None:
    """Refuse what Azure refuses of probes, and what it has no word for."""
    for name, probe in draft.probes.items():
        path = ("probes", name)
        _kind(probe, path, report)
        _times(probe, path, report)
        _thresholds(probe, path, report)
        _answers(probe, path, report)


def _kind(probe: ProbeSpec, path: Path, report: Report) -> None:
    if probe.protocol is ProbeProtocol.UDP:
        remedy = f"probe the service over tcp or http, {EXTENDED}"
        report.problem((*path, "protocol"), probe.protocol, "Azure has no udp probes", remedy)
    if probe.protocol in (ProbeProtocol.HTTP, ProbeProtocol.HTTPS) and probe.port in HTTP_BLOCKED_PORTS:
        ports = ", ".join(str(port) for port in sorted(HTTP_BLOCKED_PORTS))
        rule = f"Azure does not probe over HTTP on ports {ports}"
        report.problem((*path, "port"), probe.port, rule, f"probe another port, {EXTENDED}")


def _times(probe: ProbeSpec, path: Path, report: Report) -> None:
    if probe.interval < MIN_INTERVAL_S:
        rule = f"Azure's shortest interval is {show_duration(MIN_INTERVAL_S)}"
        report.problem((*path, "interval"), show_duration(probe.interval), rule, f"raise it, {EXTENDED}")
    elif probe.timeout not in (None, probe.interval, min(probe.interval, LONGEST_CHECK_S)):
        rule = f"in Azure a check may take the whole interval, over HTTP {show_duration(LONGEST_CHECK_S)} at most"
        report.problem((*path, "timeout"), show_duration(probe.timeout), rule, _REMOVE)


def _thresholds(probe: ProbeSpec, path: Path, report: Report) -> None:
    rise, fall = probe.rise or probe.threshold, probe.fall or probe.threshold
    if rise != fall:
        key = "rise" if probe.rise is not None else "fall"
        rule = f"Azure has one threshold for both ways, and here {rise} successes and {fall} failures are asked for"
        remedy = f"write `threshold` in the place of `rise` and `fall`, {EXTENDED}"
        report.problem((*path, key), getattr(probe, key), rule, remedy)


def _answers(probe: ProbeSpec, path: Path, report: Report) -> None:
    if probe.expected_status != ProbeSpec.model_fields["expected_status"].default:
        rule = "in Azure status 200 is healthy and no other is"
        report.problem((*path, "expected_status"), "", rule, _REMOVE)
    if probe.host is not None:
        report.problem((*path, "host"), probe.host, "Azure's probes ask for no host by name", _REMOVE)
    if probe.tls != TlsSpec():
        rule = "Azure's https probes cannot be told how to look at certificates"
        report.problem((*path, "tls"), "", rule, _REMOVE)
