"""Text becomes a tree or one clear refusal, whatever the text is."""

import time

import pytest

from asynclb.config.reader import MAX_BYTES, MAX_DEPTH, read, scalar
from asynclb.config.source import Node, Value
from asynclb.errors import ConfigError, Problem


def refusal(text: bytes) -> Problem:
    """Return the one problem for which the text is refused."""
    with pytest.raises(ConfigError) as caught:
        read(text, file="x.yaml")
    (problem,) = caught.value.problems
    return problem


def root(text: str) -> Node:
    """Read a text that has nothing wrong with it."""
    reading = read(text.encode(), file="x.yaml")
    assert reading.problems == ()
    return reading.root


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("80", 80),
        ("-1", -1),
        ("0", 0),
        ("on", "on"),
        ("no", "no"),
        ("22:22", "22:22"),
        ("010", "010"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("1.5", "1.5"),
        (".nan", ".nan"),
        (".inf", ".inf"),
        ("2001-01-01", "2001-01-01"),
        ("9" * 30, "9" * 30),
    ],
)
def test_plain_scalar_means_what_it_looks_like(text: str, value: Value) -> None:
    """Only true, false, null and decimal whole numbers are not text."""
    found = scalar(text, plain=True)
    assert found == value
    assert type(found) is type(value)


def test_quoted_scalar_is_text() -> None:
    """Quotes make text of anything."""
    assert root("a: '80'\nb: \"true\"\nc: !!str 5\n").value == {"a": "80", "b": "true", "c": "5"}


def test_keys_are_text_as_written() -> None:
    """A key that looks like a number or a truth value stays what was written."""
    assert root("1: a\nyes: b\n010: c\n").value == {"1": "a", "yes": "b", "010": "c"}


def test_aliases_and_merge_keys_work() -> None:
    """An alias repeats a value; `<<` adds the keys that a mapping does not have."""
    text = "d: &d {x: 1, y: 2}\na: {<<: *d, x: 3}\nb: {<<: [*d, {z: 4, y: 9}]}\nl: [*d]\nk: &k name\n*k : 5\n"
    value = root(text).value
    assert isinstance(value, dict)
    assert value["a"] == {"x": 3, "y": 2}
    assert value["b"] == {"x": 1, "y": 2, "z": 4}
    assert value["l"] == [{"x": 1, "y": 2}]
    assert value["name"] == 5


def test_every_value_knows_its_place() -> None:
    """Lines and columns count from 1, also after characters of several bytes, and merged keys keep their own."""
    tree = root("d: &d {x: 1}\nlist:\n  - é: ü\n    b: {<<: *d}\n")
    listed = tree.child("list")
    assert listed is not None
    first = listed.child(0)
    assert first is not None
    assert first.place == (3, 5)
    assert first.keys == {"é": (3, 5), "b": (4, 5)}
    merged = first.child("b")
    assert merged is not None
    assert merged.keys == {"x": (1, 8)}


def test_duplicate_key_is_told_with_both_places() -> None:
    """The second of two equal keys is refused, the first is named, and reading goes on."""
    reading = read(b"a: 1\nb: 2\na: 3\nb: 4\n", file="x.yaml")
    assert [(p.line, p.column, p.value) for p in reading.problems] == [(3, 1, "a"), (4, 1, "b")]
    assert "first at line 1, column 1" in reading.problems[0].rule
    assert reading.root.value == {"a": 1, "b": 2}


def test_alias_bomb_is_refused_before_expansion() -> None:
    """Ten levels of ten aliases are ten thousand million values; the refusal takes no time."""
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 11))
    start = time.perf_counter()
    problem = refusal(bomb.encode())
    assert "aliases expanded" in problem.rule
    assert problem.line == 6
    assert time.perf_counter() - start < 1


def test_merge_bomb_is_refused() -> None:
    """Merging a mapping again and again counts like an alias."""
    big = "{" + ", ".join(f"k{i}: 1" for i in range(20_000)) + "}"
    problem = refusal(f"a: &a {big}\nb: [{', '.join(['{<<: *a}'] * 100)}]\n".encode())
    assert "aliases expanded" in problem.rule


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_depth_is_bounded(opening: str) -> None:
    """A hundred thousand open brackets neither overflow the stack nor take long."""
    problem = refusal(opening.encode() * 100_000)
    assert f"more than {MAX_DEPTH} deep" in problem.rule


@pytest.mark.parametrize(
    ("text", "rule", "place", "remedy"),
    [
        (b"", "the file is empty", (1, 1), "version: 1"),
        (b"# only a comment\n", "the file is empty", (1, 1), "version: 1"),
        (b"\xef\xbb\xbf", "the file is empty", (1, 1), "version: 1"),
        (b"a: 1\n--- \nb: 2\n", "more than one YAML document", (2, 1), "---"),
        (b"a:\n\tb: 1\n", "cannot start any token", (2, 1), "spaces, not with tabs"),
        (b"a: @b\n", "cannot start any token", (1, 4), "begins with `@` in quotes"),
        (b"a: %b\n", "cannot start any token", (1, 4), "begins with `%` in quotes"),
        (b"a: b: c\n", "mapping values are not allowed", (1, 5), "in quotes"),
        (b"a: [1, 2\nb: 3\n", "',' or ']'", (2, 2), "`]`"),
        (b"a: {x: 1\n", "',' or '}'", (2, 1), "`}`"),
        (b"a: 'x\n", "unexpected end of stream", (2, 1), "close the quote"),
        (b"a: 1\n b: 2\n", "mapping values are not allowed", (2, 3), "indentation"),
        (b"a: *nope\n", "the alias names no anchor", (1, 4), "`&nope`"),
        (b"a: &a [*a]\n", "inside its own anchor", (1, 8), "write the value out"),
        (b"a: !!python/object:os.system x\n", "tags have no meaning", (1, 4), "remove the tag"),
        (b"a: !!binary aGk=\n", "tags have no meaning", (1, 4), "remove the tag"),
        (b"a: {{ host }}\n", "a key is text", (1, 5), "template"),
        (b"? ? a\n", "a key is text", (1, 3), "template"),
        (b"<<: 5\n", "only mappings can be merged", (1, 5), "<<: *defaults"),
        (b"a: x\x00y\n", "no control characters", (1, 5), "send_hex"),
        (b"a: \x1b[1m\n", "no control characters", (1, 4), "send_hex"),
        (b"a: 1\nb: \xff\n", "not UTF-8", (2, 4), "iconv"),
        ("a: 1\n".encode("utf-16"), "not UTF-8", (1, 1), "iconv"),
    ],
)
def test_text_that_is_refused(text: bytes, rule: str, place: tuple[int, int], remedy: str) -> None:
    """Each way to break a text has its place and its remedy."""
    problem = refusal(text)
    assert rule in problem.rule
    assert (problem.line, problem.column) == place
    assert remedy in problem.remedy


def test_too_large_is_refused() -> None:
    """A file beyond the limit is refused unread."""
    assert "larger than 10 MiB" in refusal(b"#" * (MAX_BYTES + 1)).rule
