"""TCP frontends: accept a client, find it a member, join the two.

A client is accepted only if the frontend's filter let its SYN through, so whoever is accepted is allowed and, at
that moment, some member was eligible. The member is the one that the tables name; when it refuses or does not
answer, the next one of the same table is tried before the client notices. When none takes the connection, the
client gets a reset.

Laws:
  1. A flow keeps its member until it ends, whatever the tables say later; with `persistence_on_unhealthy: never` it
     ends when its member goes down.
  2. New flows meet the entry that was current when they were accepted.
  3. The client's own port is used towards the member unless it is taken; then only the address is kept.
"""

import errno
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address

from asynclb.datapath.base import FlowRecord
from asynclb.datapath.lifetimes import is_told
from asynclb.datapath.proxy import sockets
from asynclb.datapath.proxy.frontend import Peer, ProxyFrontend, Shared, keeping
from asynclb.datapath.proxy.lifetimes import begun, name_of, tcp_over
from asynclb.datapath.proxy.reactor import HUNG_UP, WRITABLE
from asynclb.datapath.proxy.relay import Ending, Relay
from asynclb.datapath.proxy.sockets import Sockname
from asynclb.datapath.proxy.sockfilter import SILENT
from asynclb.events import Event
from asynclb.model import Member, ProxyProtocol
from asynclb.net.address import endpoint
from asynclb.net.drop import Drop
from asynclb.net.proxyprotocol import header_v2
from asynclb.tables.lookup import next_member
from asynclb.tables.tables import Entry

_ACCEPTS = 32  # accepts in a row before other flows have their turn
_ACCEPT_RETRY_S = 0.5  # how long accepting pauses when the process is out of descriptors
_MAX_ATTEMPTS = 8  # members tried for one client; a pool of up to this size is tried whole


class TcpFlow:
    """A relayed connection and what is said of it. Owner: its frontend."""

    __slots__ = ("account", "client", "frontend", "opened_s", "peer", "relay")

    def __init__(self, frontend: "TcpFrontend", peer: Peer, client: Sockname) -> None:
        self.frontend = frontend
        self.account = frontend.account
        self.peer = peer
        self.client = client
        self.opened_s = frontend.shared.reactor.now_s
        self.relay: Relay

    def join(self, client: socket.socket, member: socket.socket) -> None:
        """Make a relay of the two sockets and count the flow in."""
        shared, rule, member_account = self.frontend.shared, self.account, self.peer.account
        meters = (rule.inbound, member_account.inbound, rule.outbound, member_account.outbound)
        self.relay = Relay(shared.reactor, client, member, meters, self.on_over, shared.pipes)
        for counted in (rule, member_account):
            counted.new_flows += 1
            counted.flows += 1
        self.frontend.flows.add(self)
        shared.reactor.schedule(self, self.opened_s + self.frontend.idle_timeout_s)
        if shared.listeners.starts is not None and is_told(shared.listeners.sample, *name_of(self.client)):
            shared.listeners.starts(1, begun(self.client, self.peer))

    def on_time(self, now_s: float) -> float | None:
        """End the flow if it was idle for too long, else say when to look again."""
        due_s = self.relay.active_s + self.frontend.idle_timeout_s
        if now_s < due_s:
            return due_s
        if self.frontend.entry.row.rule.tcp_reset:
            self.relay.reset(Ending.IDLE)
        else:
            self.relay.vanish(Ending.IDLE)
        return None

    def on_over(self, ending: Ending) -> None:
        """Count the flow out, and tell who listens."""
        listeners = self.frontend.shared.listeners
        if listeners.ends is not None and is_told(listeners.sample, *name_of(self.client)):
            listeners.ends(1, tcp_over(self.client, self.peer, self.relay, self.opened_s, ending))
        for counted in (self.account, self.peer.account):
            counted.flows -= 1
        self.frontend.flows.discard(self)
        self.frontend.shared.reactor.unschedule(self)

    def record(self, now_s: float) -> FlowRecord:
        """Describe the flow."""
        relay = self.relay
        half_closed = relay.client.at_end or relay.member.at_end
        return FlowRecord(
            rule=self.frontend.entry.row.rule.name,
            protocol="tcp",
            client=endpoint(self.client[0], self.client[1]),
            frontend=self.frontend.entry.row.frontend.name,
            pool=self.peer.pool,
            member=self.peer.name,
            target=endpoint(self.peer.sockname[0], self.peer.sockname[1]),
            state="closing" if half_closed else "established",
            bytes_in=relay.client.bytes,
            bytes_out=relay.member.bytes,
            age_s=now_s - self.opened_s,
            idle_s=now_s - relay.active_s,
        )


