"""Whatever is in the file, `parse` gives a configuration or a `ConfigError`, and soon."""

import copy
import time
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynclb.config import Parsed, parse
from asynclb.errors import ConfigError

FULL = (Path(__file__).parents[2] / "conf" / "full.yaml").read_bytes()
DOCUMENT: dict[str, Any] = yaml.safe_load(FULL)
LINES = FULL.splitlines(keepends=True)
PATIENCE = settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow])

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from(["web", "5s", "10.0.0.1", "::1", "tcp", "all", "on", "22:22", "*a", "&a", "<<", "00 ff", "~"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(sorted({*DOCUMENT, *DOCUMENT["rules"][0], *DOCUMENT["probes"]["web-http"], "<<", "zzz"}))
SYNTAX = st.sampled_from(
    [
        b"\n",
        b"  ",
        b"- ",
        b": ",
        b"{",
        b"}",
        b"[",
        b"]",
        b"&a ",
        b"*a ",
        b"<<: *a\n",
        b'"',
        b"'",
        b"|",
        b">",
        b"? ",
        b"---\n",
        b"!!str ",
        b"%YAML 1.2\n",
        b"\t",
        b"#",
        b"\x00",
        b"\xff",
        b"a",
        b"version: 1\n",
        b"rules:\n",
    ]
)


def settle(text: bytes) -> Parsed | ConfigError:
    """Parse, and see that a refusal is complete: every problem has a rule, a remedy and a file."""
    start = time.perf_counter()
    outcome = attempt(text)
    assert time.perf_counter() - start < 10
    if isinstance(outcome, ConfigError):
        assert outcome.problems
        assert all(problem.rule and problem.remedy and problem.file == "x.yaml" for problem in outcome.problems)
        assert len(str(outcome)) < 5_000_000
    return outcome


def attempt(text: bytes) -> Parsed | ConfigError:
    """Return what `parse` gives or raises."""
    try:
        return parse(text, file="x.yaml")
    except ConfigError as error:
        return error


def paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every value below a value."""
    found = [path] if path else []
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, below in steps:
        found += paths(below, (*path, step))
    return found


PATHS = paths(DOCUMENT)


@PATIENCE
@given(st.binary(max_size=300))
def test_any_bytes(text: bytes) -> None:
    """Arbitrary bytes never do anything but parse or be refused."""
    settle(text)


@PATIENCE
@given(st.lists(SYNTAX, max_size=40))
def test_any_yaml_syntax(pieces: list[bytes]) -> None:
    """Arbitrary sequences of what YAML gives a meaning to never do anything else either."""
    settle(b"".join(pieces))


@PATIENCE
@given(VALUES)
def test_any_document(value: Any) -> None:
    """Nor do arbitrary documents."""
    settle(yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass"))


@PATIENCE
@given(st.lists(st.tuples(st.sampled_from(PATHS), VALUES), min_size=1, max_size=3))
def test_sound_configuration_with_wrong_values(changes: list[tuple[tuple[str | int, ...], Any]]) -> None:
    """Any value anywhere in a sound configuration is accepted or refused with its place."""
    document: Any = copy.deepcopy(DOCUMENT)
    for path, value in changes:
        target = document
        try:
            for step in path[:-1]:
                target = target[step]
            target[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue
    outcome = settle(yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass"))
    if isinstance(outcome, ConfigError):
        assert all(problem.line for problem in outcome.problems)


@PATIENCE
@given(st.sampled_from(PATHS), KEYS, VALUES)
def test_sound_configuration_with_another_key(path: tuple[str | int, ...], key: str, value: Any) -> None:
    """Any key anywhere in a sound configuration is accepted or refused."""
    document: Any = copy.deepcopy(DOCUMENT)
    target = document
    for step in path:
        target = target[step]
    if isinstance(target, dict):
        target[key] = value
    settle(yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass"))


@PATIENCE
@given(st.data())
def test_sound_configuration_with_damaged_text(data: st.DataObject) -> None:
    """Lines dropped, repeated, cut or interrupted never do anything but change the verdict."""
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(lines) - 1))
        damage = data.draw(st.sampled_from(["drop", "repeat", "cut", "insert", "indent"]))
        if damage == "drop" and len(lines) > 1:
            del lines[position]
        elif damage == "repeat":
            lines.insert(position, lines[position])
        elif damage == "cut":
            lines[position] = lines[position][: data.draw(st.integers(0, len(lines[position])))]
        elif damage == "insert":
            column = data.draw(st.integers(0, len(lines[position])))
            lines[position] = lines[position][:column] + data.draw(SYNTAX) + lines[position][column:]
        else:
            lines[position] = b" " * data.draw(st.integers(1, 4)) + lines[position]
    settle(b"".join(lines))


@PATIENCE
@given(st.integers(0, len(FULL)))
def test_truncated_text(length: int) -> None:
    """A configuration that was written half is refused or, cut between parts, smaller; it never crashes."""
    settle(FULL[:length])


@PATIENCE
@given(st.permutations(list(DOCUMENT)), st.permutations(DOCUMENT["backend_pools"]["web"]["members"]))
def test_order_of_keys_does_not_matter(keys: list[str], members: list[dict[str, Any]]) -> None:
    """The order of the sections changes nothing; the order of the members is kept, as inbound NAT ports follow it."""
    document = copy.deepcopy({key: DOCUMENT[key] for key in keys})
    document["backend_pools"]["web"]["members"] = members
    model = parse(yaml.safe_dump(document, sort_keys=False).encode(), file="a").model
    assert model.rules == parse(FULL, file="b").model.rules
    assert [member.name for member in model.backend_pools["web"].members] == [member["name"] for member in members]
