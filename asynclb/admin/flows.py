"""Open flows as pages: filtered, ordered, and cut where the reader wants to go on. Pure.

Flows come and go while a reader turns pages. A cursor is therefore not a position but the last flow that was read:
a flow that stays open meanwhile is on exactly one page.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from heapq import nsmallest
from ipaddress import ip_address, ip_network
from typing import Any

from asynclb.admin import documents
from asynclb.datapath.base import FlowRecord
from asynclb.net.address import Prefix

Key = tuple[str, ...]
MOST_RULES = 10  # named for one client


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """What a reader wants to see; empty fields let everything through."""

    rule: str = ""
    pool: str = ""
    member: str = ""
    protocol: str = ""
    client: Prefix | None = None

    def __call__(self, flow: FlowRecord) -> bool:
        """Return whether the flow passes."""
        return (
            self.rule in ("", flow.rule)
            and self.pool in ("", flow.pool)
            and self.member in ("", flow.member)
            and self.protocol in ("", flow.protocol)
            and (self.client is None or _within(address_of(flow.client), self.client))
        )


def _within(address: str, prefix: Prefix) -> bool:
    found = ip_address(address)
    return found.version == prefix.version and found in prefix


def read_prefix(text: str) -> Prefix:
    """Read an address or a prefix. Raises: ValueError -> it is neither."""
    return ip_network(text, strict=False)


def address_of(client: str) -> str:
    """Return the address of `192.0.2.1:80`, `[2001:db8::1]:80` or an address alone."""
    if client.startswith("["):
        return client[1 : client.index("]")]
    return client.rpartition(":")[0] if client.count(":") == 1 else client


def key_of(flow: FlowRecord) -> Key:
    """Return what flows are ordered by."""
    return flow.rule, flow.protocol, flow.client, flow.frontend, flow.target


def write_cursor(key: Key) -> str:
    """Return a cursor as it is sent to a reader."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def read_cursor(text: str) -> Key:
    """Return the key that a reader sent back. Raises: ValueError -> it was not made here."""
    try:
        key = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        raise ValueError("the cursor was not made here") from None
    if not isinstance(key, list) or len(key) != 5 or not all(isinstance(part, str) for part in key):
        raise ValueError("the cursor was not made here")
    return tuple(key)


class Page:
    """Collects the first flows after a cursor. Owner: one request. Shape: keeps `limit` flows, however many come."""

    def __init__(self, wanted: FlowFilter, limit: int, after: Key | None = None) -> None:
        self._wanted = wanted
        self._limit = limit
        self._after = after
        self._kept: list[FlowRecord] = []
        self.matching = 0
        self.open = 0

    def add(self, flows: Iterable[FlowRecord]) -> None:
        """Look at some more flows."""
        fresh = []
        for flow in flows:
            self.open += 1
            if (self._after is None or key_of(flow) > self._after) and self._wanted(flow):
                self.matching += 1
                fresh.append(flow)
        if fresh:
            self._kept = nsmallest(self._limit, (*self._kept, *fresh), key=key_of)

    def document(self) -> documents.Flows:
        """Return the page."""
        more = self.matching > len(self._kept)
        return {
            "flows": [flow_document(flow) for flow in self._kept],
            "next": write_cursor(key_of(self._kept[-1])) if more else None,
            "matching": self.matching,
            "open": self.open,
        }


def flow_document(flow: FlowRecord) -> documents.Flow:
    """Return one flow."""
    found: Any = asdict(flow)
    document: documents.Flow = found
    return document


@dataclass(slots=True)
class _Client:
    flows: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    rules: Counter[str] = field(default_factory=Counter)


class Talkers:
    """Adds up open flows by client address. Owner: one request."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client] = {}
        self.open = 0

    def add(self, flows: Iterable[FlowRecord]) -> None:
        """Look at some more flows."""
        for flow in flows:
            self.open += 1
            client = self._clients.setdefault(address_of(flow.client), _Client())
            client.flows += 1
            client.bytes_in += flow.bytes_in
            client.bytes_out += flow.bytes_out
            client.rules[flow.rule] += 1

    def document(self, limit: int) -> documents.Clients:
        """Return the clients with the most flows."""
        first = nsmallest(limit, self._clients.items(), key=lambda item: (-item[1].flows, item[0]))
        clients: list[documents.Client] = [
            {
                "client": address,
                "flows": found.flows,
                "bytes_in": found.bytes_in,
                "bytes_out": found.bytes_out,
                "rules": [name for name, _ in found.rules.most_common(MOST_RULES)],
            }
            for address, found in first
        ]
        return {"clients": clients, "addresses": len(self._clients), "open": self.open}
