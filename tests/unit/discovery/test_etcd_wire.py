"""The JSON of an etcd's gateway."""

import json
from base64 import b64encode

import pytest

from asynclb.discovery.etcd_wire import Compacted, Keys, parts_of_keys, read_moment


def line(**result: object) -> bytes:
    """Return a line of a watch."""
    return json.dumps({"result": {"header": {"revision": "7"}, **result}}).encode()


def pair(key: str, value: str = "") -> dict[str, str]:
    """Return a key and its value as the gateway writes them."""
    return {"key": b64encode(key.encode()).decode(), "value": b64encode(value.encode()).decode()}


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
