"""Names, rows and counters as JSON's values, for `remembered`. Pure.

Of a row only that is written which those who leave need: what decides about new flows comes from the configuration.
"""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, replace
from ipaddress import ip_address, ip_network
from typing import Any

from asynclb.datapath.base import Counters, MemberCounters, RuleCounters
from asynclb.datapath.core.leaving import Leaving, MemberName, Parting
from asynclb.datapath.frames.numbers import RuleName
from asynclb.model import AdminState, BackendPool, Frontend, LoadBalancingRule, Member, Scope
from asynclb.net.address import Address
from asynclb.net.flow import Protocol
from asynclb.tables.row import Delivery, FrontendKey, Row

_EVERYBODY = tuple(map(ip_network, ("0.0.0.0/0", "::/0")))
"""Who was allowed has been allowed: connections that are open."""


def write_names(
    rules: Mapping[RuleName, int], members: Mapping[MemberName, int], sources: Mapping[Address, int]
) -> dict[str, Any]:
    """Return the numbers of rules, members and sources."""
    return {
        "rules": [[name, _write_key(key), number] for (name, key), number in rules.items()],
        "members": [[pool, name, str(address), number] for (pool, name, address), number in members.items()],
        "sources": {str(address): number for address, number in sources.items()},
    }


def read_names(found: Any) -> tuple[dict[RuleName, int], dict[MemberName, int], dict[Address, int]]:
    """Return the numbers that were written. Raises: LookupError, TypeError, ValueError -> they are something else."""
    return (
        {(str(name), _read_key(key)): int(number) for name, key, number in found["rules"]},
        {(pool, name, ip_address(address)): int(number) for pool, name, address, number in found["members"]},
        {ip_address(address): int(number) for address, number in found["sources"].items()},
    )


def write_rows(rows: Iterable[Row], leaving: Leaving, numbers: Mapping[MemberName, int]) -> dict[str, Any]:
    """Return the rows and who leaves; pools are written once, their members by number."""
    every = (*rows, *leaving.rows)
    pools = {id(row.pool): row.pool for row in every}
    places = {identity: place for place, identity in enumerate(pools)}
    return {
        "pools": [_write_pool(pool, numbers) for pool in pools.values()],
        "rows": [_write_row(row, places[id(row.pool)]) for row in rows],
        "leaving": [[_write_row(one.row, places[id(one.row.pool)]), one.until_s] for one in leaving.partings],
    }


def read_rows(found: Any, numbers: Mapping[MemberName, int]) -> tuple[tuple[Row, ...], Leaving]:
    """Return the rows that were written. Raises: LookupError, TypeError, ValueError -> they are something else."""
    names = {number: name for name, number in numbers.items()}
    pools = [_read_pool(pool, names) for pool in found["pools"]]
    partings = (Parting(_read_row(row, pools), float(until_s)) for row, until_s in found["leaving"])
    return tuple(_read_row(row, pools) for row in found["rows"]), Leaving(tuple(partings))


def write_counters(counters: Counters) -> dict[str, Any]:
    """Return what was counted for rules and members."""
    return {
        "rules": {name: astuple(counted) for name, counted in counters.rules.items()},
        "members": [[pool, name, astuple(counted)] for (pool, name), counted in counters.members.items()],
    }


def read_counters(found: Any) -> Counters:
    """Return what was counted. Raises: LookupError, TypeError -> it is something else."""
    return Counters(
        rules={name: RuleCounters(*counted) for name, counted in found["rules"].items()},
        members={(pool, name): MemberCounters(*counted) for pool, name, counted in found["members"]},
    )


def _write_key(key: FrontendKey | None) -> list[Any] | None:
    return None if key is None else [str(key.address), key.port, str(key.protocol)]


def _read_key(found: Any) -> FrontendKey | None:
    if found is None:
        return None
    address, port, protocol = found
    return FrontendKey(ip_address(address), int(port), Protocol(protocol))


def _write_pool(pool: BackendPool, numbers: Mapping[MemberName, int]) -> list[Any]:
    members = [[numbers[pool.name, member.name, member.address], str(member.admin_state)] for member in pool.members]
    return [pool.name, pool.drain_period_s, members]


def _read_pool(found: Any, names: Mapping[int, MemberName]) -> BackendPool:
    name, drain_s, members = found
    known = ((*names[number][1:], AdminState(state)) for number, state in members)
    return BackendPool(
        name, tuple(Member(member, address, admin_state=state) for member, address, state in known), drain_s
    )


def _write_row(row: Row, pool: int) -> list[Any]:
    rule, frontend = row.rule, row.frontend
    return [
        *(rule.name, _write_key(row.key), rule.backend_port, pool, str(row.delivery), row.symmetric),
        *(rule.idle_timeout_s, rule.tcp_reset, frontend.name, frontend.interface, frontend.routed, row.nat_rule),
    ]


def _read_row(found: Any, pools: list[BackendPool]) -> Row:
    name, written, backend_port, place, delivery, symmetric, idle_s, reset, frontend, interface, routed, nat = found
    key, pool = _read_key(written), pools[place]
    if key is None:
        raise ValueError(f"rule {name!r} has no frontend")
    rule = LoadBalancingRule(name, frontend, key.protocol, key.port, backend_port, pool.name)
    rule = replace(rule, idle_timeout_s=idle_s, tcp_reset=reset, floating_ip=delivery == Delivery.FLOATING)
    front = Frontend(frontend, key.address, Scope.INTERNAL, _EVERYBODY, interface, routed)
    return Row(key, rule, front, pool, Delivery(delivery), symmetric, nat)
