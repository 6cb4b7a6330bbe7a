"""Rules, health, deltas and time for the tests of the proxy, in few words."""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from asynclb.datapath.proxy import ProxyDatapath
from asynclb.events import Event
from asynclb.model import (
    AdminState,
    BackendPool,
    Frontend,
    Health,
    HealthState,
    LoadBalancingRule,
    Member,
    MemberHealth,
    Scope,
)
from asynclb.net.address import Prefix
from asynclb.net.flow import Protocol
from asynclb.tables.compile import TableCache, compile_tables
from asynclb.tables.diff import diff
from asynclb.tables.row import Delivery, FrontendKey, Row
from asynclb.tables.tables import EMPTY_TABLES, Tables

SEED = 0x8C1F0C6E5F0B4A7D
PROBE = "probe"
ANYONE: tuple[Prefix, ...] = (ip_network("0.0.0.0/0"), ip_network("::/0"))
TICK_S = 0.01


def local(number: int) -> str:
    """Return a loopback address that no other test process uses."""
    pid = os.getpid()
    return f"127.{pid >> 8 & 0x7F | 0x80}.{pid & 0xFF}.{number}"


def member(name: str, address: str, **fields: Any) -> Member:
    """Return a member."""
    return Member(name, ip_address(address), **fields)


def pool(members: Iterable[Member], *, name: str = "pool", drain_s: float = 300.0) -> BackendPool:
    """Return a pool."""
    return BackendPool(name, tuple(members), drain_s)


def row(
    address: str,
    port: int,
    members: BackendPool | Sequence[Member],
    backend_port: int,
    *,
    name: str = "web",
    protocol: Protocol = Protocol.TCP,
    allow: Sequence[str] | None = None,
    delivery: Delivery = Delivery.NAT,
    probe: str | None = PROBE,
    **fields: Any,
) -> Row:
    """Return one rule's row; `fields` are the rule's own, as `idle_timeout_s`."""
    backend = members if isinstance(members, BackendPool) else pool(members)
    prefixes = ANYONE if allow is None else tuple(ip_network(prefix) for prefix in allow)
    frontend = Frontend(f"{name}-frontend", ip_address(address), Scope.PUBLIC, prefixes)
    rule = LoadBalancingRule(name, frontend.name, protocol, port, backend_port, backend.name, probe, **fields)
    return Row(FrontendKey(frontend.address, port, protocol), rule, frontend, backend, delivery)


def health_of(rows: Iterable[Row], down: Iterable[str] = ()) -> Health:
    """Return what `PROBE` says: every member is up but those named."""
    lost = set(down)
    return Health(
        {
            (row.pool.name, m.name, PROBE): MemberHealth(HealthState.DOWN if m.name in lost else HealthState.UP)
            for row in rows
            for m in row.pool.members
        }
    )


class Events(list[tuple[Event, dict[str, object]]]):
    """Keeps every event; it is the datapath's `emit`."""

    def __call__(self, event: Event, /, **fields: object) -> None:
        """Keep one event."""
        self.append((event, fields))

    def of(self, event: Event) -> list[dict[str, object]]:
        """Return the fields of the events of one name."""
        return [fields for name, fields in self if name is event]


class Clock:
    """Real time, and what a test lets pass beyond it. Owner: one test."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return time.monotonic() + self._ahead_s

    async def passes(self, seconds: float) -> None:
        """Let time pass, and the proxy look at its timers, which it does every `TICK_S`."""
        self._ahead_s += seconds
        await asyncio.sleep(2 * TICK_S)


class Driver:
    """Drives a datapath as the controller does: rows and health in, deltas applied. Owner: one test."""

    def __init__(self, kind: Callable[..., Any] = ProxyDatapath) -> None:
        self.events = Events()
        self.proxy = kind(emit=self.events)
        self.tables: Tables = EMPTY_TABLES
        self._cache = TableCache()

    async def apply(self, *rows: Row, down: Iterable[str] = (), seed: int = SEED) -> None:
        """Make these rows the ones in force, with every member healthy but those named.

        Raises: ApplyError -> and the tables before stay in force.
        """
        generation = self.tables.generation + 1
        new = compile_tables(rows, health_of(rows, down), seed=seed, generation=generation, cache=self._cache)
        await self.proxy.apply(diff(self.tables, new))
        self.tables = new


__all__ = [
    "ANYONE",
    "SEED",
    "TICK_S",
    "AdminState",
    "Clock",
    "Driver",
    "Events",
    "Protocol",
    "health_of",
    "local",
    "member",
    "pool",
    "row",
]
