"""What TCP and UDP frontends of the proxy have in common: a socket, the entry it executes, and its filter."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

from asynclb.datapath.ask import LiveVerdict
from asynclb.datapath.base import FlowRecord
from asynclb.datapath.lifetimes import NOBODY, Listeners, Place
from asynclb.datapath.proxy import sockets
from asynclb.datapath.proxy.gate import Gate, open_gate
from asynclb.datapath.proxy.ledger import Account, Ledger
from asynclb.datapath.proxy.pipes import Pipes
from asynclb.datapath.proxy.reactor import Reactor
from asynclb.datapath.proxy.relay import Ending
from asynclb.datapath.proxy.sockets import Sockname
from asynclb.datapath.proxy.sockfilter import SILENT, Program, allow_program
from asynclb.events import Emit, Event
from asynclb.model import AdminState, Member, keeps_sessions
from asynclb.net.address import endpoint
from asynclb.net.drop import Drop
from asynclb.net.flow import PROTOCOL_NUMBERS, Flow
from asynclb.tables.lookup import Verdict, choose
from asynclb.tables.row import FrontendKey, Row
from asynclb.tables.tables import Entry


@dataclass(slots=True)
class Shared:
    """What all frontends of the proxy use. Owner: the datapath, which alone changes it.

    `max_descriptor`: a descriptor above this number is one of the reserve that reloads and the API need.
    """

    reactor: Reactor
    ledger: Ledger
    emit: Emit
    seed: int = 0
    max_descriptor: int = 1 << 20
    listeners: Listeners = NOBODY
    """Who is told of flows that begin and end."""
    pipes: Pipes = field(default_factory=Pipes)
    udp_pairs: set[tuple[Sockname, Sockname]] = field(default_factory=set)
    """(client, member) pairs whose ports a UDP session keeps."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A member as a frontend reaches it."""

    pool: str
    name: str
    sockname: Sockname
    account: Account
    place: Place
    """Where its flows go, in words."""

    @property
    def identity(self) -> "Identity":
        """What makes this member the same one across reloads."""
        return self.pool, self.name, self.sockname[0]


_NOT_ROUTED = ("127.", "fe80:")  # RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.6

Identity = tuple[str, str, str]
"""(pool, member, address): a member that keeps its name and changes its address is another one to its flows."""


class Departures:
    """Members that left the pool or drain: until when their flows may go on. Owner: a frontend."""

    def __init__(self, frontend: "ProxyFrontend") -> None:
        self._frontend = frontend
        self._until_s: dict[Identity, float] = {}

    def update(self, old: Row, new: Row) -> None:
        """Give members that leave now the drain period of their pool, and forget those that came back."""
        staying = {_identity(new, member) for member in new.pool.members if member.admin_state is not AdminState.DRAIN}
        known = {_identity(row, member) for row in (old, new) for member in row.pool.members}
        now_s = self._frontend.shared.reactor.now_s
        until_s = now_s + (new.pool if new.pool.name == old.pool.name else old.pool).drain_period_s
        leaving = known - staying | (self._until_s.keys() - staying)
        self._until_s = {identity: self._until_s.get(identity, until_s) for identity in leaving}
        if self._until_s:
            self._frontend.shared.reactor.schedule(self, min(self._until_s.values()))

    def on_time(self, now_s: float) -> float | None:
        """Reset the flows whose time is over."""
        over = {identity for identity, until_s in self._until_s.items() if until_s <= now_s}
        for identity in over:
            del self._until_s[identity]
        reset = self._frontend.reset_flows(Ending.DRAINED, lambda peer: peer.identity in over)
        if reset:
            self._frontend.report_reset(reset, "the drain period of their member is over")
        return min(self._until_s.values(), default=None)


def _identity(row: Row, member: Member) -> Identity:
    return row.pool.name, member.name, str(member.address)


