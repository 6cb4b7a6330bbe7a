"""Small pools, rules and healths for the tests of the tables, in few words."""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address

from asynclb.model import (
    BackendPool,
    Frontend,
    Health,
    HealthState,
    LoadBalancingRule,
    Member,
    MemberHealth,
    NoHealthyMembers,
    Scope,
)
from asynclb.net.flow import Flow, Protocol
from asynclb.net.flowhash import Distribution
from asynclb.tables.compile import TableCache, compile_tables
from asynclb.tables.row import Delivery, FrontendKey, Row
from asynclb.tables.tables import Tables

SEED = 0x8C1F0C6E5F0B4A7D
ANYONE = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
PROBE = "probe"


def pool(name: str, weights: dict[str, int]) -> BackendPool:
    """Return a pool with a member for each name, at consecutive addresses."""
    first = IPv4Address("10.1.0.11")
    return BackendPool(name, tuple(Member(m, first + i, weight) for i, (m, weight) in enumerate(weights.items())))


def equal_pool(name: str, count: int) -> BackendPool:
    """Return a pool of `count` members of weight 1."""
    return pool(name, {f"{name}-{i:04}": 1 for i in range(count)})


def row(
    backend_pool: BackendPool,
    *,
    name: str = "web",
    address: str = "203.0.113.10",
    protocol: Protocol = Protocol.TCP,
    port: int = 80,
    probe: str | None = None,
    distribution: Distribution = Distribution.FIVE_TUPLE,
    policy: NoHealthyMembers = NoHealthyMembers.DROP,
    symmetric: bool = False,
) -> Row:
    """Return one rule's row."""
    frontend = Frontend(f"{name}-frontend", ip_address(address), Scope.PUBLIC, ANYONE)
    rule = LoadBalancingRule(
        name, frontend.name, protocol, port, port, backend_pool.name, probe, distribution, no_healthy_members=policy
    )
    return Row(FrontendKey(frontend.address, port, protocol), rule, frontend, backend_pool, Delivery.NAT, symmetric)


def health(backend_pool: BackendPool, down: Iterable[str] = ()) -> Health:
    """Return what `PROBE` says: every member is up but those named."""
    lost = set(down)
    states = {m.name: HealthState.DOWN if m.name in lost else HealthState.UP for m in backend_pool.members}
    return Health({(backend_pool.name, name, PROBE): MemberHealth(state) for name, state in states.items()})


NO_HEALTH = Health({})


def tables(
    *rows: Row, found: Health = NO_HEALTH, seed: int = SEED, generation: int = 1, cache: TableCache | None = None
) -> Tables:
    """Compile rows."""
    return compile_tables(rows, found, seed=seed, generation=generation, cache=cache)


def client(number: int, *, port: int = 80, address: str = "203.0.113.10", protocol: int = 6) -> Flow:
    """Return the flow of one of many clients to a frontend."""
    return Flow(
        IPv4Address("198.51.100.0") + number // 1000, 40000 + number % 1000, ip_address(address), port, protocol
    )


def with_members(backend_pool: BackendPool, *members: Member) -> BackendPool:
    """Return the pool with other members."""
    return replace(backend_pool, members=members)