class Dial:
    """A client that waits for a member: tries one after the other. Owner: its frontend."""

    __slots__ = (
        "_address",
        "_client",
        "_client_hung_up",
        "_entry",
        "_frontend",
        "_member_sock",
        "_slot",
        "_tried",
        "peer",
    )

    def __init__(self, frontend: "TcpFrontend", client: socket.socket, address: Sockname) -> None:
        self._frontend = frontend
        self._entry = frontend.entry
        self._client = client
        self._client_hung_up = False
        self._address = address
        self.peer: Peer
        self._member_sock: socket.socket | None = None
        self._slot = 0
        self._tried: list[str] = []

    def start(self) -> None:
        """Choose the flow's member and start connecting to it."""
        self._frontend.dials.add(self)
        self._frontend.shared.reactor.watch(self._client, self.on_client)
        verdict = self._frontend.choose(self._entry, self._address)
        if isinstance(verdict, Drop):
            self.give_up(verdict)
            return
        self._slot = verdict.slot
        self._try(verdict.member)

    def on_client(self, events: int) -> None:
        """See that the client has hung up; what it sends meanwhile waits in the kernel.

        A member that has the connection hears how it ends, and so does who listens: that is the relay's to say. Else
        a client that is gone is given up.
        """
        if not events & HUNG_UP:
            return
        self._client_hung_up = True
        member_sock = self._member_sock
        if member_sock is not None and sockets.is_connected(member_sock):
            self._join(member_sock, hung_up=False)  # the edge is still to come, if there is one
        elif self._client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.give_up(None)

    def on_member(self, events: int) -> None:
        """See how the attempt to connect went."""
        member_sock = self._member_sock
        if member_sock is None:
            return
        if member_sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._next()
        elif events & WRITABLE:
            self._join(member_sock, hung_up=bool(events & HUNG_UP))

    def on_time(self, _now_s: float) -> float | None:
        """Try the next member: this one does not answer."""
        self._next()
        return None

    def give_up(self, reason: Drop | None) -> None:
        """Reset the client, and count the reason if it is ours."""
        if reason is not None:
            self._frontend.shared.ledger.drop(reason)
        self._drop_attempt()
        self._end()
        sockets.reset_on_close(self._client)
        self._frontend.shared.reactor.retire(self._client)

    def _join(self, member_sock: socket.socket, *, hung_up: bool) -> None:
        """Make a flow of the client and the member; `hung_up`: whether the member's hang-up has been seen."""
        self._end()
        flow = TcpFlow(self._frontend, self.peer, self._address)
        flow.join(self._client, member_sock)
        flow.relay.start(self._header(), (self._client_hung_up, hung_up))

    def _try(self, member: Member | None) -> None:
        while member is not None:
            self._tried.append(member.name)
            error = self._connect(member)
            if error == 0:
                return
            if error in (errno.EMFILE, errno.ENFILE):
                self.give_up(Drop.OUT_OF_DESCRIPTORS)
                return
            member = self._alternative()
        self.give_up(Drop.MEMBERS_UNREACHABLE)

    def _connect(self, member: Member) -> int:
        """Start connecting; return 0 or the error number of what failed at once."""
        frontend, rule = self._frontend, self._entry.row.rule
        source = frontend.source(self._entry, self._address)
        self.peer = frontend.peer(self._entry, member)
        try:
            sock = sockets.dial_as(socket.SOCK_STREAM, self.peer.sockname, source)
        except OSError as error:
            return error.errno or errno.EIO
        self._member_sock = sock
        frontend.shared.reactor.watch(sock, self.on_member)
        frontend.shared.reactor.schedule(self, frontend.shared.reactor.now_s + rule.connect_timeout_s)
        return 0

    def _next(self) -> None:
        self._drop_attempt()
        self._try(self._alternative())

    def _alternative(self) -> Member | None:
        if len(self._tried) >= _MAX_ATTEMPTS:
            return None
        return next_member(self._entry.table, self._slot, self._tried)

    def _drop_attempt(self) -> None:
        if self._member_sock is not None:
            self._frontend.shared.reactor.retire(self._member_sock)
            self._member_sock = None

    def _end(self) -> None:
        self._frontend.dials.discard(self)
        self._frontend.shared.reactor.unschedule(self)

    def _header(self) -> bytes:
        if self._entry.row.rule.proxy_protocol is ProxyProtocol.NONE:
            return b""
        return header_v2(self._frontend.flow(self._address))


