"""The TCP relay: bytes between two sockets, both ways, as if there were one connection.

A relay has two ends. Bytes read from one end are written to the other at once; what the other end does not take
waits in its backlog, and nothing more is read until it is gone. So memory per direction is bounded by one read,
and a slow reader slows the writer down, as TCP itself would.

Laws:
  1. Half-close is relayed: an end's FIN becomes a FIN to the other end, after everything that was read before it.
  2. A reset is relayed as a reset; what was in flight is lost, as it would be without a balancer.
  3. The relay is over when both ends have sent their FIN and everything is written.
  4. Both sockets are retired exactly once, and `on_over` is called exactly once.
"""

import socket
from collections.abc import Callable
from enum import StrEnum

from asynclb.datapath.proxy.ledger import Meter
from asynclb.datapath.proxy.pipes import Pipe, Pipes
from asynclb.datapath.proxy.reactor import ERROR, HUNG_UP, READABLE, WRITABLE, Reactor
from asynclb.datapath.proxy.sockets import reset_on_close, vanish_on_close

_READ_BYTES = 256 * 1024
"""One read. Larger reads mean fewer system calls in bulk; beyond 256 KiB nothing was gained (tests/bench)."""

_ROUNDS = 4
"""Full reads in a row before another flow has its turn: 1 MiB, well under 1 ms."""

_BULK_BYTES = 64 * 1024
"""Less than this between two waits is no bulk: a pipe costs two system calls more than copying."""

_BUFFER = bytearray(_READ_BYTES)  # one for all: it holds nothing between two calls of a handler
_VIEW = memoryview(_BUFFER)


class Ending(StrEnum):
    """How a relay ended."""

    FINISHED = "finished"
    RESET = "reset"
    IDLE = "idle"
    DRAINED = "drained"
    MEMBER_DOWN = "member_down"
    STOPPED = "stopped"
    REMOVED = "removed"
    MOVED = "moved"


class End:
    """One socket of a relay and what waits to be written to it. Owner: its relay."""

    __slots__ = ("at_end", "backlog", "bytes", "hung_up", "member_meter", "peer", "pipe", "relay", "rule_meter", "sock")

    peer: "End"

    def __init__(self, relay: "Relay", sock: socket.socket, rule_meter: Meter, member_meter: Meter) -> None:
        self.relay = relay
        self.sock = sock
        self.rule_meter = rule_meter
        self.member_meter = member_meter
        self.bytes = 0
        self.backlog: bytes | memoryview | Pipe | None = None
        self.pipe: Pipe | None = None  # while a lot comes from this end at a time
        self.at_end = False  # its FIN has been read
        self.hung_up = False  # a FIN or an error waits behind the bytes, so a short read proves nothing

    def on_events(self, events: int) -> None:
        """Serve an edge: write what waits, then read what came."""
        if events & HUNG_UP:
            self.hung_up = True
            if events & ERROR and (self.at_end or self.peer.backlog is not None):
                self.relay.reset(Ending.RESET)  # nothing will be read here that could tell
                return
        if events & WRITABLE and self.backlog is not None:
            self.flush()
        if events & READABLE and not self.relay.over:
            self.pump()

    def pump(self) -> None:
        """Move bytes from this end to its peer until there are none, the peer is full, or the turn is over."""
        relay = self.relay
        if self.peer.backlog is not None or self.at_end or relay.over:
            return
        relay.active_s = relay.reactor.now_s
        try:
            unfinished = self._copy() if self.pipe is None else self._splice(self.pipe)
        except OSError:
            relay.reset(Ending.RESET)
            return
        if unfinished:
            relay.reactor.again(self.pump)

    def _copy(self) -> bool:
        """Move bytes by way of the buffer; return whether there may be more. Raises: OSError -> an end is broken."""
        peer, receive, send = self.peer, self.sock.recv_into, self.peer.sock.send
        for _ in range(_ROUNDS):
            try:
                count = receive(_BUFFER)
            except BlockingIOError:
                return False
            if not count:
                self._finish_reading()
                return False
            self._count(count)
            sent = _send_some(send, _VIEW[:count])
            if sent < count:
                peer.backlog = bytes(_VIEW[sent:count])
                return False
            if count == _READ_BYTES:
                return self._begin_bulk()
            if not self.hung_up:
                return False
        return True

    def _begin_bulk(self) -> bool:
        """Use a pipe from here on, if there is one to be had; there is more to move either way."""
        if self.relay.pipes is not None:
            self.pipe = self.relay.pipes.borrow()
        return True

    def _splice(self, pipe: Pipe) -> bool:
        """Move bytes by way of the pipe, and give it back when little comes at a time; return and raise as `_copy`."""
        moved = 0
        for _ in range(_ROUNDS):
            try:
                count = pipe.fill(self.sock)
            except BlockingIOError:
                if moved < _BULK_BYTES:
                    self.give_back_pipe()
                return False
            if not count:
                self.give_back_pipe()
                self._finish_reading()
                return False
            moved += count
            self._count(count)
            pipe.drain(self.peer.sock)
            if pipe.waiting:
                self.peer.backlog = pipe
                return False
        return True

    def flush(self) -> None:
        """Write the backlog; when it is gone, relay the FIN that waited behind it or read on."""
        backlog = self.backlog
        if backlog is None or self.relay.over:
            return
        try:
            self.backlog = self._written(backlog)
        except OSError:
            self.relay.reset(Ending.RESET)
            return
        self.relay.active_s = self.relay.reactor.now_s
        if self.backlog is None and self.peer.at_end:
            self.send_fin()
        elif self.backlog is None:
            self.peer.pump()

    def give_back_pipe(self) -> None:
        """Return to copying."""
        if self.pipe is not None and self.relay.pipes is not None:
            self.relay.pipes.give_back(self.pipe)
        self.pipe = None

    def _written(self, backlog: bytes | memoryview | Pipe) -> memoryview | Pipe | None:
        """Write a backlog and return what is left of it. Raises: OSError -> this end is broken."""
        if isinstance(backlog, Pipe):
            backlog.drain(self.sock)
            return backlog if backlog.waiting else None
        sent = _send_some(self.sock.send, backlog)
        return memoryview(backlog)[sent:] if sent < len(backlog) else None

    def _count(self, count: int) -> None:
        self.bytes += count
        self.rule_meter.bytes += count
        self.member_meter.bytes += count

    def _finish_reading(self) -> None:
        self.at_end = True
        if self.peer.backlog is None:
            self.peer.send_fin()

    def send_fin(self) -> None:
        """Relay the peer's FIN, or end the relay if this was the second one."""
        if self.at_end and self.backlog is None and self.peer.backlog is None:
            self.relay.finish()
            return
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.relay.reset(Ending.RESET)


