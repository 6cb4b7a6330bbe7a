"""UDP frontends: one session per client address and port, each with a socket of its own towards its member.

The session's socket is connected, so the kernel sorts replies and reports unreachable members; in transparent
mode it is bound to the client's address and port. Replies leave through the frontend's socket, so they come
from the VIP and port that the client asked.

Laws:
  1. A session keeps its member while that member may take flows, or drains; a client's next datagram after its
     member went down goes to another one. (Azure moves UDP flows the same way; unlike Azure, a session is not
     moved when other members come or go.)
  2. A datagram stays one datagram, also when it is empty.
  3. Sessions end when they have been idle for the rule's timeout, both ways.
"""

import errno
import socket
from collections.abc import Callable, Iterator

from asynclb.datapath.base import FlowRecord
from asynclb.datapath.lifetimes import is_told
from asynclb.datapath.proxy import sockets
from asynclb.datapath.proxy.frontend import Peer, ProxyFrontend, Shared, keeping
from asynclb.datapath.proxy.lifetimes import begun, name_of, udp_over
from asynclb.datapath.proxy.reactor import READABLE
from asynclb.datapath.proxy.relay import Ending
from asynclb.datapath.proxy.sockets import Sockname
from asynclb.model import ProxyProtocol
from asynclb.net.address import endpoint
from asynclb.net.drop import Drop
from asynclb.net.proxyprotocol import header_v2
from asynclb.tables.tables import Entry, PoolTable

_DATAGRAMS = 64  # datagrams in a row before other flows have their turn
_BUFFER = bytearray(1 << 16)  # no datagram is larger; it holds nothing between two calls of a handler
_VIEW = memoryview(_BUFFER)

Send = Callable[[bytes | memoryview], int]


class UdpSession:
    """A client's datagrams to one member and back. Owner: its frontend."""

    __slots__ = (
        "account",
        "active_s",
        "bytes_in",
        "bytes_out",
        "client",
        "frontend",
        "header",
        "keeps_port",
        "opened_s",
        "over",
        "packets_in",
        "packets_out",
        "peer",
        "sock",
        "table",
    )

    def __init__(
        self, frontend: "UdpFrontend", client: Sockname, peer: Peer, sock: socket.socket, header: bytes
    ) -> None:
        self.frontend = frontend
        self.account = frontend.account
        self.client = client
        self.peer = peer
        self.sock = sock
        self.header = header
        self.keeps_port = sock.getsockname()[:2] == client[:2]
        self.table: PoolTable = frontend.entry.table
        self.bytes_in = self.bytes_out = self.packets_in = self.packets_out = 0
        self.opened_s = self.active_s = frontend.shared.reactor.now_s
        self.over = False

    def to_member(self, data: memoryview) -> None:
        """Send a client's datagram on."""
        self.active_s = self.frontend.shared.reactor.now_s
        if not _sent(self.sock.send, self.header + data if self.header else data):
            self.frontend.shared.ledger.drop(Drop.MEMBER_SEND_FAILED)
            return
        size = len(data)
        self.bytes_in += size
        self.packets_in += 1
        for account in (self.account, self.peer.account):
            account.inbound.bytes += size
            account.inbound.packets += 1

    def on_events(self, events: int) -> None:
        """Send the member's replies to the client, from the frontend's own address and port."""
        if not events & READABLE:
            return
        receive = self.sock.recv_into
        for _ in range(_DATAGRAMS):
            try:
                size = receive(_BUFFER)
            except BlockingIOError:
                return
            except OSError:  # the member's port is unreachable; the probe decides what that means
                continue
            self._to_client(size)
        self.frontend.shared.reactor.again(self._read_more)

    def on_time(self, now_s: float) -> float | None:
        """End the session if it was idle for too long, else say when to look again."""
        due_s = self.active_s + self.frontend.idle_timeout_s
        if now_s < due_s:
            return due_s
        self.end(Ending.IDLE)
        return None

    def end(self, ending: Ending) -> None:
        """Close the session's socket, count the session out, and tell who listens."""
        if self.over:
            return
        self.over = True
        listeners = self.frontend.shared.listeners
        if listeners.ends is not None and is_told(listeners.sample, *name_of(self.client)):
            listeners.ends(1, udp_over(self, ending))
        self.frontend.forget(self)

    def record(self, now_s: float) -> FlowRecord:
        """Describe the session."""
        return FlowRecord(
            rule=self.frontend.entry.row.rule.name,
            protocol="udp",
            client=endpoint(self.client[0], self.client[1]),
            frontend=self.frontend.entry.row.frontend.name,
            pool=self.peer.pool,
            member=self.peer.name,
            target=endpoint(self.peer.sockname[0], self.peer.sockname[1]),
            state="session",
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            age_s=now_s - self.opened_s,
            idle_s=now_s - self.active_s,
        )

    def _to_client(self, size: int) -> None:
        frontend = self.frontend
        self.active_s = frontend.shared.reactor.now_s
        try:
            frontend.sock.sendto(_VIEW[:size], self.client)
        except OSError:
            frontend.shared.ledger.drop(Drop.CLIENT_SEND_FAILED)
            return
        self.bytes_out += size
        self.packets_out += 1
        for account in (self.account, self.peer.account):
            account.outbound.bytes += size
            account.outbound.packets += 1

    def _read_more(self) -> None:
        if not self.over:
            self.on_events(READABLE)


