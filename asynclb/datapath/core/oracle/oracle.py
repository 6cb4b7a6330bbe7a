"""What becomes of one frame. C twin: process.h, function by function.

The order of the questions: is it for a VIP, is it a member's answer, does it come by a routed interface? What is none
of these passes, however broken it is.
"""

from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from asynclb.datapath.core.image import Plan, keeps_sessions
from asynclb.datapath.core.layout import CONSTANTS, TRANSITIONS, Conn, Event, Verdict
from asynclb.datapath.core.oracle import wire
from asynclb.datapath.core.oracle.rewrite import Rewriter
from asynclb.datapath.core.oracle.wire import TCP, UDP, Form, Network, Parsed, Part
from asynclb.datapath.core.values import NextHop, Result
from asynclb.model import Member
from asynclb.net.address import Address
from asynclb.net.drop import Drop
from asynclb.net.flow import Flow, Protocol
from asynclb.net.flowhash import Distribution, flow_hash
from asynclb.tables.lookup import choose
from asynclb.tables.row import Delivery, FrontendKey, Row
from asynclb.tables.tables import Entry, Tables

_PROTOCOLS = {TCP: Protocol.TCP, UDP: Protocol.UDP}
_IN, _OUT = 0, 1
Key = tuple[Flow, bool]
"""A flow and whether its ends are in order (symmetric)."""
Target = tuple[str, Member]
"""A member and the pool that it is in."""


@dataclass(slots=True)
class State:
    """An entry of the flow table."""

    target: Target
    rule: str
    generation: int
    target_port: int
    swapped: bool
    state: Conn = Conn.NONE
    deadline_ms: int = 0
    ifindex: int = 0
    link: bytes = b""
    hairpin_port: int = 0
    client: Flow | None = None
    """For the way back of a hairpin: the flow that it belongs to."""


@dataclass(slots=True)
class Passage:
    """A flow as one packet meets it."""

    entry: Entry
    key: Key
    swapped: bool = False
    outward: bool = False
    state: State | None = None
    target: Target | None = None
    target_port: int = 0
    fresh: bool = False
    event: Event = Event.OTHER


