"""What members open themselves. C twin: snat.h."""

from dataclasses import dataclass, replace

from asynclb.datapath.core.layout import CONSTANTS, TRANSITIONS, Event, Verdict
from asynclb.datapath.core.oracle.forward import Forward
from asynclb.datapath.core.oracle.state import OUTBOUND, State, timeout_ms, turned
from asynclb.datapath.core.oracle.wire import TCP, UDP, Form, is_link_scope
from asynclb.datapath.core.values import Result
from asynclb.model import Member
from asynclb.net.address import Address
from asynclb.net.drop import Drop
from asynclb.net.flow import Flow, Protocol
from asynclb.net.flowhash import Distribution, flow_hash, slot_of
from asynclb.tables.snat import BLOCK, SnatRule, SnatSlice

_PROTOCOLS = {TCP: Protocol.TCP, UDP: Protocol.UDP}


@dataclass(slots=True)
class Outbound(Forward):
    """Translation of members' own connections."""

    def _is_outbound(self, address: Address) -> bool:
        return self._snat_rule(address, 0) is not None

    def _snat_rule(self, address: Address, protocol: int) -> tuple[SnatRule, Member] | None:
        """Return the rule for a member's protocol, or with 0 for what its rules have in common."""
        for rule in self.oracle.tables.outbound:
            for member in rule.pool.members:
                if member.address == address and (not protocol or _PROTOCOLS.get(protocol) in rule.protocols):
                    return rule, member
        return None

    def _goes_direct(self) -> bool:
        """Return whether a member's packet goes where members are known by their own address."""
        net, member = self._net, self._net.source
        if self.parsed.inner is not None:
            flow = turned(self.parsed.inner)
            if flow.destination != net.destination:
                return True
            member = flow.source
        known = self._is_member(net.destination) or self._is_outbound(net.destination)
        if known or is_link_scope(net.destination):
            return True
        found = self._snat_rule(member, 0)
        return found is None or any(net.destination in prefix for prefix in found[0].direct)

    def _snat_out(self, flow: Flow) -> Result:
        found = self._snat_rule(flow.source, flow.protocol)
        if found is None:
            common = self._snat_rule(flow.source, 0)
            closed = common is not None and not common[0].protocols
            return self._drop(Drop.NO_OUTBOUND_RULE if closed else Drop.SNAT_PROTOCOL)
        key = _key(flow)
        state = self.oracle.alive((key, OUTBOUND), self.now_ms)
        if state is not None and state.source not in self.oracle.plan.sources:
            state = None
        if state is None:
            if not self._plain or (flow.protocol == TCP and self.parsed.tcp_flags & 0x16 != 2):
                return self._drop(Drop.NO_FLOW)
            state = self._snat_start(*found, key)
        if state is None:
            return self._drop(Drop.SNAT_PORTS_EXHAUSTED)
        back = self.oracle.alive((_back_key(key, state), OUTBOUND), self.now_ms)
        if back is None or back.client != key or state.over:
            return self._drop(Drop.NO_FLOW)
        if mtu := self._client_mtu(back):
            return self._too_big_from(_source(state), mtu)
        event = self._event(flow)
        self._snat_notice(found[0], state, back, event, outward=False)
        if self._plain:
            state.ifindex, state.link = self.ifindex, self.frame[6:12]
        self._rewrite_outward(flow, state)
        ours = self.oracle.interfaces.get(back.ifindex) if event is not Event.SYN else None
        if ours is None:
            return Result(Verdict.TX, None, 0, bytes(self.out.frame))
        return self._transmit(back.ifindex, back.link, ours)

    def _snat_start(self, rule: SnatRule, member: Member, key: Flow) -> State | None:
        hashed = flow_hash(self.oracle.tables.seed, key, Distribution.FIVE_TUPLE)
        for part in rule.slices[member.name]:
            for port in _ports(part, slot_of(hashed, part.ports)):
                state = State((rule.place, member), rule.name, 0, 0, swapped=False, hairpin_port=port)
                state.source = part.address
                there = _back_key(key, state), OUTBOUND
                if self.oracle.alive(there, self.now_ms) is not None:
                    continue
                deadline_ms = state.deadline_ms = self.now_ms + CONSTANTS["SYN_MS"]
                self.oracle.flows[there] = replace(state, client=key, deadline_ms=deadline_ms)
                self.oracle.flows[key, OUTBOUND] = state
                return state
        return None

    def _snat_notice(self, rule: SnatRule, state: State, back: State, event: Event, *, outward: bool) -> None:
        if self.parsed.form is Form.ERROR:
            return
        protocol = _PROTOCOLS.get(self._net.protocol)
        if protocol is Protocol.TCP and self._plain:
            state.state = TRANSITIONS[int(outward), event][state.state]
        idle_ms = min(round(rule.idle_timeout_s * 1000), 0x7FFF_FFFF)
        state.deadline_ms = back.deadline_ms = self.now_ms + timeout_ms(state.state, idle_ms)

    def _rewrite_outward(self, flow: Flow, state: State) -> None:
        net, quoted, out, source = self._net, self.parsed.quoted, self.out, _source(state)
        if quoted is None:
            out.set_address(net, source, destination=False)
            out.set_port(net, state.hairpin_port, destination=False)
            return
        change = out.set_address(quoted, source, destination=True)
        change += out.set_port(quoted, state.hairpin_port, destination=True)
        out.follow_icmp(net, change)
        if net.source == flow.source:
            out.set_address(net, source, destination=False)

    def _snat_back(self, flow: Flow) -> Result | None:
        """Return what becomes of a packet for an address that connections leave from; None when it is of none."""
        there = replace(flow, source_port=0) if flow.protocol == UDP else flow
        back = self.oracle.alive((there, OUTBOUND), self.now_ms)
        if back is None or back.client is None:
            return None
        key = back.client
        state, found = self.oracle.alive((key, OUTBOUND), self.now_ms), self._snat_rule(key.source, key.protocol)
        if state is None or found is None or state.hairpin_port != flow.destination_port or state.over:
            return self._drop(Drop.NO_FLOW)
        if mtu := self._client_mtu(state):
            return self._too_big_from(flow.destination, mtu)
        self._snat_notice(found[0], state, back, self._event(flow), outward=True)
        if self._plain:
            back.ifindex, back.link = self.ifindex, self.frame[6:12]
        net, quoted, out = self._net, self.parsed.quoted, self.out
        if quoted is None:
            out.set_address(net, key.source, destination=True)
            out.set_port(net, key.source_port, destination=True)
            return self._to_client(state)
        change = out.set_address(quoted, key.source, destination=False)
        change += out.set_port(quoted, key.source_port, destination=False)
        out.follow_icmp(net, change)
        out.set_address(net, key.source, destination=True)
        return self._to_client(state)


def _key(flow: Flow) -> Flow:
    """Return what names a connection: to UDP an address is one destination, whatever the port."""
    return replace(flow, destination_port=0) if flow.protocol == UDP else flow


def _back_key(key: Flow, state: State) -> Flow:
    return Flow(key.destination, key.destination_port, _source(state), state.hairpin_port, key.protocol)


def _source(state: State) -> Address:
    assert state.source is not None  # noqa: S101 # a connection of a member's own has one
    return state.source


def _ports(part: SnatSlice, first: int) -> list[int]:
    """Return the ports that are tried, in their order."""
    ports = [block * BLOCK + number for block in part.blocks for number in range(BLOCK)]
    return (ports[first:] + ports[:first])[: CONSTANTS["SNAT_TRIES"]]
