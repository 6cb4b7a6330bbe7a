"""Flows that begin and end, in words: what the core's numbers meant when they were seen.

Bytes are of frames, packets are those that the core saw. The core keeps seconds of a flow's beginning, so durations
are right to a second.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS, Conn, Told
from asynclb.datapath.core.leaving import Leaving, MemberName
from asynclb.datapath.core.memory import flow_view
from asynclb.datapath.core.values import FlowView
from asynclb.datapath.frames.numbers import Numbers
from asynclb.datapath.frames.report import PROTOCOLS
from asynclb.datapath.lifetimes import End, Lifetime
from asynclb.net.address import Address, endpoint
from asynclb.tables.row import Row
from asynclb.tables.snat import SnatRule


@dataclass(frozen=True, slots=True)
class Names:
    """What the core's numbers mean at one time. `rows` and `outbound` are by rule; `gone` are rules that leave."""

    rules: Mapping[int, str]
    members: Mapping[int, MemberName]
    sources: Mapping[int, Address]
    rows: Mapping[str, Row]
    outbound: Mapping[str, SnatRule]
    gone: frozenset[str] = frozenset()


def names_of(numbers: Numbers, rows: Iterable[Row], leaving: Leaving, outbound: Iterable[SnatRule]) -> Names:
    """Return what the numbers mean now."""
    old = {row.rule.name: row for row in leaving.rows}
    live = {row.rule.name: row for row in rows}
    return Names(
        rules={number: name for number, (name, _) in numbers.rules.names().items()},
        members=numbers.members.names(),
        sources=numbers.sources.names(),
        rows=old | live,
        outbound={rule.name: rule for rule in outbound},
        gone=frozenset(old.keys() - live.keys()),
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """When flows were looked at. Units: Unix time, and the clock of deadlines."""

    at_s: float
    now_ns: int

    @classmethod
    def now(cls) -> "Seen":
        """Return this moment."""
        return cls(time.time(), time.monotonic_ns())


def stopped(flows: Sequence[FlowView], names: Names, seen: Seen) -> Iterator[Lifetime]:
    """Describe flows that end with their datapath."""
    return (lifetime(flow, End.STOPPED, names, seen) for flow in flows)


def lifetimes(told: Iterable[layout.ToldFlow], names: Names, seen: Seen) -> Iterator[Lifetime]:
    """Describe what a ring held."""
    for found in told:
        flow = flow_view(found)
        yield lifetime(flow, end_of(flow, Told(found.told), names), names, seen)


def end_of(flow: FlowView, told: Told, names: Names) -> End | None:
    """Return why a flow is over, or None for one that begins."""
    if told is Told.BEGUN:
        return None
    if told is Told.PARTED:
        return End.REMOVED if names.rules.get(flow.rule, "") in names.gone else End.DRAINED
    if flow.state == Conn.CLOSED.name.lower():
        return End.RESET if flow.broken else End.CLOSED
    return End.MOVED if told is Told.REPLACED else End.IDLE


def lifetime(flow: FlowView, end: End | None, names: Names, seen: Seen) -> Lifetime:
    """Describe a flow."""
    rule = names.rules.get(flow.rule, "")
    place, member, address = names.members.get(flow.member, ("", "", flow.frontend))
    row, own = names.rows.get(rule), flow.source is not None
    port = (row.rule.backend_port or flow.frontend_port) if row is not None else flow.frontend_port
    frontend = endpoint(flow.frontend, flow.frontend_port)
    if flow.source is not None:
        frontend = endpoint(names.sources.get(flow.source, flow.frontend), flow.source_port)
    return Lifetime(
        at_s=seen.at_s,
        end=end,
        rule=rule,
        frontend=row.frontend.name if row is not None else "",
        frontend_address=frontend,
        pool=place.partition(">")[0].partition("/")[0],
        member=member,
        member_address=endpoint(flow.client, flow.client_port) if own else endpoint(address, port),
        client=endpoint(flow.client, flow.client_port),
        protocol=PROTOCOLS.get(flow.protocol, str(flow.protocol)),
        bytes_in=flow.bytes_in,
        packets_in=flow.packets_in,
        bytes_out=flow.bytes_out,
        packets_out=flow.packets_out,
        duration_s=0.0 if end is None else _lasted_s(flow, _idle_ms(rule, names), seen.now_ns),
        destination=endpoint(flow.frontend, flow.frontend_port) if own else "",
    )


def _idle_ms(rule: str, names: Names) -> int:
    found = names.outbound.get(rule) or (names.rows[rule].rule if rule in names.rows else None)
    return 0 if found is None else int(found.idle_timeout_s * 1000)


def _lasted_s(flow: FlowView, idle_ms: int, now_ns: int) -> float:
    """Return the time from the first packet to the last: its deadline was set by that one. C: timeout_ms in flow.h."""
    most = {"closed": CONSTANTS["CLOSED_MS"], "syn": CONSTANTS["SYN_MS"]}.get(flow.state, idle_ms)
    now_ms = now_ns // 1_000_000
    ago_ms = (now_ms - flow.deadline_ms + min(most, idle_ms) + (1 << 31)) % (1 << 32) - (1 << 31)
    return max(0.0, round((now_ms - ago_ms) / 1000 - flow.created_s, 3))
