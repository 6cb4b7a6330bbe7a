"""What sources of members say: read by the same rules as a pool's `members`.

Laws:
  1. What is wrong is told at once, each problem with its place; one that is wrong refuses the whole answer.
  2. A member without a name is called by its address, so that it is the same member in the next answer.
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from pydantic import ValidationError

from asynclb.config.build import member_of
from asynclb.config.explain import explain
from asynclb.config.reader import read
from asynclb.config.report import Report
from asynclb.config.schema import MemberSpec
from asynclb.config.source import Node, SourceMap, Value
from asynclb.config.values import kind_of
from asynclb.errors import ConfigError, Path
from asynclb.model import Member
from asynclb.net.address import name_of_address


def read_members(text: bytes, *, file: str) -> tuple[Member, ...]:
    """Read a file of members: a list of them in YAML or JSON, or a mapping with that list under `members`.

    Raises: ConfigError -> anything is wrong; it carries every problem with its line.
    """
    reading = read(text, file=file)
    report = Report(SourceMap(file, reading.root))
    for problem in reading.problems:
        report.add(problem)
    value = reading.root.value
    path: Path = ()
    if isinstance(value, dict) and value.keys() == {"members"}:
        value, path = value["members"], ("members",)
    if not isinstance(value, list):
        remedy = "begin with `- {name: web-1, address: 10.1.0.11}`; an empty list is `[]`"
        report.problem(path, value, f"this must be a list of members, not {kind_of(value)}", remedy)
        value = []
    return _members((((*path, index), item) for index, item in enumerate(value)), report)


def check_members(parts: Mapping[str, Any], *, source: str) -> tuple[Member, ...]:
    """Return the members of an answer that is no file: what they are called there -> the keys of a member.

    Raises: ConfigError -> anything is wrong; it carries every problem, each with what the part is called.
    """
    report = Report(SourceMap(source, Node({}, (0, 0))))
    return _members((((name,), value) for name, value in parts.items()), report)


def _members(parts: Iterable[tuple[Path, Value]], report: Report) -> tuple[Member, ...]:
    members = []
    for path, value in parts:
        try:
            members.append(member_of(MemberSpec.model_validate(_named(value))))
        except ValidationError as error:
            explain(error, MemberSpec, path, report)
    if report.problems:
        raise ConfigError(report.problems)
    return tuple(members)


def _named(value: Value) -> Value:
    """Return a member with a name: its address if it has none of its own."""
    if not isinstance(value, dict) or "name" in value or not isinstance(value.get("address"), str):
        return value
    try:
        return {"name": name_of_address(ip_address(str(value["address"]))), **value}
    except ValueError:
        return {"name": "unnamed", **value}  # the address is refused, with the reason
