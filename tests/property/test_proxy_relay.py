"""The relay under any interleaving: what one end sent and ended is what the other end gets, to the byte."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from asynclb.datapath.proxy.ledger import Meter
from asynclb.datapath.proxy.pipes import Pipes
from asynclb.datapath.proxy.reactor import Reactor
from asynclb.datapath.proxy.relay import Ending, Relay
from tests.unit.proxy.wire import Wire

SIZES = st.sampled_from([1, 2, 100, 1460, 16384, 70_000, 300_000])
STEPS = st.lists(st.tuples(st.booleans(), st.sampled_from(["send", "read", "fin", "turn"]), SIZES), max_size=25)


@contextmanager
def pair(listener: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect two sockets by TCP, with small buffers so that they fill up soon."""
    near = socket.create_connection(listener.getsockname())
    far, _ = listener.accept()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
    with near, far:
        yield near, far


class Side:
    """What one end sent and got. Owner: a test."""

    def __init__(self, wire: Wire, start: int) -> None:
        self.wire = wire
        self.sent = bytearray()
        self.got = bytearray()
        self.ended = False
        self._next = start

    def send(self, size: int) -> None:
        """Send what the kernel takes of so many bytes; they differ, so that none can be lost or doubled unseen."""
        if self.ended:
            return
        data = bytes((self._next + i) % 251 for i in range(size))
        try:
            count = self.wire.sock.send(data)
        except BlockingIOError:
            return
        self.sent += data[:count]
        self._next += count

    def fin(self) -> None:
        """End this direction, once."""
        if not self.ended:
            self.ended = True
            self.wire.fin()

    def read(self, size: int) -> None:
        """Read what is there."""
        try:
            self.got += self.wire.sock.recv(size)
        except BlockingIOError:
            return


async def play(steps: list[tuple[bool, str, int]]) -> None:
    """Do the steps at both ends of a relay, then let both ends finish, and compare."""
    endings: list[Ending] = []
    reactor, pipes = Reactor(asyncio.get_running_loop()), Pipes()
    meters = (Meter(), Meter(), Meter(), Meter())
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener, pair(listener) as front, pair(listener) as back:
            client, inner_client, inner_member, member = front[0], front[1], back[0], back[1]
            for sock in (inner_client, inner_member):
                reactor.watch(sock, lambda _events: None)
            relay = Relay(reactor, inner_client, inner_member, meters, endings.append, pipes)
            relay.start(b"", (False, False))
            sides = (Side(Wire(client), 0), Side(Wire(member), 100))
            for at_member, step, size in steps:
                side = sides[at_member]
                match step:
                    case "send":
                        side.send(size)
                    case "read":
                        side.read(size)
                    case "fin":
                        side.fin()
                    case "turn":
                        await asyncio.sleep(0)
            for side in sides:
                side.fin()
            for side, rest in zip(sides, await asyncio.gather(*(side.wire.rest() for side in sides)), strict=True):
                side.got += rest
            assert sides[0].sent == sides[1].got
            assert sides[1].sent == sides[0].got
            assert [meter.bytes for meter in meters] == [len(sides[0].sent)] * 2 + [len(sides[1].sent)] * 2
            assert endings == [Ending.FINISHED]
    finally:
        reactor.close()
        pipes.close()


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_a_relay_is_one_connection(steps: list[tuple[bool, str, int]]) -> None:
    """Whatever is sent, read and ended in whatever order, each end gets what the other sent, and one ending is told."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play(steps))
