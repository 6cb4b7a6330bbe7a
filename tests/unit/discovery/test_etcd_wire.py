"""The JSON of an etcd's gateway."""

import json
from base64 import b64encode
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynclb.discovery.etcd_wire import Compacted, Keys, end_of, parts_of_keys, read_keys, read_moment


def line(**result: object) -> bytes:
    """Return a line of a watch."""
    return json.dumps({"result": {"header": {"revision": "7"}, **result}}).encode()


def pair(key: str, value: str = "") -> dict[str, str]:
    """Return a key and its value as the gateway writes them."""
    return {"key": b64encode(key.encode()).decode(), "value": b64encode(value.encode()).decode()}


@given(st.binary(min_size=1, max_size=8), st.binary(max_size=8))
def test_the_range_of_a_prefix_has_every_key_that_begins_with_it(prefix: bytes, rest: bytes) -> None:
    """Keys with the prefix are below the range's end, or it is open."""
    end = end_of(prefix)
    assert end == b"\0" or prefix + rest < end


def test_a_watch_writes_and_removes_keys() -> None:
    """PUT has no type in JSON as it is 0; DELETE has one."""
    moment = read_moment(line(events=[{"kv": pair("/a", "1")}, {"type": "DELETE", "kv": pair("/b")}]))
    keys = Keys(6, {b"/b": b"2", b"/c": b"3"}).after(moment)
    assert keys == Keys(7, {b"/c": b"3", b"/a": b"1"})


def test_a_watch_may_say_nothing() -> None:
    """The first line and signs of life have no events."""
    assert read_moment(line(created=True)).changes == {}


def test_compaction_is_told_apart_from_other_ends() -> None:
    """A compacted revision is read anew; any other end is an error with its reason."""
    with pytest.raises(Compacted):
        read_moment(line(canceled=True, compact_revision="5"))
    with pytest.raises(ValueError, match="permission denied"):
        read_moment(line(canceled=True, cancel_reason="permission denied"))
    with pytest.raises(ValueError, match="etcdserver: no leader"):
        read_moment(b'{"error": {"message": "etcdserver: no leader"}}')


LEAVES = st.none() | st.booleans() | st.text(max_size=5) | st.sampled_from(["7", "DELETE", "YQ=="])
ODD = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner), max_leaves=10
)
HEADER = st.fixed_dictionaries({"revision": LEAVES})
PAIR = st.fixed_dictionaries({"key": LEAVES}, optional={"value": LEAVES})
EVENT = st.fixed_dictionaries({"kv": PAIR | ODD}, optional={"type": LEAVES})
RESULT = st.fixed_dictionaries(
    {"header": HEADER | ODD}, optional={"events": st.lists(EVENT | ODD, max_size=3) | ODD, "compact_revision": ODD}
)
MOMENT = st.fixed_dictionaries({"result": RESULT | ODD}, optional={"error": ODD})
KEYS = st.fixed_dictionaries({"header": HEADER | ODD}, optional={"kvs": st.lists(PAIR | ODD, max_size=3) | ODD})


@given(MOMENT | KEYS | ODD)
def test_whatever_json_says_is_read_or_refused(document: Any) -> None:
    """No answer of a server can raise what the client does not expect."""
    known = ValueError, KeyError, TypeError, AttributeError, Compacted
    with suppress(*known):
        read_moment(json.dumps(document).encode())
    with suppress(*known):
        read_keys(document)


def test_members_are_called_by_what_follows_the_prefix() -> None:
    """Unless the value has a name; the order is that of the keys; what is no JSON is text, to be refused."""
    named, deep = b'{"name": "x", "address": "10.0.0.1"}', b"[" * 100_000
    keys = Keys(
        1, {b"/w/b": b'{"address": "10.0.0.2"}', b"/w/a": named, b"/w/c": b"7", b"/w/d": deep, b"/w/e": b"\xff"}
    )
    assert parts_of_keys(keys, "/w/") == {
        "/w/a": {"name": "x", "address": "10.0.0.1"},
        "/w/b": {"name": "b", "address": "10.0.0.2"},
        "/w/c": 7,
        "/w/d": deep.decode(),
        "/w/e": "\N{REPLACEMENT CHARACTER}",
    }