class ProxyFrontend(ABC):
    """A socket on a frontend's address, silent until `commit` opens it.

    Owner: the datapath. `entry` is what new flows meet; replacing it is one assignment.
    """

    sock: socket.socket
    gate: Gate

    def __init__(self, shared: Shared, entry: Entry, kind: socket.SocketKind, *, transparent: bool) -> None:
        """Bind, but let nothing in. Raises: OSError -> the address or port cannot be had."""
        self.shared = shared
        self.entry = entry
        self.key: FrontendKey = entry.row.key
        self.account: Account = shared.ledger.rule(entry.row.rule.name)
        self.listening = False
        self.program: Program | None = SILENT
        self._kind = kind
        self._transparent = transparent
        self._drops_seen = 0
        self._departures = Departures(self)
        self._peers: dict[str, Peer] = {}
        self._members: frozenset[str] | None = None  # their addresses, collected when first asked for
        self._protocol = PROTOCOL_NUMBERS[self.key.protocol]
        self.listen()

    @abstractmethod
    def on_events(self, events: int) -> None:
        """Serve an edge of the socket."""

    @abstractmethod
    def resume(self) -> None:
        """Serve what came while nobody was let in, or while others had their turn."""

    @abstractmethod
    def open_flows(self) -> int:
        """Return how many flows are open."""

    @abstractmethod
    def records(self) -> Iterator[FlowRecord]:
        """Describe every open flow."""

    @abstractmethod
    def reset_flows(self, ending: Ending, gone: Callable[[Peer], bool]) -> int:
        """Reset the flows of the members that `gone` names; return how many."""

    @property
    def idle_timeout_s(self) -> float:
        """How long a flow may be silent."""
        return self.entry.row.rule.idle_timeout_s

    def listen(self) -> None:
        """Bind, but let nothing in. Raises: OSError -> the address or port cannot be had."""
        self.sock, self.gate = open_gate(self.key.address, self.key.port, self._kind, transparent=self._transparent)
        self.program = SILENT
        self.listening = True
        self._drops_seen = 0
        self.shared.reactor.watch(self.sock, self.on_events)

    def commit(self, entry: Entry) -> None:
        """Let new flows meet `entry` from here on.

        A frontend falls silent before its last member goes, and speaks only after its first one is there.
        Raises: OSError -> the filter is too large for this host (net.core.optmem_max).
        """
        program = wanted_program(entry)
        if program == SILENT:
            self._set_gate(program)
            self._replace(entry)
        else:
            self._replace(entry)
            self._set_gate(program)
            self.shared.reactor.again(self.resume)

    def hush(self) -> None:
        """Take no new flows, without a word to who asks for one."""
        if self.listening:
            self._set_gate(SILENT)

    def stop_listening(self, why: Ending = Ending.STOPPED) -> None:  # noqa: ARG002  for those who cannot go on
        """Take no new flows and give the address and port back at once; open flows go on, or end for this reason."""
        if self.listening:
            self.count_drops()
            self.listening = False
            self.gate.close()
            self.shared.reactor.discard(self.sock)

    def choose(self, entry: Entry, client: Sockname) -> Verdict | Drop:
        """Return the member that the tables give a new flow of this client."""
        return choose(self.shared.seed, entry, self.flow(client))

    @property
    def is_open(self) -> bool:
        """Whether somebody who comes now would be let in, and given to a member."""
        return self.listening and self.program != SILENT and bool(self.entry.table.size)

    def verdict(self, flow: Flow) -> LiveVerdict:
        """Return where a new flow would go now."""
        row = self.entry.row
        if not any(flow.source in prefix for prefix in row.frontend.allow):
            return LiveVerdict(None, Drop.SOURCE_NOT_ALLOWED)
        found = choose(self.shared.seed, self.entry, flow) if self.is_open else Drop.NO_ELIGIBLE_MEMBER
        return (
            LiveVerdict(None, found)
            if isinstance(found, Drop)
            else LiveVerdict((row.pool.name, found.member.name), None)
        )

    def flow(self, client: Sockname) -> Flow:
        """Return the flow key of a client's flow to this frontend."""
        return Flow(ip_address(client[0]), client[1], self.key.address, self.key.port, self._protocol)

    def source(self, entry: Entry, client: Sockname) -> Sockname | None:
        """Return the address and port to speak with towards members, or None for this host's own.

        The client's are used unless a member's replies to them would not come back here: members themselves and this
        host's programs are spoken for with the host's own address, and so are clients with an address of their link.
        """
        if not entry.row.rule.transparent:
            return None
        if self._members is None:
            self._members = frozenset(str(member.address) for member in self.entry.row.pool.members)
        here = client[0].startswith(_NOT_ROUTED) or client[0] == "::1"
        return None if here or client[0] in self._members else client

    def peer(self, entry: Entry, member: Member) -> Peer:
        """Return a member as this frontend reaches it under `entry`, which may be older than the current one."""
        peer = self._peers.get(member.name) if entry is self.entry else None
        if peer is None:
            port = entry.row.rule.backend_port or self.key.port
            account = self.shared.ledger.member(entry.row.pool.name, member.name)
            place = _place(entry.row, member.name, endpoint(member.address, port))
            peer = Peer(entry.row.pool.name, member.name, sockets.sockname(member.address, port), account, place)
            if entry is self.entry:
                self._peers[member.name] = peer
        return peer

    def report_reset(self, connections: int, why: str) -> None:
        """Say that flows were reset, and why."""
        self.shared.emit(Event.CONNECTIONS_RESET, rule=self.entry.row.rule.name, connections=connections, why=why)

    def count_drops(self) -> None:
        """Bring the socket's own drops into the ledger, under the reason that its filter stands for."""
        if not self.listening:
            return
        seen = sockets.drops(self.sock)
        new, self._drops_seen = (seen - self._drops_seen) & 0xFFFF_FFFF, seen
        if new:
            self.shared.ledger.drop(self._drop_reason(), new)
            self.account.syn += new if self.sock.type == socket.SOCK_STREAM else 0

    def _drop_reason(self) -> Drop:
        if not self.entry.table.size:
            return Drop.NO_ELIGIBLE_MEMBER
        return Drop.SOURCE_NOT_ALLOWED if self.program is not None else Drop.LISTEN_OVERFLOW

    def _replace(self, entry: Entry) -> None:
        self.count_drops()
        if entry.row != self.entry.row:
            self._departures.update(self.entry.row, entry.row)
            self._peers = {}
            self._members = None
            self.account = self.shared.ledger.rule(entry.row.rule.name)
        self.entry = entry

    def _set_gate(self, program: Program | None) -> None:
        if program == self.program:
            return
        self.count_drops()
        self.gate.set(program)
        self.program = program


def _place(row: Row, member: str, address: str) -> Place:
    """Put into words where flows of a row go that have this member."""
    return Place(
        rule=row.rule.name,
        frontend=row.frontend.name,
        frontend_address=endpoint(row.key.address, row.key.port),
        pool=row.pool.name.partition("/")[0],
        member=member,
        member_address=address,
        protocol=str(row.key.protocol),
    )


def keeping(entry: Entry, *, stays: bool) -> frozenset[tuple[str, str]]:
    """Return the members (name, address) whose flows go on; all of them if flows stay with those that go down."""
    eligible = {member.name for member in entry.table.members}
    members = (member for member in entry.row.pool.members if stays or keeps_sessions(member, eligible))
    return frozenset((member.name, str(member.address)) for member in members)


def wanted_program(entry: Entry) -> Program | None:
    """Return the filter that an entry wants on its socket: silence while it has no member, else its `allow`."""
    if not entry.table.size:
        return SILENT
    return allow_program(entry.row.frontend.allow, entry.row.key.address.version)