@dataclass(slots=True)
class Oracle:
    """Decides frames as the core must. Owner: a test."""

    tables: Tables
    plan: Plan
    hops: dict[int, NextHop]
    interfaces: dict[int, bytes] = field(default_factory=dict)
    flows: dict[Key, State] = field(default_factory=dict)
    fragments: dict[tuple[Address, Address, int, int], tuple[Flow, int]] = field(default_factory=dict)

    def process(
        self, frame: bytes, *, ifindex: int, now_ns: int, csum_start: int | None = None, csum_offset: int = 0
    ) -> Result:
        """Decide one frame, as `Core.process` does; fragments that wait are not kept here."""
        partial = None if csum_start is None else (csum_start, csum_offset)
        return _Step(self, frame, ifindex, now_ns // 1_000_000, Rewriter(bytearray(frame), partial)).run()

    def alive(self, key: Key, now_ms: int) -> State | None:
        """Return the flow of a key unless it is past its deadline."""
        state = self.flows.get(key)
        return state if state is not None and now_ms < state.deadline_ms else None

    def rows(self) -> list[Row]:
        """Return what the tables are made of."""
        return [entry.row for entry in self.tables.entries.values()]


@dataclass(slots=True)
class _Step:
    """One frame's way through the oracle."""

    oracle: Oracle
    frame: bytes
    ifindex: int
    now_ms: int
    out: Rewriter
    parsed: Parsed = field(default_factory=lambda: Parsed(0))

    def run(self) -> Result:
        parsed = wire.parse(self.frame)
        if parsed is None:
            return self._pass()
        self.parsed, unicast = parsed, not self.frame[0] & 1
        if parsed.type == wire.ARP:
            return self._arp()
        if parsed.type not in (wire.IPV4, wire.IPV6) or (not unicast and parsed.form is not Form.LINK):
            return self._pass()
        if unicast:
            self.oracle.interfaces.setdefault(self.ifindex, self.frame[:6])
        net = parsed.net
        if net is None or wire.is_mapped(net.destination):
            return self._pass()
        if parsed.form is Form.LINK:
            return self._asked(wire.neighbour_target(self.frame, parsed))
        return self._ip(net)

    def _pass(self) -> Result:
        return Result(Verdict.PASS, None, self.ifindex, self.frame)

    def _drop(self, reason: Drop) -> Result:
        return Result(Verdict.DROP, reason, self.ifindex, self.frame)

    def _transmit(self, ifindex: int, destination: bytes, source: bytes) -> Result:
        self.out.set_links(destination, source)
        return Result(Verdict.TX, None, ifindex, bytes(self.out.frame))

    def _arp(self) -> Result:
        at = 14 + 4 * sum(self.frame[12 + 4 * i : 14 + 4 * i] in (b"\x81\x00", b"\x88\xa8") for i in (0, 1))
        packet = self.frame[at : at + 28]
        if len(packet) < 28 or packet[2:4] != b"\x08\x00":
            return self._pass()
        return self._asked(ip_address(packet[24:28]))

    def _asked(self, address: Address | None) -> Result:
        if address is None or not self._is_vip(address) or address in self.oracle.plan.local:
            return self._pass()
        return Result(Verdict.PUNT, None, self.ifindex, self.frame)

    def _is_vip(self, address: Address) -> bool:
        return any(key.address == address for key in self.oracle.tables.entries)

    def _is_member(self, address: Address) -> bool:
        rows = (row for row in self.oracle.rows() if row.delivery is Delivery.NAT)
        return any(member.address == address for row in rows for member in row.pool.members)

    def _ip(self, net: Network) -> Result:
        direct = self._is_vip(net.destination)
        if not direct and net.destination in self.oracle.plan.local:
            return self._pass()
        inner = None if direct else self.parsed.inner
        quoted = inner is not None and self._is_member(inner.destination)
        answer = not direct and (quoted or (self.parsed.form is not Form.ERROR and self._is_member(net.source)))
        routed = None if direct else self._routed(net)
        if not direct and not answer and routed is None:
            return self._pass()
        if self.parsed.reason:
            return self._drop(self.parsed.reason) if direct or routed else self._pass()
        if net.source == net.destination:
            return self._drop(Drop.LAND)
        if wire.is_martian(net.source):
            return self._drop(Drop.MARTIAN)
        if net.part is not Part.WHOLE and not self._fragment(net):
            return Result(Verdict.HOLD, None, self.ifindex, self.frame)
        if direct:
            return self._direct()
        result = self._answer(quoted=quoted) if answer else None
        if result is None and routed is not None:
            result = self._forward(routed, self._client_side())
        return result or self._pass()

    def _routed(self, net: Network) -> Entry | None:
        key = self.oracle.plan.routed.get((self.ifindex, net.version))
        return None if key is None or wire.is_link_scope(net.destination) else self.oracle.tables.entries[key]

    def _client_side(self) -> Flow:
        """Return the flow that the packet belongs to in its own direction: an error goes against what it quotes."""
        flow = self.parsed.flow if self.parsed.inner is None else turned(self.parsed.inner)
        assert flow is not None  # noqa: S101 # a packet without a reason has a flow
        return flow

    def _fragment(self, net: Network) -> bool:
        """Remember or recall the ports of a fragment; tells whether they are known."""
        name = (net.source, net.destination, net.fragment_id, net.protocol if net.version == 4 else 0)
        flow = self._client_side()
        if net.part is Part.FIRST:
            self.oracle.fragments[name] = (flow, self.now_ms + CONSTANTS["FRAGMENT_MS"])
            return True
        first, deadline_ms = self.oracle.fragments.get(name, (flow, 0))
        self.parsed = replace(self.parsed, flow=first, net=replace(net, protocol=first.protocol))
        return self.now_ms < deadline_ms

    def _find_entry(self, address: Address, port: int, protocol: int) -> Entry | None:
        exact = None
        if protocol in _PROTOCOLS:
            exact = self.oracle.tables.entries.get(FrontendKey(address, port, _PROTOCOLS[protocol]))
        entry = exact or self.oracle.tables.entries.get(FrontendKey(address, 0, Protocol.ALL))
        return None if entry is None or entry.row.delivery is Delivery.ROUTED else entry

    def _direct(self) -> Result:
        flow, net = self._client_side(), self._net
        if flow.destination != net.destination:
            return self._drop(Drop.QUOTE_UNREADABLE)
        if self._is_member(net.source) and flow.destination_port >= CONSTANTS["HAIRPIN_FIRST"]:
            result = self._hairpin_return(flow)
            if result is not None:
                return result
        entry = self._find_entry(flow.destination, flow.destination_port, flow.protocol)
        if entry is None:
            return self._pass() if net.destination in self.oracle.plan.local else self._drop(Drop.NO_RULE)
        return self._forward(entry, flow)

    @property
    def _net(self) -> Network:
        assert self.parsed.net is not None  # noqa: S101 # asked only once it was parsed
        return self.parsed.net

    @property
    def _plain(self) -> bool:
        return self.parsed.form is Form.PLAIN and self._net.part is not Part.LATER

    def _event(self, flow: Flow) -> Event:
        flags = self.parsed.tcp_flags
        if flow.protocol != TCP or not self._plain:
            return Event.OTHER
        return Event.RST if flags & 4 else Event.SYN if flags & 2 else Event.FIN if flags & 1 else Event.OTHER

    def _find(self, entry: Entry, flow: Flow) -> Passage:
        symmetric = entry.row.symmetric
        swapped = symmetric and (flow.source, flow.source_port) > (flow.destination, flow.destination_port)
        way = Passage(entry, (turned(flow) if swapped else flow, symmetric), swapped, event=self._event(flow))
        way.target_port = backend_port(entry.row)
        way.state = self.oracle.alive(way.key, self.now_ms)
        if way.state is not None:
            way.outward = way.swapped != way.state.swapped
            way.target, way.target_port = self._flow_target(entry, way), way.state.target_port
        return way

    def _flow_target(self, entry: Entry, way: Passage) -> Target | None:
        """Return the flow's member as this entry knows it, or None when it has gone or takes no more of it."""
        state, generation = way.state, self.oracle.tables.generation
        assert state is not None  # noqa: S101 # called with a flow
        pool, member = state.target
        here = {row.pool.name: row.pool for row in self.oracle.rows()}.get(pool)
        if here is None or member.address not in {m.address for m in here.members if m.name == member.name}:
            return None
        if state.rule == entry.row.rule.name and state.generation == generation:
            return state.target
        found = next((m for m in entry.row.pool.members if m.name == member.name), None)
        eligible = {m.name for m in entry.table.members}
        if found is None or (way.key[0].protocol != TCP and not keeps_sessions(found, eligible)):
            return None
        target = (entry.row.pool.name, found)
        if state.rule == entry.row.rule.name and target == state.target:
            state.generation = generation
        return target

    def _choose(self, way: Passage) -> Drop | None:
        state = way.state
        way.fresh = way.target is None
        if state is not None and way.target is not None and way.event is Event.SYN and not way.outward:
            way.fresh = state.state in (Conn.SYN, Conn.CLOSED)
        if not way.fresh:
            return None
        verdict = choose(self.oracle.tables.seed, way.entry, way.key[0])
        if isinstance(verdict, Drop):
            return verdict
        chosen = (way.entry.row.pool.name, verdict.member)
        if state is not None and chosen == way.target and state.state is Conn.SYN:
            way.fresh = False
        else:
            way.target_port = backend_port(way.entry.row)
        way.target = chosen
        return None

    def _forward(self, entry: Entry, flow: Flow) -> Result:
        way = self._find(entry, flow)
        if way.state is not None and way.state.client is not None:
            return self._drop(Drop.NO_FLOW)
        known_answer = way.state is not None and way.outward
        if not known_answer and not any(flow.source in prefix for prefix in entry.row.frontend.allow):
            return self._drop(Drop.SOURCE_NOT_ALLOWED)
        if entry.row.delivery is Delivery.ROUTED and self.frame[6:12] in self._appliances():
            return self._pass()
        reason = self._choose(way)
        if reason is not None or way.target is None:
            return self._drop(reason or Drop.NO_ELIGIBLE_MEMBER)
        hop = self.oracle.hops.get(self.oracle.plan.next_hops.get(way.target[1].address, -1))
        if hop is None or not hop.resolved:
            return self._drop(Drop.NEXT_HOP_UNRESOLVED)
        if hop.mtu and self._net.end - self._net.l3 > hop.mtu:
            return self._drop(Drop.TOO_BIG)
        hairpin = self._hairpin(way, flow)
        if isinstance(hairpin, Drop):
            return self._drop(hairpin)
        if way.fresh and self._plain and way.event is not Event.RST:
            self._start(way, hairpin)
        elif way.fresh and not self._plain:
            way.state = None
        self._notice(way)
        if way.state is not None and self._plain and not way.outward:
            way.state.ifindex, way.state.link = self.ifindex, self.frame[6:12]
        self._rewrite_forward(way, hairpin)
        return self._transmit(hop.ifindex, hop.destination, hop.source)

    def _appliances(self) -> set[bytes]:
        members = (m for row in self.oracle.rows() if row.delivery is Delivery.ROUTED for m in row.pool.members)
        hops = (self.oracle.hops.get(self.oracle.plan.next_hops.get(m.address, -1)) for m in members)
        return {hop.destination for hop in hops if hop is not None and hop.resolved}

    def _start(self, way: Passage, hairpin: int) -> None:
        assert way.target is not None  # noqa: S101 # a member was chosen
        rule = way.entry.row.rule.name
        generation = self.oracle.tables.generation
        way.state = State(way.target, rule, generation, way.target_port, way.swapped, hairpin_port=hairpin)
        self.oracle.flows[way.key] = way.state
        way.outward = False

    def _notice(self, way: Passage) -> None:
        state = way.state
        if state is None or self.parsed.form is Form.ERROR:
            return
        if way.key[0].protocol == TCP and self._plain:
            state.state = TRANSITIONS[_OUT if way.outward else _IN, way.event][state.state]
        state.deadline_ms = self.now_ms + timeout_ms(state.state, idle_ms(way.entry.row))

    def _rewrite_forward(self, way: Passage, hairpin: int) -> None:
        assert way.target is not None  # noqa: S101 # a member was chosen
        if way.entry.row.delivery is not Delivery.NAT:
            return
        net, quoted, out, address = self._net, self.parsed.quoted, self.out, way.target[1].address
        if quoted is not None:
            change = out.set_address(quoted, address, destination=False)
            if way.target_port:
                change += out.set_port(quoted, way.target_port, destination=False)
            out.follow_quote(net, change)
        out.set_address(net, address, destination=True)
        if quoted is None and way.target_port:
            out.set_port(net, way.target_port, destination=True)
        if hairpin:
            out.set_address(net, way.entry.row.key.address, destination=False)
            out.set_port(net, hairpin, destination=False)

    def _answer(self, *, quoted: bool) -> Result | None:
        """Handle what a member sends, or an error about what was sent to one; None when it belongs to no flow."""
        inner = self.parsed.inner
        if quoted and inner is not None:
            if inner.source != self._net.destination:
                return None
            flow = inner
        else:
            assert self.parsed.flow is not None  # noqa: S101 # no error, so it has a flow
            flow = turned(self.parsed.flow)
        exact, any_port = self._reverse_entries(flow)
        result = self._answer_of(exact, flow) if exact else None
        if result is None and any_port:
            result = self._answer_of(any_port, flow)
        return result

    def _reverse_entries(self, flow: Flow) -> tuple[Entry | None, Entry | None]:
        exact = any_port = None
        for entry in self.oracle.tables.entries.values():
            row = entry.row
            if row.delivery is not Delivery.NAT or flow.destination not in {m.address for m in row.pool.members}:
                continue
            if row.key.protocol is Protocol.ALL:
                any_port = entry
            elif (row.key.protocol, row.rule.backend_port) == (_PROTOCOLS.get(flow.protocol), flow.destination_port):
                exact = entry
        return exact, any_port

    def _answer_of(self, entry: Entry, flow: Flow) -> Result | None:
        key = entry.row.key
        port = key.port if backend_port(entry.row) else flow.destination_port
        client = replace(flow, destination=key.address, destination_port=port)
        way = Passage(entry, (client, False), outward=True, event=self._event(flow))
        way.state = self.oracle.alive(way.key, self.now_ms)
        if way.state is None:
            return None
        if way.state.target[1].address != flow.destination:
            return self._drop(Drop.NO_FLOW)
        self._notice(way)
        net, quoted, out = self._net, self.parsed.quoted, self.out
        if quoted is not None:
            change = out.set_address(quoted, key.address, destination=True)
            change += out.set_port(quoted, port, destination=True)
            out.follow_quote(net, change)
        if quoted is None or net.source == flow.destination:
            out.set_address(net, key.address, destination=False)
        if quoted is None:
            out.set_port(net, port, destination=False)
        return self._to_client(way.state)

    def _to_client(self, state: State) -> Result:
        ours = self.oracle.interfaces.get(state.ifindex)
        return self._drop(Drop.NO_EGRESS) if ours is None else self._transmit(state.ifindex, state.link, ours)

    def _is_hairpin(self, way: Passage, flow: Flow) -> bool:
        """Return whether the client is a member that this entry delivers to."""
        if way.entry.row.delivery is not Delivery.NAT or not self._is_member(flow.source):
            return False
        probe = replace(flow, destination=flow.source, destination_port=backend_port(way.entry.row))
        exact, any_port = self._reverse_entries(probe)
        return (exact or any_port) is way.entry

    def _hairpin(self, way: Passage, flow: Flow) -> int | Drop:
        """Return the port that stands for a client who is a member of the pool, or 0 for any other client."""
        if way.state is not None and not way.fresh:
            if way.state.hairpin_port:
                back = self.oracle.alive((self._back(way, way.state.hairpin_port), False), self.now_ms)
                if back is not None:
                    back.deadline_ms = self.now_ms + idle_ms(way.entry.row)
            return way.state.hairpin_port
        if not way.fresh or not self._is_hairpin(way, flow):
            return 0
        if not self._plain or flow.protocol not in (TCP, UDP):
            return Drop.NO_HAIRPIN
        hashed = flow_hash(self.oracle.tables.seed, flow, Distribution.FIVE_TUPLE) & 0xFFFF_FFFF
        for attempt in range(CONSTANTS["HAIRPIN_TRIES"]):
            port = CONSTANTS["HAIRPIN_FIRST"] + (hashed + attempt) % CONSTANTS["HAIRPIN_PORTS"]
            there = self._back(way, port)
            if self.oracle.alive((there, False), self.now_ms) is None:
                self._open_back(way, there, flow)
                return port
        return Drop.FLOW_TABLE_FULL

    def _back(self, way: Passage, port: int) -> Flow:
        assert way.target is not None  # noqa: S101 # a member was chosen
        flow = way.key[0]
        return Flow(
            way.target[1].address, way.target_port or flow.destination_port, flow.destination, port, flow.protocol
        )

    def _open_back(self, way: Passage, back: Flow, flow: Flow) -> None:
        assert way.target is not None  # noqa: S101 # a member was chosen
        state = State(way.target, way.entry.row.rule.name, 0, 0, swapped=False, client=flow)
        state.deadline_ms = self.now_ms + idle_ms(way.entry.row)
        self.oracle.flows[back, False] = state

    def _hairpin_return(self, flow: Flow) -> Result | None:
        back = self.oracle.alive((flow, False), self.now_ms)
        if back is None or back.client is None:
            return None
        client = back.client
        state = self.oracle.alive((client, False), self.now_ms)
        entry = self._find_entry(flow.destination, client.destination_port, flow.protocol)
        if state is None or entry is None or self.parsed.form is Form.ERROR:
            return self._drop(Drop.NO_FLOW)
        back.deadline_ms = self.now_ms + idle_ms(entry.row)
        self._notice(Passage(entry, (client, False), outward=True, state=state, event=self._event(flow)))
        net, out = self._net, self.out
        out.set_address(net, flow.destination, destination=False)
        out.set_port(net, client.destination_port, destination=False)
        out.set_address(net, client.source, destination=True)
        out.set_port(net, client.source_port, destination=True)
        return self._to_client(state)


def turned(flow: Flow) -> Flow:
    """Return the other direction of a flow."""
    return Flow(flow.destination, flow.destination_port, flow.source, flow.source_port, flow.protocol)


def backend_port(row: Row) -> int:
    """Return the port that a rule translates to; 0 keeps the client's."""
    return 0 if row.key.protocol is Protocol.ALL else row.rule.backend_port


def idle_ms(row: Row) -> int:
    """Return a rule's idle timeout."""
    return min(round(row.rule.idle_timeout_s * 1000), 0x7FFF_FFFF)


def timeout_ms(state: Conn, idle: int) -> int:
    """Return how long a flow may be silent."""
    most = {Conn.CLOSED: CONSTANTS["CLOSED_MS"], Conn.SYN: CONSTANTS["SYN_MS"]}.get(state, idle)
    return min(most, idle)
