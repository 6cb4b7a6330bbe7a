"""What clients send. C twin: forward in process.h."""

from dataclasses import dataclass, replace

from asynclb.datapath.core.layout import CONSTANTS, Conn, Event
from asynclb.datapath.core.leaving import member_names
from asynclb.datapath.core.oracle.icmp import packet_size
from asynclb.datapath.core.oracle.state import Passage, State, Target, backend_port, idle_ms, turned
from asynclb.datapath.core.oracle.step import Step
from asynclb.datapath.core.oracle.wire import TCP, UDP, Form
from asynclb.datapath.core.values import NextHop, Result
from asynclb.model import Member, keeps_sessions
from asynclb.net.drop import Drop
from asynclb.net.flow import Flow
from asynclb.net.flowhash import Distribution, flow_hash
from asynclb.tables.lookup import choose
from asynclb.tables.row import Delivery
from asynclb.tables.tables import Entry


@dataclass(slots=True)
class Forward(Step):
    """Balancing, and the hairpins of members that are clients."""

    def _find(self, entry: Entry, flow: Flow) -> Passage:
        symmetric = entry.row.symmetric
        swapped = symmetric and (flow.source, flow.source_port) > (flow.destination, flow.destination_port)
        way = Passage(entry, (turned(flow) if swapped else flow, symmetric), swapped, event=self._event(flow))
        way.target_port = backend_port(entry.row)
        way.state = self.oracle.alive(way.key, self.now_ms)
        if way.state is not None:
            way.outward = way.swapped != way.state.swapped
            way.target, way.target_port = self._flow_target(entry, way), way.state.target_port
            way.late = way.state.is_late(self.now_ms)
            if (way.state.over or way.late) and way.event is Event.SYN and not way.outward:
                way.target, way.late = None, False
        return way

    def _flow_target(self, entry: Entry, way: Passage) -> Target | None:
        """Return the flow's member as this entry knows it, or None when it has gone or takes no more of it."""
        state, generation = way.state, self.oracle.tables.generation
        assert state is not None  # noqa: S101 # called with a flow
        left, member = self._has_left(state.target), state.target[1]
        if left and not self._is_leaving(state.target):
            return None
        if state.rule == entry.row.rule.name and state.generation == generation:
            return state.target
        stay = self._stay(entry, state.target) if way.key[0].protocol == TCP else None
        if left and stay is not None:
            return stay
        members = () if entry.row.key not in self.oracle.tables.entries else entry.row.pool.members
        found = next((m for m in members if m.name == member.name), None)
        if found is None or (entry.row.delivery is not Delivery.ROUTED and found.address != member.address):
            return stay
        if not self._keeps(entry, way, found):
            return None
        target = (entry.row.pool.name, found)
        if state.rule == entry.row.rule.name and target == state.target:
            state.generation = generation
        return target

    def _keeps(self, entry: Entry, way: Passage, member: Member) -> bool:
        """Return whether a flow may stay with a member that its entry's pool has."""
        rule, protocol = entry.row.rule, way.key[0].protocol
        persistence = rule.persistence_on_unhealthy
        stays = persistence.keeps_tcp if protocol == TCP else persistence.keeps_others
        if not stays and not keeps_sessions(member, {m.name for m in entry.table.members}):
            return False
        if protocol != UDP or rule.connection_tracking or way.state is None or way.state.rule != rule.name:
            return True
        verdict = choose(self.oracle.tables.seed, entry, way.key[0])
        return not isinstance(verdict, Drop) and verdict.member == member

    def _has_left(self, target: Target) -> bool:
        pool, member = target
        here = {row.pool.name: row.pool for row in self.oracle.rows()}.get(pool)
        return here is None or member.address not in {m.address for m in here.members if m.name == member.name}

    def _is_leaving(self, target: Target) -> bool:
        name = target[0], target[1].name, target[1].address
        return any(name in member_names([leaver.row]) for leaver in self.oracle.plan.leaving)

    def _stay(self, entry: Entry, target: Target) -> Target | None:
        """Return whom a TCP connection may stay with though the entry's pool has them no more."""
        routed = entry.row.delivery is Delivery.ROUTED
        for pool, member in reversed(self.oracle.leavers(entry.row.key)):
            if member.name == target[1].name and (routed or (pool, member.address) == (target[0], target[1].address)):
                return pool, member
        return None

    def _choose(self, way: Passage) -> Drop | None:
        state = way.state
        way.fresh = way.target is None
        if state is not None and way.target is not None and way.event is Event.SYN and not way.outward:
            way.fresh = state.state in (Conn.SYN, Conn.CLOSED)
        if not way.fresh:
            return None
        verdict = choose(self.oracle.tables.seed, way.entry, way.key[0])
        if isinstance(verdict, Drop):
            return verdict if way.entry.row.key in self.oracle.tables.entries else Drop.NO_RULE
        chosen = (way.entry.row.pool.name, verdict.member)
        if state is not None and chosen == way.target and state.state is Conn.SYN:
            way.fresh = False
        else:
            way.target_port = backend_port(way.entry.row)
        way.target = chosen
        return None

    def _refused(self, way: Passage, flow: Flow) -> Result | None:
        """Return what ends a packet's way before a member is chosen, if something does."""
        entry, state = way.entry, way.state
        if state is not None and state.over and way.target is not None:
            return self._drop(Drop.NO_FLOW)
        if state is not None and state.client is not None:
            return self._drop(Drop.NO_FLOW)
        known_answer = state is not None and way.outward
        if not known_answer and not any(flow.source in prefix for prefix in entry.row.frontend.allow):
            return self._drop(Drop.SOURCE_NOT_ALLOWED)
        if entry.row.delivery is Delivery.ROUTED and self.frame[6:12] in self._appliances():
            return self._pass()
        if state is not None and way.late:
            return self._expired(state)
        reason = self._choose(way)
        return None if reason is None else self._drop(reason)

    def _forward(self, entry: Entry, flow: Flow) -> Result:
        way = self._find(entry, flow)
        refused = self._refused(way, flow)
        if refused is not None or way.target is None:
            return refused or self._drop(Drop.NO_ELIGIBLE_MEMBER)
        hop = self._hop(way.target[1])
        if hop is None:
            return self._drop(Drop.NEXT_HOP_UNRESOLVED)
        if hop.mtu and packet_size(self.frame, self._net, self.segment) > hop.mtu:
            return self._too_big(entry, hop.mtu)
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

    def _hop(self, member: Member) -> NextHop | None:
        hop = self.oracle.hops.get(self.oracle.plan.next_hops.get(member.address, -1))
        return hop if hop is not None and hop.resolved else None

    def _appliances(self) -> set[bytes]:
        rows = (*self.oracle.rows(), *(leaver.row for leaver in self.oracle.plan.leaving))
        members = (m for row in rows if row.delivery is Delivery.ROUTED for m in row.pool.members)
        hops = (self.oracle.hops.get(self.oracle.plan.next_hops.get(m.address, -1)) for m in members)
        return {hop.destination for hop in hops if hop is not None and hop.resolved}

    def _start(self, way: Passage, hairpin: int) -> None:
        assert way.target is not None  # noqa: S101 # a member was chosen
        rule = way.entry.row.rule.name
        generation = self.oracle.tables.generation
        way.state = State(way.target, rule, generation, way.target_port, way.swapped, hairpin_port=hairpin)
        way.state.reset = way.entry.row.rule.tcp_reset
        self.oracle.flows[way.key] = way.state
        way.outward = False

    def _rewrite_forward(self, way: Passage, hairpin: int) -> None:
        assert way.target is not None  # noqa: S101 # a member was chosen
        if way.entry.row.delivery is not Delivery.NAT:
            self._rewrite_port(way)
            return
        net, quoted, out, address = self._net, self.parsed.quoted, self.out, way.target[1].address
        if quoted is not None:
            change = out.set_address(quoted, address, destination=False)
            if way.target_port:
                change += out.set_port(quoted, way.target_port, destination=False)
            if hairpin:
                change += out.set_address(quoted, way.entry.row.key.address, destination=True)
                change += out.set_port(quoted, hairpin, destination=True)
            out.follow_icmp(net, change)
        out.set_address(net, address, destination=True)
        if quoted is None and way.target_port:
            out.set_port(net, way.target_port, destination=True)
        if hairpin:
            out.set_address(net, way.entry.row.key.address, destination=False)
        if hairpin and quoted is None:
            out.set_port(net, hairpin, destination=False)

    def _rewrite_port(self, way: Passage) -> None:
        """Write the port of the VIP that the member sees, if that is not the client's."""
        net, quoted, out = self._net, self.parsed.quoted, self.out
        if way.target_port in (0, way.key[0].destination_port):
            return
        if quoted is None:
            out.set_port(net, way.target_port, destination=True)
        else:
            out.follow_icmp(net, out.set_port(quoted, way.target_port, destination=False))

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
        if state is None or entry is None or state.over:
            return self._drop(Drop.NO_FLOW)
        if state.is_late(self.now_ms):
            return self._expired(state)
        if mtu := self._client_mtu(state):
            return self._too_big(entry, mtu)
        if self.parsed.form is not Form.ERROR:
            back.deadline_ms = self.now_ms + idle_ms(entry.row)
        self._notice(Passage(entry, (client, False), outward=True, state=state, event=self._event(flow)))
        self._rewrite_hairpin(client, flow)
        return self._to_client(state)

    def _rewrite_hairpin(self, client: Flow, flow: Flow) -> None:
        net, quoted, out = self._net, self.parsed.quoted, self.out
        if quoted is not None:
            change = out.set_address(quoted, client.source, destination=False)
            change += out.set_port(quoted, client.source_port, destination=False)
            change += out.set_address(quoted, client.destination, destination=True)
            change += out.set_port(quoted, client.destination_port, destination=True)
            out.follow_icmp(net, change)
            if net.source == flow.source:
                out.set_address(net, client.destination, destination=False)
            out.set_address(net, client.source, destination=True)
            return
        out.set_address(net, flow.destination, destination=False)
        out.set_port(net, client.destination_port, destination=False)
        out.set_address(net, client.source, destination=True)
        out.set_port(net, client.source_port, destination=True)