class TcpFrontend(ProxyFrontend):
    """A listening socket and the connections that came through it."""

    def __init__(self, shared: Shared, entry: Entry, *, transparent: bool) -> None:
        super().__init__(shared, entry, socket.SOCK_STREAM, transparent=transparent)
        self.flows: set[TcpFlow] = set()
        self.dials: set[Dial] = set()
        self._pausing = False  # until `on_time`
        self._short = False  # of descriptors, since the last client that was accepted

    def on_events(self, _events: int) -> None:
        """Accept whoever waits, unless nobody shall be let in or nobody can be."""
        if self.program != SILENT and not self._pausing and self._accept(_ACCEPTS):
            self.shared.reactor.again(self.resume)

    def commit(self, entry: Entry) -> None:
        """Let new flows meet `entry`; open ones leave members that are down, if the rule wants that."""
        super().commit(entry)
        if entry.row.rule.persistence_on_unhealthy.keeps_tcp:
            return
        here = {(entry.row.pool.name, member.name, str(member.address)) for member in entry.row.pool.members}
        leave = here - {(entry.row.pool.name, *one) for one in keeping(entry, stays=False)}
        if reset := self.reset_flows(Ending.MEMBER_DOWN, lambda peer: peer.identity in leave):
            self.report_reset(reset, "their member is down, and persistence_on_unhealthy is never")

    def hush(self) -> None:
        """Take no new flows, but serve those whose handshake is complete: closing the queue would reset them."""
        super().hush()
        if self.listening:
            self._accept(sockets.LISTEN_BACKLOG)

    def on_time(self, _now_s: float) -> float | None:
        """Accept again after a pause."""
        self._pausing = False
        self.resume()
        return None

    def open_flows(self) -> int:
        """Return how many connections are open or being opened."""
        return len(self.flows) + len(self.dials)

    def records(self) -> Iterator[FlowRecord]:
        """Describe every open connection."""
        now_s = self.shared.reactor.now_s
        return (flow.record(now_s) for flow in tuple(self.flows))

    def reset_flows(self, ending: Ending, gone: Callable[[Peer], bool]) -> int:
        """Reset the connections of the members that `gone` names and who waits for one of them; return how many."""
        victims = [flow for flow in self.flows if gone(flow.peer)]
        waiting = [dial for dial in self.dials if gone(dial.peer)]
        for flow in victims:
            flow.relay.reset(ending)
        for dial in waiting:
            dial.give_up(None)
        return len(victims) + len(waiting)

    def resume(self) -> None:
        """Accept who came while nobody was let in, or while others had their turn."""
        if self.listening:
            self.on_events(0)

    def _accept(self, most: int) -> bool:
        """Accept up to `most` clients; return whether more may wait."""
        for _ in range(most):
            try:
                client, address = self.sock.accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if self._accept_failed(error):
                    return False
                continue
            self._short = False
            self._accepted(client, address)
        return True

    def _accepted(self, client: socket.socket, address: Sockname) -> None:
        if self.gate.made(address):
            client.close()
            return
        self.account.syn += 1
        if client.fileno() > self.shared.max_descriptor:
            self._refuse(client, Drop.FLOW_TABLE_FULL)
            return
        client.setblocking(False)
        if self.gate.sees_sources:
            if self.program is not None:
                sockets.detach_filter(client)  # accepted sockets inherit it
        elif not self._allows(address):
            self._refuse(client, Drop.SOURCE_NOT_ALLOWED)
            return
        Dial(self, client, address).start()

    def _allows(self, client: Sockname) -> bool:
        return any(ip_address(client[0]) in prefix for prefix in self.entry.row.frontend.allow)

    def _refuse(self, client: socket.socket, reason: Drop) -> None:
        self.shared.ledger.drop(reason)
        sockets.reset_on_close(client)
        client.close()

    def _accept_failed(self, error: OSError) -> bool:
        """Return whether accepting must pause; a client that is gone already is no reason to."""
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            return False
        if not self._short:
            self.shared.ledger.drop(Drop.OUT_OF_DESCRIPTORS)
            self.shared.emit(Event.ACCEPT_PAUSED, rule=self.entry.row.rule.name, error=str(error))
        self._short = self._pausing = True
        self.shared.reactor.schedule(self, self.shared.reactor.now_s + _ACCEPT_RETRY_S)
        return True
