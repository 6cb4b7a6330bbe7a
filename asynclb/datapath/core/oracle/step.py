"""What the parts of a decision share: the frame, the answers, the questions to the tables."""

from dataclasses import dataclass, field

from asynclb.datapath.core.layout import TRANSITIONS, Event, Verdict
from asynclb.datapath.core.oracle.memory import Memory
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
    parsed: Parsed = field(default_factory=lambda: Parsed(0))

    def _pass(self) -> Result:
        return Result(Verdict.PASS, None, self.ifindex, self.frame)

    def _drop(self, reason: Drop) -> Result:
        return Result(Verdict.DROP, reason, self.ifindex, self.frame)

    def _transmit(self, ifindex: int, destination: bytes, source: bytes) -> Result:
        self.out.set_links(destination, source)
        return Result(Verdict.TX, None, ifindex, bytes(self.out.frame))

    def _is_vip(self, address: Address) -> bool:
        return any(key.address == address for key in self.oracle.tables.entries)

    def _is_member(self, address: Address) -> bool:
        rows = (row for row in self.oracle.rows() if row.delivery is Delivery.NAT)
        return any(member.address == address for row in rows for member in row.pool.members)

    def _find_entry(self, address: Address, port: int, protocol: int) -> Entry | None:
        exact = None
        if protocol in _PROTOCOLS:
            exact = self.oracle.tables.entries.get(FrontendKey(address, port, _PROTOCOLS[protocol]))
        entry = exact or self.oracle.tables.entries.get(FrontendKey(address, 0, Protocol.ALL))
        return None if entry is None or entry.row.delivery is Delivery.ROUTED else entry

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
            if row.delivery is not Delivery.NAT or flow.destination not in {m.address for m in row.pool.members}:
                continue
            if row.key.protocol is Protocol.ALL:
                any_port = entry
            elif (row.key.protocol, row.rule.backend_port) == (_PROTOCOLS.get(flow.protocol), flow.destination_port):
                exact = entry
        return exact, any_port

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
