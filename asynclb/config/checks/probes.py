"""Probes: each key belongs to a kind of probe, and a check ends before the next one begins."""

from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.config.schema import ProbeSpec
from asynclb.config.values import show_duration
from asynclb.errors import Path
from asynclb.model import ProbeProtocol

_HTTP = frozenset({ProbeProtocol.HTTP, ProbeProtocol.HTTPS})
_HTTPS = frozenset({ProbeProtocol.HTTPS})
_UDP = frozenset({ProbeProtocol.UDP})
KEYS_OF_KINDS = {
    "path": _HTTP,
    "host": _HTTP,
    "expected_status": _HTTP,
    "tls": _HTTPS,
    "send": _UDP,
    "send_hex": _UDP,
    "expect": _UDP,
    "expect_hex": _UDP,
}
"""The keys that only some kinds of probe have."""


def check_probes(draft: Draft, report: Report) -> None:
    """Refuse keys that the kind of probe does not have, and times that cannot be kept."""
    for name, probe in draft.probes.items():
        path = ("probes", name)
        _keys(probe, path, report)
        _times(probe, path, report)


def _keys(probe: ProbeSpec, path: Path, report: Report) -> None:
    given = probe.model_fields_set
    for key, kinds in KEYS_OF_KINDS.items():
        if key in given and getattr(probe, key) is not None and probe.protocol not in kinds:
            words = " and ".join(sorted(kinds))
            rule = f"this key is for {words} probes, and the protocol is {probe.protocol}"
            report.problem((*path, key), "", rule, "remove the key, or change `protocol`", at_key=True)
    if probe.protocol in _HTTP and probe.path is None:
        report.problem(
            path, "", f"a probe over {probe.protocol} needs a path", "add `path: ...`, as in `path: /healthz`"
        )
    for one, other in (("send", "send_hex"), ("expect", "expect_hex")):
        if one in given and getattr(probe, other) is not None:
            report.problem((*path, other), "", f"`{one}` is given too", "keep one of the two", at_key=True)
    if probe.number_of_probes is not None:
        rule = "this key is accepted and ignored, as the cloud does"
        report.warning((*path, "number_of_probes"), probe.number_of_probes, rule, "use `threshold` and remove it")


def _times(probe: ProbeSpec, path: Path, report: Report) -> None:
    if probe.timeout is not None and probe.timeout > probe.interval:
        rule = f"a check ends before the next begins, and the interval is {show_duration(probe.interval)}"
        report.problem((*path, "timeout"), show_duration(probe.timeout), rule, "lower `timeout` or raise `interval`")
