"""Flows that begin and end, in words: what the core's numbers meant when they were seen.

Bytes are of frames, packets are those that the core saw. The core keeps seconds of a flow's beginning, so durations
are right to a second.
"""

import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import is_not

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS, Conn, Told
from asynclb.datapath.core.leaving import Leaving, MemberName, member_names
from asynclb.datapath.core.memory import flow_view
from asynclb.datapath.core.values import FlowView
from asynclb.datapath.frames.numbers import Numbers
from asynclb.datapath.frames.report import PROTOCOLS
from asynclb.datapath.lifetimes import End, Lifetime, Place
from asynclb.net.address import Address, endpoint
from asynclb.net.flow import Flow
from asynclb.net.flowhash import Distribution, flow_hash, slot_of
from asynclb.tables.row import FrontendKey, Row
from asynclb.tables.snat import SnatRule
from asynclb.tables.tables import Tables


@dataclass(frozen=True, slots=True)
class Names:
    """What the core's numbers mean at one time; `rules` and `rows` by rule number, rows as they are or as they were."""

    rules: Mapping[int, str]
    rows: Mapping[int, Row]
    members: Mapping[int, MemberName]
    sources: Mapping[int, Address]
    outbound: Mapping[str, SnatRule]
    in_force: Container[FrontendKey]
    drained: Container[tuple[FrontendKey, MemberName]] = ()
    """Members that have, or had until this moment, a drain period."""

    def idle_timeout_s(self, rule: int) -> float:
        """Return how long a rule's flows may be silent."""
        row = self.rows.get(rule)
        found = row.rule if row is not None else self.outbound.get(self.rules.get(rule, ""))
        return 0.0 if found is None else found.idle_timeout_s


class Namer:
    """Says what the numbers mean; it is asked ten times a second, and answers anew when something has changed.

    Owner: a datapath.
    """

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self._made_of: tuple[object, ...] = ()
        self._names = Names({}, {}, {}, {}, {}, ())

    def names(self, tables: Tables, leaving: Leaving) -> Names:
        """Return what the numbers mean while these tables are in force. Cost: nothing until something changes."""
        numbers = self._numbers
        made_of = (tables, leaving, numbers.rules.names(), numbers.members.names(), numbers.sources.names())
        if len(made_of) != len(self._made_of) or any(map(is_not, made_of, self._made_of)):
            self._made_of = made_of
            self._names = Names(
                rules={number: name for number, (name, _) in numbers.rules.names().items()},
                rows=numbers.rows(),
                members=numbers.members.names(),
                sources=numbers.sources.names(),
                outbound={rule.name: rule for rule in tables.outbound},
                in_force=tables.entries.keys(),
                drained={(row.key, name) for row in leaving.rows for name in member_names((row,))},
            )
        return self._names


@dataclass(frozen=True, slots=True)
class Seen:
    """When flows were looked at. Units: Unix time, and the clock of deadlines."""

    at_s: float
    now_ns: int

    @classmethod
    def now(cls) -> "Seen":
        """Return this moment."""
        return cls(time.time(), time.monotonic_ns())


def is_sampled(flow: FlowView, sample: int) -> bool:
    """Return whether a flow is one of those that are told of. C twin: is_told in table.h."""
    ends = Flow(flow.client, flow.client_port, flow.frontend, flow.frontend_port, flow.protocol)
    return sample == 1 or not slot_of(flow_hash(0, ends, Distribution.FIVE_TUPLE, symmetric=True), sample)


def stopped(flows: Sequence[FlowView], names: Names, seen: Seen) -> Iterator[Lifetime]:
    """Describe flows that end with their datapath."""
    describe = Describer(names, seen)
    return (describe.lifetime(flow, End.STOPPED) for flow in flows)


