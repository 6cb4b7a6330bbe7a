"""What clients send. C twin: forward in process.h."""

from dataclasses import dataclass, replace

from asynclb.datapath.core.image import keeps_sessions
from asynclb.datapath.core.layout import CONSTANTS, Conn, Event
from asynclb.datapath.core.oracle.state import Passage, State, Target, backend_port, idle_ms, turned
from asynclb.datapath.core.oracle.step import Step
from asynclb.datapath.core.oracle.wire import TCP, UDP, Form
from asynclb.datapath.core.values import NextHop, Result
from asynclb.model import Member
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
        hop = self._hop(way.target[1])
        if isinstance(hop, Drop):
            return self._drop(hop)
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

    def _hop(self, member: Member) -> NextHop | Drop:
        hop = self.oracle.hops.get(self.oracle.plan.next_hops.get(member.address, -1))
        if hop is None or not hop.resolved:
            return Drop.NEXT_HOP_UNRESOLVED
        return Drop.TOO_BIG if hop.mtu and self._net.end - self._net.l3 > hop.mtu else hop

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

    def _rewrite_forward(self, way: Passage, hairpin: int) -> None:
        assert way.target is not None  # noqa: S101 # a member was chosen
        if way.entry.row.delivery is not Delivery.NAT:
            return
        net, quoted, out, address = self._net, self.parsed.quoted, self.out, way.target[1].address
        if quoted is not None:
            change = out.set_address(quoted, address, destination=False)
            if way.target_port:
                change += out.set_port(quoted, way.target_port, destination=False)
            out.follow_icmp(net, change)
        out.set_address(net, address, destination=True)
        if quoted is None and way.target_port:
            out.set_port(net, way.target_port, destination=True)
        if hairpin:
            out.set_address(net, way.entry.row.key.address, destination=False)
            out.set_port(net, hairpin, destination=False)

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
