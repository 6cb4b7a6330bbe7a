"""A configuration whose parts are each sound by themselves, before it is known whether they fit together.

Every part (a frontend, a member, a rule) is validated alone. One that is broken is reported and left out, but its
name is kept, so that what refers to it is not blamed and the checks of everything else still run: that is how one
run finds every problem.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from asynclb.config.again import Known
from asynclb.config.explain import explain
from asynclb.config.report import Report
from asynclb.config.schema import (
    Document,
    FrontendSpec,
    InboundNatRuleSpec,
    InterfaceSpec,
    MemberSpec,
    OutboundRuleSpec,
    PoolSpec,
    ProbeSpec,
    RuleSpec,
)
from asynclb.config.source import Value
from asynclb.config.spec import Spec
from asynclb.config.spelling import INTERFACE_NAME, NAME, Written
from asynclb.config.values import kind_of
from asynclb.errors import Path

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True, slots=True)
class PoolDraft:
    """A pool with its sound members by their position.

    `names` are the members' names; `version` is their address family, None for no members or both families;
    `whole` says that all members are known: none was left out, and no source may tell of further ones.
    """

    spec: PoolSpec
    members: Mapping[int, MemberSpec]
    names: frozenset[str]
    version: int | None
    whole: bool


@dataclass(frozen=True, slots=True)
class Draft:
    """The sound parts by name or position.

    `names` has the names of all parts, broken ones included, of every section that is a mapping; `written` has every
    rule of every section as it was written, sound or not.
    """

    settings: Document
    interfaces: Mapping[str, InterfaceSpec]
    frontends: Mapping[str, FrontendSpec]
    pools: Mapping[str, PoolDraft]
    probes: Mapping[str, ProbeSpec]
    rules: Mapping[int, RuleSpec]
    nat_rules: Mapping[int, InboundNatRuleSpec]
    outbound_rules: Mapping[int, OutboundRuleSpec]
    names: Mapping[str, frozenset[str]]
    written: Mapping[str, Mapping[int, Value]]

    def pools_of_rules(self) -> Iterator[str]:
        """Iterate over the pool of every rule of every kind."""
        yield from (rule.backend_pool for rule in self.rules.values())
        yield from (rule.backend_pool for rule in self.nat_rules.values())
        yield from (rule.backend_pool for rule in self.outbound_rules.values())


def draft(root: Value, report: Report, known: Mapping[str, Known] = MappingProxyType({})) -> Draft:
    """Validate every part of a document by itself, reporting what is wrong with each.

    `known` are members of each pool that were sound before; who stands there unchanged is taken as he was.
    """
    document = root if isinstance(root, dict) else {"version": 1}
    if not isinstance(root, dict):
        remedy = "begin with `version: 1`; conf/asynclb.yaml is a small example"
        report.problem((), root, f"a configuration must be a mapping, not {kind_of(root)}", remedy)
    pools = _named(document, "backend_pools")
    return Draft(
        settings=_settings(document, report),
        interfaces=_parts(InterfaceSpec, _named(document, "interfaces"), "interfaces", report),
        frontends=_parts(FrontendSpec, _named(document, "frontends"), "frontends", report),
        pools={
            name: pool
            for name, value in pools.items()
            if (pool := _pool(name, value, report, known.get(name, Known())))
        },
        probes=_parts(ProbeSpec, _named(document, "probes"), "probes", report),
        rules=_parts(RuleSpec, _listed(document, "rules"), "rules", report),
        nat_rules=_parts(InboundNatRuleSpec, _listed(document, "inbound_nat_rules"), "inbound_nat_rules", report),
        outbound_rules=_parts(OutboundRuleSpec, _listed(document, "outbound_rules"), "outbound_rules", report),
        names={
            section: frozenset(_named(document, section))
            for section in _NAMED
            if isinstance(document.get(section, {}), dict)
        },
        written={section: _listed(document, section) for section in _LISTED},
    )


def _named(document: Mapping[str, Value], section: str) -> dict[str, Value]:
    value = document.get(section)
    return value if isinstance(value, dict) else {}


def _listed(document: Mapping[str, Value], section: str) -> dict[int, Value]:
    value = document.get(section)
    return dict(enumerate(value)) if isinstance(value, list) else {}


_K = TypeVar("_K", str, int)


def _parts(spec: type[S], parts: Mapping[_K, Value], section: str, report: Report) -> dict[_K, S]:
    sound = {}
    for key, value in parts.items():
        if report.full:
            break
        part = _part(spec, value, (section, key), report)
        if part is not None:
            sound[key] = part
    return sound


def _part(spec: type[S], value: Value, path: Path, report: Report) -> S | None:
    """Validate one part; unknown keys are reported but do not break it."""
    try:
        return spec.model_validate(value)
    except ValidationError as error:
        explain(error, spec, path, report)
    try:
        return spec.model_validate(_known(spec, value))
    except ValidationError:
        return None


def _known(spec: type[Spec], value: object) -> object:
    """Return the value without the keys that the part does not have."""
    if not isinstance(value, dict):
        return value
    known = {}
    for key, item in value.items():
        if key in spec.model_fields:
            part = spec.part(key)
            known[key] = _known(part, item) if part is not None else item
    return known


def _pool(name: str, value: Value, report: Report, known: Known | None) -> PoolDraft | None:
    path = ("backend_pools", name)
    members = value.get("members", _no_members(value, path, report)) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(members, list):
        _part(PoolSpec, value, path, report)
        return None
    spec = _part(PoolSpec, {**value, "members": []}, path, report)
    sound = {}
    for index, item in enumerate(members):
        member = known.find(item) if known is not None else None
        if member is None and not report.full:
            member = _part(MemberSpec, item, (*path, "members", index), report)
        if member is not None:
            sound[index] = member
    if spec is None:
        return None
    return pool_draft(spec, sound, whole=spec.members_from is None and len(sound) == len(members))


def pool_draft(spec: PoolSpec, members: Mapping[int, MemberSpec], *, whole: bool) -> PoolDraft:
    """Return the draft of a pool with these members."""
    names = frozenset(member.name for member in members.values())
    versions = {member.address.version for member in members.values()}
    return PoolDraft(spec, members, names, versions.pop() if len(versions) == 1 else None, whole)


def _no_members(pool: Mapping[str, Value], path: Path, report: Report) -> list[Value]:
    """Return what a pool without `members` has; report it unless they come from somewhere else."""
    if "members" not in pool and "members_from" not in pool:
        remedy = "add `members: [...]`, or `members_from: ...` for those that a file, DNS or etcd tells of"
        report.problem(path, "", "a pool needs members", remedy)
    return []


_NAMED = {"interfaces": INTERFACE_NAME, "frontends": NAME, "backend_pools": NAME, "probes": NAME}
_LISTED = ("rules", "inbound_nat_rules", "outbound_rules")


def _settings(document: Mapping[str, Value], report: Report) -> Document:
    """Validate what is no section, and the shape and names of the sections; keys that are wrong take their defaults."""
    for section, spelling in _NAMED.items():
        _check_names(_named(document, section), section, spelling, report)
    settings = dict(document)
    for section in (*_NAMED, *_LISTED):
        if isinstance(shape := settings.get(section), list | dict):
            settings[section] = type(shape)()
    try:
        return Document.model_validate(settings)
    except ValidationError as error:
        explain(error, Document, (), report)
    sound: dict[str, object] = {"version": 1}
    for key in settings.keys() & Document.model_fields.keys():
        value, part = settings[key], Document.part(key)
        item = _known(part, value) if part is not None else value
        try:
            Document.model_validate({"version": 1, key: item})
        except ValidationError:
            continue
        sound[key] = item
    return Document.model_validate(sound)


def _check_names(parts: Mapping[str, Value], section: str, spelling: Written, report: Report) -> None:
    for name in parts:
        try:
            spelling.parse(name)
        except PydanticCustomError as error:
            context = error.context or {}
            report.problem((section, name), name, context["rule"], context["remedy"], at_key=True)
