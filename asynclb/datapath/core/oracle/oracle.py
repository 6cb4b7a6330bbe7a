"""What becomes of one frame. C twin: process.h, function by function.

The order of the questions: is it for a VIP, is it a member's answer, does it come by a routed interface? What is none
of these passes, however broken it is.
"""

from dataclasses import dataclass, replace

from asynclb.datapath.core.image import PING_PROTOCOLS
from asynclb.datapath.core.layout import CONSTANTS, Verdict
from asynclb.datapath.core.oracle import neighbour, wire
from asynclb.datapath.core.oracle.memory import Memory
from asynclb.datapath.core.oracle.outbound import Outbound
from asynclb.datapath.core.oracle.reply import echo, unreachable
from asynclb.datapath.core.oracle.rewrite import Rewriter
from asynclb.datapath.core.oracle.state import Passage, backend_port, turned
from asynclb.datapath.core.oracle.wire import Form, Network, Part
from asynclb.datapath.core.values import Result
from asynclb.net.address import Address
from asynclb.net.drop import Drop
from asynclb.net.flow import Flow, Protocol
from asynclb.tables.ping import Ping, pings
from asynclb.tables.tables import Entry


@dataclass(slots=True)
class Oracle(Memory):
    """Decides frames as the core must. Owner: a test."""

    def process(
        self,
        frame: bytes,
        *,
        ifindex: int,
        now_ns: int,
        csum_start: int | None = None,
        csum_offset: int = 0,
        segment: int = 0,
    ) -> Result:
        """Decide one frame, as `Core.process` does; fragments that wait are not kept here."""
        partial = None if csum_start is None else (csum_start, csum_offset)
        out = Rewriter(bytearray(frame), partial)
        return _Decision(self, frame, ifindex, now_ns // 1_000_000, out, segment).run()


@dataclass(slots=True)
class _Decision(Outbound):
    """The order of the questions, and what members send."""

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
            return self._neighbour(net)
        return self._ip(net)

    def _arp(self) -> Result:
        at = 14 + 4 * sum(self.frame[12 + 4 * i : 14 + 4 * i] in (b"\x81\x00", b"\x88\xa8") for i in (0, 1))
        target, ours = neighbour.arp_target(self.frame, at), self.oracle.interfaces.get(self.ifindex)
        if target is None or ours is None or not self._answers(target):
            return self._pass()
        neighbour.arp_answer(self.out, at, ours)
        return Result(Verdict.TX, None, self.ifindex, bytes(self.out.frame))

    def _neighbour(self, net: Network) -> Result:
        target, ours = neighbour.neighbour_target(self.frame, net), self.oracle.interfaces.get(self.ifindex)
        if self.parsed.reason or target is None or ours is None or not self._answers(target):
            return self._pass()
        neighbour.neighbour_answer(self.out, net, target, ours)
        return Result(Verdict.TX, None, self.ifindex, bytes(self.out.frame))

    def _answers(self, target: Address) -> bool:
        """Return whether nobody else answers for an address."""
        return self._is_vip(target) and target not in self.oracle.plan.local

    def _ip(self, net: Network) -> Result:
        direct = self._is_vip(net.destination)
        if not direct and net.destination in self.oracle.plan.local:
            return self._pass()
        inner = None if direct else self.parsed.inner
        quoted = inner is not None and self._is_member(inner.destination)
        answer = not direct and (quoted or (self.parsed.form is not Form.ERROR and self._is_member(net.source)))
        own = not direct and self._is_own(net)
        if own and (self.parsed.reason or not answer):
            own = not self._goes_direct()
        routed = None if direct else self._routed(net)
        if not direct and not answer and not own and routed is None:
            return self._pass()
        if self.parsed.reason:
            return self._drop(self.parsed.reason) if direct or own or routed else self._pass()
        if net.source == net.destination or wire.is_martian(net.source):
            return self._drop(Drop.LAND if net.source == net.destination else Drop.MARTIAN)
        if net.part is not Part.WHOLE and not self._fragment(net):
            return Result(Verdict.HOLD, None, self.ifindex, self.frame)
        if direct:
            return self._direct()
        result = self._answer(quoted=quoted) if answer else None
        return result or self._outward(routed, own=own)

    def _outward(self, routed: Entry | None, *, own: bool) -> Result:
        """Handle what is for others: a member's own, or what comes by a routed interface."""
        if own and not self._goes_direct():
            return self._snat_out(self._client_side())
        return self._pass() if routed is None else self._forward(routed, self._client_side())

    def _is_own(self, net: Network) -> bool:
        """Return whether a member may have sent this, or an error about it, on its own account."""
        if self.parsed.form is Form.ERROR:
            return self.parsed.inner is not None and self._is_outbound(self.parsed.inner.destination)
        return self._is_outbound(net.source)

    def _routed(self, net: Network) -> Entry | None:
        key = self.oracle.plan.routed.get((self.ifindex, net.version))
        if key is None or wire.is_link_scope(net.destination):
            return None
        return self.oracle.tables.entries.get(key) or self.oracle.closed()[key]

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

    def _direct(self) -> Result:
        flow, net = self._client_side(), self._net
        if flow.destination != net.destination:
            return self._drop(Drop.QUOTE_UNREADABLE)
        from_member = self._is_member(net.source) or self.parsed.form is Form.ERROR
        if from_member and flow.destination_port >= CONSTANTS["HAIRPIN_FIRST"]:
            result = self._hairpin_return(flow)
            if result is not None:
                return result
        entry = self._find_entry(flow.destination, flow.destination_port, flow.protocol)
        exact = entry is not None and entry.row.key.protocol is not Protocol.ALL
        if not exact and self._is_source(net.destination):
            back = self._snat_back(flow)
            if back is not None:
                return back
        if entry is None and (answered := self._echo(net, flow)) is not None:
            return answered
        if entry is None:
            return self._pass() if net.destination in self.oracle.plan.local else self._drop(Drop.NO_RULE)
        return self._forward(entry, flow)

    def _echo(self, net: Network, flow: Flow) -> Result | None:
        """Answer a ping of a public frontend; None where the balancer does not."""
        found = pings(self.oracle.tables).get(net.destination)
        icmp = flow.protocol == PING_PROTOCOLS[net.version] and flow.destination_port == 0
        if found is None or not icmp or net.destination in self.oracle.plan.local:
            return None
        ping, entries = found
        if self.parsed.form is not Form.PLAIN:
            allowed = any(flow.source in prefix for prefix in entries[0].row.frontend.allow)
            return self._drop(Drop.NO_ELIGIBLE_MEMBER if allowed else Drop.SOURCE_NOT_ALLOWED)
        if net.part is Part.LATER or self.frame[net.l4] != (8 if net.version == 4 else 128):
            return self._drop(Drop.NO_RULE)
        if not any(flow.source in prefix for prefix in entries[0].row.frontend.allow):
            return self._drop(Drop.SOURCE_NOT_ALLOWED)
        if net.part is not Part.WHOLE or net.end - net.l4 > CONSTANTS["ECHO_BYTES"] or ping is Ping.SILENCE:
            return self._drop(Drop.PING_IGNORED)
        if ping is Ping.REPLY:
            return self._reply(echo(self.frame, net))
        frame = unreachable(self.frame, net)
        return self._drop(Drop.NO_ELIGIBLE_MEMBER) if frame is None else self._reply(frame, Drop.NO_ELIGIBLE_MEMBER)

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
        left = self._left_entry(flow) if result is None else None
        if result is None and left:
            result = self._answer_of(left, flow)
        if result is None and exact:
            result = self._answer_without_flow(exact, flow)
        return result

    def _answer_without_flow(self, entry: Entry, flow: Flow) -> Result | None:
        """Send it to where clients usually are, if that is known; what opens a connection is no answer."""
        hop = self.oracle.hops.get(self.oracle.plan.return_hops.get(entry.row.key.address, -1))
        if hop is None or not hop.resolved or self.parsed.form is Form.ERROR:
            return None
        if flow.protocol == wire.TCP and self.parsed.tcp_flags & 0x12 == 2:
            return None
        self._rewrite_answer(flow, entry.row.key.address, entry.row.key.port)
        return self._transmit(hop.ifindex, hop.destination, hop.source)

    def _answer_of(self, entry: Entry, flow: Flow) -> Result | None:
        key = entry.row.key
        port = key.port if backend_port(entry.row) else flow.destination_port
        client = replace(flow, destination=key.address, destination_port=port)
        way = Passage(entry, (client, False), outward=True, event=self._event(flow))
        way.state = self.oracle.alive(way.key, self.now_ms)
        if way.state is None:
            return None
        target = way.state.target
        gone = self._has_left(target) and not self._is_leaving(target)
        if gone or flow.destination not in (target[1].address, key.address):
            return self._drop(Drop.NO_FLOW)
        if way.state.over:
            return self._drop(Drop.NO_FLOW)
        if way.state.is_late(self.now_ms):
            return self._expired(way.state)
        if mtu := self._client_mtu(way.state):
            # Who has the VIP as its own address takes nothing that comes from there.
            return self._too_big_from(flow.source if flow.destination == key.address else key.address, mtu)
        self._notice(way)
        self._rewrite_answer(flow, key.address, port)
        return self._to_client(way.state)

    def _rewrite_answer(self, flow: Flow, vip: Address, port: int) -> None:
        """Write the VIP and its port for where a member answers from; there may be the VIP already."""
        net, quoted, out, moved, change = self._net, self.parsed.quoted, self.out, flow.destination != vip, 0
        if quoted is not None:
            if moved:
                change = out.set_address(quoted, vip, destination=True)
            out.follow_icmp(net, change + out.set_port(quoted, port, destination=True))
        if moved and (quoted is None or net.source == flow.destination):
            out.set_address(net, vip, destination=False)
        if quoted is None:
            out.set_port(net, port, destination=False)
