"""What the parts of a decision share: the frame, the answers, the questions to the tables."""

from dataclasses import dataclass, field

from asynclb.datapath.core.layout import TRANSITIONS, Event, Verdict
from asynclb.datapath.core.oracle.icmp import icmp_allowed, packet_size, too_big, wants_too_big
from asynclb.datapath.core.oracle.memory import Memory
from asynclb.datapath.core.oracle.reply import reset
from asynclb.datapath.core.oracle.rewrite import Rewriter
from asynclb.datapath.core.oracle.state import Passage, State, idle_ms, timeout_ms
from asynclb.datapath.core.oracle.wire import TCP, UDP, Form, Network, Parsed, Part
from asynclb.datapath.core.values import Result
from asynclb.net.address import Address
from asynclb.net.drop import Drop
from asynclb.net.flow import Flow, Protocol
from asynclb.tables.row import Delivery, FrontendKey
from asynclb.tables.tables import Entry

_PROTOCOLS = {TCP: Protocol.TCP, UDP: Protocol.UDP}
_IN, _OUT = 0, 1


@dataclass(slots=True)
class Step:
    """One frame's way: what every part of it needs."""

    oracle: Memory
    frame: bytes
    ifindex: int
    now_ms: int
    out: Rewriter
    segment: int = 0
    parsed: Parsed = field(default_factory=lambda: Parsed(0))

    def _pass(self) -> Result:
        return Result(Verdict.PASS, None, self.ifindex, self.frame)

    def _drop(self, reason: Drop) -> Result:
        return Result(Verdict.DROP, reason, self.ifindex, self.frame)

    def _transmit(self, ifindex: int, destination: bytes, source: bytes) -> Result:
        self.out.set_links(destination, source)
        return Result(Verdict.TX, None, ifindex, bytes(self.out.frame))

    def _reply(self, frame: bytes, reason: Drop | None = None) -> Result:
        return Result(Verdict.TX, reason, self.ifindex, frame)

    def _expired(self, state: State) -> Result:
        """Answer what an end of a connection says that idled out."""
        flow = self.parsed.flow
        frame = reset(self.frame, self.parsed, flow) if state.reset and flow is not None else None
        return self._drop(Drop.FLOW_EXPIRED) if frame is None else self._reply(frame, Drop.FLOW_EXPIRED)

    def _is_vip(self, address: Address) -> bool:
        keys = any(key.address == address for key in (*self.oracle.tables.entries, *self.oracle.closed()))
        return keys or self._is_source(address)

    def _is_source(self, address: Address) -> bool:
        return any(address in rule.sources for rule in self.oracle.tables.outbound)

    def _is_member(self, address: Address) -> bool:
        """Return whether members answer from an address."""
        every = (*self.oracle.rows(), *(leaver.row for leaver in self.oracle.plan.leaving))
        return any(address in row.answers_from for row in every)

    def _find_entry(self, address: Address, port: int, protocol: int) -> Entry | None:
        keys = [FrontendKey(address, 0, Protocol.ALL)]
        if protocol in _PROTOCOLS:
            keys.insert(0, FrontendKey(address, port, _PROTOCOLS[protocol]))
        for entries in (self.oracle.tables.entries, self.oracle.closed()):
            for key in keys:
                entry = entries.get(key)
                if entry is not None and entry.row.delivery is not Delivery.ROUTED:
                    return entry
        return None

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

    def _reverse_entries(self, flow: Flow) -> tuple[Entry | None, Entry | None]:
        exact = any_port = None
        for entry in self.oracle.tables.entries.values():
            row = entry.row
            if flow.destination not in row.answers_from:
                continue
            if row.key.protocol is Protocol.ALL:
                any_port = entry
            elif (row.key.protocol, row.rule.backend_port) == (_PROTOCOLS.get(flow.protocol), flow.destination_port):
                exact = entry
        return exact, any_port

    def _left_entry(self, flow: Flow) -> Entry | None:
        """Return the entry of those who leave, by whose flows a member may answer."""
        exact = any_port = None
        for leaver in self.oracle.plan.leaving:
            row = leaver.row
            if flow.destination not in row.answers_from:
                continue
            entry = self.oracle.tables.entries.get(row.key) or self.oracle.closed()[row.key]
            if row.key.protocol is Protocol.ALL:
                any_port = entry
            elif (row.key.protocol, row.rule.backend_port) == (_PROTOCOLS.get(flow.protocol), flow.destination_port):
                exact = entry
        return exact or any_port

    def _too_big(self, entry: Entry, mtu: int) -> Result:
        """Tell the sender, if it may and wants to be told."""
        return self._too_big_from(entry.row.key.address, mtu)

    def _too_big_from(self, address: Address, mtu: int) -> Result:
        if not wants_too_big(self.frame, self.parsed, self._net) or not icmp_allowed(self.oracle, self.now_ms):
            return self._drop(Drop.TOO_BIG)
        frame = too_big(self.frame, self._net, address, mtu)
        return self._drop(Drop.TOO_BIG) if frame is None else Result(Verdict.TX, None, self.ifindex, frame)

    def _client_mtu(self, state: State) -> int:
        """Return the MTU towards the client if the packet does not fit it, else 0."""
        mtu = self.oracle.mtus.get(state.ifindex, 0) if state.ifindex in self.oracle.interfaces else 0
        return mtu if mtu and packet_size(self.frame, self._net, self.segment) > mtu else 0

    def _notice(self, way: Passage) -> None:
        state = way.state
        if state is None or self.parsed.form is Form.ERROR:
            return
        if way.key[0].protocol == TCP and self._plain:
            state.state = TRANSITIONS[_OUT if way.outward else _IN, way.event][state.state]
        state.deadline_ms = self.now_ms + timeout_ms(state.state, idle_ms(way.entry.row))

    def _to_client(self, state: State) -> Result:
        ours = self.oracle.interfaces.get(state.ifindex)
        return self._drop(Drop.NO_EGRESS) if ours is None else self._transmit(state.ifindex, state.link, ours)