def _send_some(send: Callable[[bytes | memoryview], int], data: bytes | memoryview) -> int:
    """Return how many bytes the kernel took, 0 when its buffer is full."""
    try:
        return send(data)
    except BlockingIOError:
        return 0


class Relay:
    """Two ends that are connected to each other. Owner: the TCP frontend that accepted it."""

    __slots__ = ("active_s", "client", "member", "on_over", "over", "pipes", "reactor")

    def __init__(
        self,
        reactor: Reactor,
        client: socket.socket,
        member: socket.socket,
        meters: tuple[Meter, Meter, Meter, Meter],
        on_over: Callable[[Ending], None],
        pipes: Pipes | None = None,
    ) -> None:
        """Join two connected sockets that the reactor watches already.

        `meters`: rule in, member in, rule out, member out. Without `pipes` everything is copied.
        """
        self.pipes = pipes
        self.reactor = reactor
        self.on_over = on_over
        self.over = False
        self.active_s = reactor.now_s
        self.client = End(self, client, meters[0], meters[1])
        self.member = End(self, member, meters[2], meters[3])
        self.client.peer, self.member.peer = self.member, self.client

    def start(self, header: bytes, hung_up: tuple[bool, bool]) -> None:
        """Take over the sockets' events and move what has come already; `header` goes to the member first.

        `hung_up`: whether the client's and the member's hang-up has been seen; that edge does not come again.
        """
        self.client.hung_up, self.member.hung_up = hung_up
        self.reactor.hand_over(self.client.sock, self.client.on_events)
        self.reactor.hand_over(self.member.sock, self.member.on_events)
        if header:
            self.member.backlog = header
            self.member.flush()
        self.client.pump()
        self.member.pump()

    def finish(self) -> None:
        """End in order: both FINs are sent or go out with the close."""
        self._end(Ending.FINISHED)

    def reset(self, ending: Ending) -> None:
        """End with a reset to both ends."""
        if not self.over:
            reset_on_close(self.client.sock)
            reset_on_close(self.member.sock)
        self._end(ending)

    def vanish(self, ending: Ending) -> None:
        """End without a word to either end, as a packet balancer forgets a flow."""
        if not self.over:
            vanish_on_close(self.client.sock)
            vanish_on_close(self.member.sock)
        self._end(ending)

    def _end(self, ending: Ending) -> None:
        if self.over:
            return
        self.over = True
        self.reactor.retire(self.client.sock)
        self.reactor.retire(self.member.sock)
        for end in (self.client, self.member):
            end.backlog = None
            end.give_back_pipe()
        self.on_over(ending)
