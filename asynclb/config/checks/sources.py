"""Where members come from: one source for a pool, with the keys that belong together."""

from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.config.sources import DnsSpec, EtcdSpec, MembersFromSpec
from asynclb.config.values import show_duration
from asynclb.errors import Path
from asynclb.model import Record

_KINDS = ("file", "dns", "etcd")


def check_sources(draft: Draft, report: Report) -> None:
    """Refuse pools with no source under `members_from` or with several, and keys that contradict each other."""
    for name, pool in draft.pools.items():
        if (spec := pool.spec.members_from) is not None:
            path = ("backend_pools", name, "members_from")
            _one(spec, path, report)
            if spec.dns is not None:
                _dns(spec.dns, (*path, "dns"), report)
            if spec.etcd is not None:
                _etcd(spec.etcd, (*path, "etcd"), report)


def _one(spec: MembersFromSpec, path: Path, report: Report) -> None:
    given = [kind for kind in _KINDS if getattr(spec, kind) is not None]
    if not given:
        report.problem(path, "", "no source is named", "add one of `file`, `dns` and `etcd`")
    elif len(given) > 1:
        rule = f"a pool has one source, and {' and '.join(f'`{kind}`' for kind in given)} are given"
        report.problem((*path, given[1]), "", rule, "keep one of them", at_key=True)


def _dns(spec: DnsSpec, path: Path, report: Report) -> None:
    if spec.min_interval > spec.max_interval:
        rule = f"it is longer than `max_interval`, {show_duration(spec.max_interval)}"
        report.problem((*path, "min_interval"), show_duration(spec.min_interval), rule, "lower it, or raise the other")
    if "family" in spec.model_fields_set and spec.record is not Record.SRV:
        rule = f"this key is for `record: srv`, and the record is `{spec.record}`"
        report.problem((*path, "family"), "", rule, "remove it; `a` is IPv4 and `aaaa` is IPv6", at_key=True)


def _etcd(spec: EtcdSpec, path: Path, report: Report) -> None:
    if (spec.user is None) != (spec.password_file is None):
        given, other = ("user", "password_file") if spec.user is not None else ("password_file", "user")
        report.problem(
            (*path, given), "", f"`{other}` is missing", f"add `{other}: ...`, or remove the key", at_key=True
        )
    plain = [endpoint for endpoint in spec.endpoints if endpoint.startswith("http:")]
    for key in ("ca_file", "certificate_file", "key_file"):
        if plain and getattr(spec.tls, key) is not None:
            rule = f"endpoint {plain[0]} is not https, so the file would not be used"
            report.problem((*path, "tls", key), "", rule, "write `https://...`, or remove the key", at_key=True)
            break
    if spec.tls.key_file is not None and spec.tls.certificate_file is None:
        rule = "`certificate_file` is missing"
        report.problem((*path, "tls", "key_file"), "", rule, "add the certificate of this key", at_key=True)
