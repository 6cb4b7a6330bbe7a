"""The JSON that an etcd speaks through its gateway: keys, and what a watch says. Pure.

Bytes are base64, numbers of 64 bits are text. Source: etcd 3.4 and later, Documentation/dev-guide/api_grpc_gateway and
rpc.proto (RangeResponse, WatchResponse).
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_BYTES = 32 * 1024 * 1024  # of one message: 65,535 members of 300 bytes, in base64


class Compacted(Exception):  # noqa: N818  it is a state of the etcd, not an error
    """The revision that was to be watched is no longer kept."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What a watch says once: key -> new value, None for one that is gone."""

    revision: int
    changes: Mapping[bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys under a prefix at a revision."""

    revision: int
    values: Mapping[bytes, bytes]

    def after(self, moment: Moment) -> "Keys":
        """Return the keys as they are then."""
        merged = {**self.values, **moment.changes}
        return Keys(moment.revision, {key: value for key, value in merged.items() if value is not None})


def range_request(prefix: bytes) -> Mapping[str, Any]:
    """Return what to ask for all keys under a prefix."""
    return {"key": encoded(prefix), "range_end": encoded(end_of(prefix))}


def watch_request(prefix: bytes, revision: int) -> Mapping[str, Any]:
    """Return what to ask for everything that happens under a prefix from a revision on."""
    return {"create_request": {**range_request(prefix), "start_revision": str(revision)}}


def end_of(prefix: bytes) -> bytes:
    """Return the first key behind all that begin with the prefix; a zero byte is the end of all keys."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b"\0"


def read_keys(document: Mapping[str, Any]) -> Keys:
    """Return the answer to a range. Raises: ValueError, KeyError, TypeError -> it is none."""
    return Keys(int(document["header"]["revision"]), dict(_pair(item) for item in document.get("kvs", ())))


def read_moment(line: bytes) -> Moment:
    """Return what one line of a watch says.

    Raises: Compacted -> the watch ended as its revision is gone; ValueError, KeyError, TypeError -> it is no such line,
    or the watch ended for another reason, which the error names.
    """
    document = json.loads(line)
    if "error" in document:
        raise ValueError(str(document["error"].get("message", document["error"])))
    result = document["result"]
    if int(result.get("compact_revision", 0)):
        raise Compacted
    if result.get("canceled"):
        raise ValueError(f"the watch was cancelled: {result.get('cancel_reason') or 'no reason was given'}")
    changes = {}
    for event in result.get("events", ()):
        key, value = _pair(event["kv"])
        changes[key] = None if event.get("type") == "DELETE" else value
    return Moment(int(result["header"]["revision"]), changes)


def _pair(item: Mapping[str, str]) -> tuple[bytes, bytes]:
    return b64decode(item["key"], validate=True), b64decode(item.get("value", ""), validate=True)


def encoded(data: bytes) -> str:
    """Return bytes as the gateway wants them."""
    return b64encode(data).decode()


def parts_of_keys(keys: Keys, prefix: str) -> Mapping[str, Any]:
    """Return what each key holds, in the order of the keys.

    A member without a name is called by what follows the prefix. A value that is no JSON is handed on as text, to be
    refused with its key.
    """
    return {
        key.decode(errors="replace"): _part(value, key.decode(errors="replace").removeprefix(prefix))
        for key, value in sorted(keys.values.items())
    }


def _part(value: bytes, name: str) -> Any:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):  # also of bytes that are no text, and of a thousand brackets
        return value.decode(errors="replace")
    return {"name": name, **found} if isinstance(found, dict) else found