def _sent(send: Send, data: bytes | memoryview) -> bool:
    """Send a datagram; a pending error is about an earlier one, so it is read and the datagram is sent again."""
    for _ in range(2):
        try:
            send(data)
        except ConnectionRefusedError:
            continue
        except OSError:
            return False
        return True
    return False


class UdpFrontend(ProxyFrontend):
    """A bound socket and the sessions of its clients."""

    def __init__(self, shared: Shared, entry: Entry, *, transparent: bool) -> None:
        super().__init__(shared, entry, socket.SOCK_DGRAM, transparent=transparent)
        self._sessions: dict[Sockname, UdpSession] = {}
        self._tables_seen = entry.table
        self._keeps: frozenset[tuple[str, str]] = frozenset()

    def on_events(self, events: int) -> None:
        """Send clients' datagrams on, each within its session."""
        if not events & READABLE:
            return
        receive = self.sock.recvfrom_into
        for _ in range(_DATAGRAMS):
            try:
                size, client = receive(_BUFFER)
            except BlockingIOError:
                return
            except OSError:
                continue
            session = self._sessions.get(client)
            if session is None or (session.table is not self.entry.table and not self._still_good(session)):
                session = self._open(client)
            if session is not None:
                session.to_member(_VIEW[:size])
        self.shared.reactor.again(self.resume)

    def open_flows(self) -> int:
        """Return how many sessions are open."""
        return len(self._sessions)

    def records(self) -> Iterator[FlowRecord]:
        """Describe every session."""
        now_s = self.shared.reactor.now_s
        return (session.record(now_s) for session in tuple(self._sessions.values()))

    def reset_flows(self, ending: Ending, gone: Callable[[Peer], bool]) -> int:
        """End the sessions of the members that `gone` names; return how many."""
        victims = [session for session in self._sessions.values() if gone(session.peer)]
        for session in victims:
            session.end(ending)
        return len(victims)

    def stop_listening(self, why: Ending = Ending.STOPPED) -> None:
        """Close the frontend's socket and with it every session: replies could not leave without it."""
        self.reset_flows(why, lambda _peer: True)
        super().stop_listening(why)

    def forget(self, session: UdpSession) -> None:
        """Close a session's socket and take it out of the books."""
        del self._sessions[session.client]
        self.shared.reactor.unschedule(session)
        self.shared.reactor.retire(session.sock)
        if session.keeps_port:
            self.shared.udp_pairs.discard((session.client, session.peer.sockname))
        for account in (session.account, session.peer.account):
            account.flows -= 1

    def _open(self, client: Sockname) -> UdpSession | None:
        verdict = self.choose(self.entry, client)
        if isinstance(verdict, Drop):
            self.shared.ledger.drop(verdict)
            return None
        peer = self.peer(self.entry, verdict.member)
        sock = self._dial(client, peer)
        if sock is None:
            return None
        session = UdpSession(self, client, peer, sock, self._header(client))
        self._sessions[client] = session
        if session.keeps_port:
            self.shared.udp_pairs.add((client, peer.sockname))
        self.shared.reactor.watch(sock, session.on_events)
        self.shared.reactor.schedule(session, session.opened_s + self.idle_timeout_s)
        for account in (session.account, peer.account):
            account.new_flows += 1
            account.flows += 1
        listeners = self.shared.listeners
        if listeners.starts is not None and is_told(listeners.sample, *name_of(client)):
            listeners.starts(1, begun(client, peer))
        return session

    def _dial(self, client: Sockname, peer: Peer) -> socket.socket | None:
        """Open the socket of a session.

        UDP lets two sockets share all four addresses and ports and gives replies to one of them, so the pairs are kept.
        """
        source = self.source(self.entry, client)
        try:
            if source is not None and (client, peer.sockname) in self.shared.udp_pairs:
                sock = sockets.dial(socket.SOCK_DGRAM, peer.sockname, source, keep_port=False)
            else:
                sock = sockets.dial_as(socket.SOCK_DGRAM, peer.sockname, source)
        except OSError as error:
            full = error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
            self.shared.ledger.drop(Drop.OUT_OF_DESCRIPTORS if full else Drop.MEMBER_SEND_FAILED)
            return None
        if sock.fileno() > self.shared.max_descriptor:
            sock.close()
            self.shared.ledger.drop(Drop.FLOW_TABLE_FULL)
            return None
        return sock

    def _header(self, client: Sockname) -> bytes:
        if self.entry.row.rule.proxy_protocol is ProxyProtocol.NONE:
            return b""
        return header_v2(self.flow(client))

    def _still_good(self, session: UdpSession) -> bool:
        """Return whether a session may stay under tables that are newer than it; end it if not."""
        if self._tables_seen is not self.entry.table:
            self._tables_seen = self.entry.table
            stays = self.entry.row.rule.persistence_on_unhealthy.keeps_others
            self._keeps = keeping(self.entry, stays=stays)
        keeps = (session.peer.name, session.peer.sockname[0]) in self._keeps
        if keeps and (self.entry.row.rule.connection_tracking or self._is_chosen(session)):
            session.table = self.entry.table
            return True
        session.end(Ending.MOVED)
        return False

    def _is_chosen(self, session: UdpSession) -> bool:
        """Return whether the tables would give a session to its member now."""
        verdict = self.choose(self.entry, session.client)
        return not isinstance(verdict, Drop) and verdict.member.name == session.peer.name

    def resume(self) -> None:
        """Read what came while others had their turn."""
        if self.listening:
            self.on_events(READABLE)