def lifetimes(told: Iterable[layout.ToldFlow], names: Names, seen: Seen) -> Iterator[Lifetime]:
    """Describe what a ring held."""
    describe = Describer(names, seen)
    for found in told:
        flow = flow_view(found)
        yield describe.lifetime(flow, end_of(flow, Told(found.told), names))


def end_of(flow: FlowView, told: Told, names: Names) -> End | None:
    """Return why a flow is over, or None for one that begins."""
    if told is Told.BEGUN:
        return None
    if told is Told.PARTED:
        return _parted(flow, names)
    if flow.state == Conn.CLOSED.name.lower():
        return End.RESET if flow.broken else End.CLOSED
    return End.MOVED if told is Told.REPLACED else End.IDLE


def _parted(flow: FlowView, names: Names) -> End:
    """Return why a flow ends with its member's time: only those have a drain period that `Leaving` gives one."""
    row, member = names.rows.get(flow.rule), names.members.get(flow.member)
    if row is None or member is None:
        return End.DRAINED  # a member's own connection
    return End.DRAINED if row.key in names.in_force and (row.key, member) in names.drained else End.REMOVED


class Describer:
    """Makes words of what was seen at one time. Owner: one batch, whose flows share their places."""

    def __init__(self, names: Names, seen: Seen) -> None:
        self._names, self._seen = names, seen
        self._places: dict[tuple[int, int, Address, int, int], Place] = {}

    def lifetime(self, flow: FlowView, end: End | None) -> Lifetime:
        """Describe a flow."""
        place, own = self._place(flow), flow.source is not None
        idle_ms = 0 if end is None else int(self._names.idle_timeout_s(flow.rule) * 1000)
        return Lifetime(
            self._seen.at_s,
            end,
            place,
            endpoint(flow.client, flow.client_port),
            *(flow.bytes_in, flow.packets_in, flow.bytes_out, flow.packets_out),
            0.0 if end is None else _lasted_s(flow, idle_ms, self._seen.now_ns),
            endpoint(flow.frontend, flow.frontend_port) if own else "",
        )

    def _place(self, flow: FlowView) -> Place:
        """Return where a flow goes; a member's own connection has a place of its own."""
        if flow.source is not None:
            return place_of(flow, self._names)
        key = flow.rule, flow.member, flow.frontend, flow.frontend_port, flow.protocol
        if key not in self._places:
            self._places[key] = place_of(flow, self._names)
        return self._places[key]


def place_of(flow: FlowView, names: Names) -> Place:
    """Return where a flow goes, in names."""
    rule = names.rules.get(flow.rule, "")
    pool, member, address = names.members.get(flow.member, ("", "", flow.frontend))
    row = names.rows.get(flow.rule)
    port = (row.rule.backend_port or flow.frontend_port) if row is not None else flow.frontend_port
    frontend, target = endpoint(flow.frontend, flow.frontend_port), endpoint(address, port)
    if flow.source is not None:
        frontend = endpoint(names.sources.get(flow.source, flow.frontend), flow.source_port)
        target = endpoint(flow.client, flow.client_port)
    return Place(
        rule=rule,
        frontend=row.frontend.name if row is not None else "",
        frontend_address=frontend,
        pool=pool.partition(">")[0].partition("/")[0],
        member=member,
        member_address=target,
        protocol=PROTOCOLS.get(flow.protocol, str(flow.protocol)),
    )


def _lasted_s(flow: FlowView, idle_ms: int, now_ns: int) -> float:
    """Return the time from the first packet to the last: its deadline was set by that one. C: timeout_ms in flow.h."""
    most = {"closed": CONSTANTS["CLOSED_MS"], "syn": CONSTANTS["SYN_MS"]}.get(flow.state, idle_ms)
    now_ms = now_ns // 1_000_000
    ago_ms = (now_ms - flow.deadline_ms + min(most, idle_ms) + (1 << 31)) % (1 << 32) - (1 << 31)
    return max(0.0, round((now_ms - ago_ms) / 1000 - flow.created_s, 3))
