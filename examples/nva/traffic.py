"""Flows from one spoke to the other that ask and are answered: TCP, UDP, fragmented UDP, ping, SCTP, GRE and ESP.

A flow goes on for as long as the example runs. What it sends has a number, and comes back as it was.
"""

import asyncio
import os
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product

import sctp
from hub import SERVICE_PORT, FlowKey, Hub, addresses

from asynclb.lab import Host

GRE, ESP = 47, 50
ANSWER_S = 1.0  # what comes back later was lost, or waited for a busy machine
TRIES = 3
PATIENCE_S = 0.9  # for a new flow's first answer: less than a repeated SYN takes
PERIOD_S = 1.0  # between two questions of a flow
SMALL, FRAGMENTED = 64, 4000  # bytes of a question; the second takes three fragments on a wire of 1,500

Answer = Callable[[bytes, str], bytes | None]
"""From what was asked, and by whom, to what is sent back."""


def family_of(address: str) -> socket.AddressFamily:
    """Return the address family."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Service:
    """One socket of a host that answers. Owner: the traffic."""

    def __init__(self, host: Host, address: str, kind: int, protocol: int, answer: Answer) -> None:
        family = family_of(address)
        self._sock = host.open_socket(family, kind, protocol)
        self._sock.setblocking(False)
        self._sock.bind((address, 0 if kind == socket.SOCK_RAW else SERVICE_PORT))
        self._header = kind == socket.SOCK_RAW and family == socket.AF_INET
        self._answer = answer
        asyncio.get_running_loop().add_reader(self._sock, self._serve)

    def _serve(self) -> None:
        with suppress(BlockingIOError):
            while True:
                data, peer = self._sock.recvfrom(65536)
                reply = self._answer(_payload(data) if self._header else data, peer[0])
                if reply is not None:
                    self._sock.sendto(reply, peer)

    def close(self) -> None:
        """Stop answering."""
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()


def _payload(packet: bytes) -> bytes:
    """Return what an IPv4 packet carries; a raw socket gives the header along."""
    return packet[4 * (packet[0] & 15) :]


def _echo(data: bytes, _: str) -> bytes:
    return data


def services(hub: Hub) -> list[Service]:
    """Start everything that answers, but for TCP and ping, which the hosts do themselves."""
    started = []
    for spoke, host in enumerate(hub.hosts, start=1):
        for address in addresses(spoke, 4) + addresses(spoke, 6):
            started.append(Service(host, address, socket.SOCK_DGRAM, 0, _echo))
            if spoke == 2:
                started += [Service(host, address, socket.SOCK_RAW, number, _echo) for number in (GRE, ESP)]
                started.append(Service(host, address, socket.SOCK_RAW, sctp.PROTOCOL, sctp.Answerer().answer))
    return started


@dataclass(slots=True)
class Flow:
    """What all flows share. Owner: the task that keeps it going."""

    host: Host
    source: str
    destination: str
    kind: str = ""
    size: int = SMALL
    key: FlowKey | None = None
    number: int = 0
    repeated: int = 0

    async def open(self) -> None:
        """Get ready to ask. Raises: OSError, TimeoutError -> the other end does not answer."""

    async def ask(self) -> None:
        """Ask once and wait for the answer. Raises: OSError, TimeoutError -> there is none."""
        raise NotImplementedError

    def close(self) -> None:
        """Give up what the flow holds."""

    def question(self) -> bytes:
        """Return the next question, unlike any other."""
        self.number += 1
        return struct.pack("!I", self.number) + os.urandom(self.size - 4)


@dataclass(slots=True)
class TcpFlow(Flow):
    """A connection."""

    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        self.reader, self.writer = await self.host.connect(
            self.destination, SERVICE_PORT, source=(self.source, 0), timeout_s=TRIES * ANSWER_S
        )
        port = self.writer.get_extra_info("sockname")[1]
        self.key = FlowKey(socket.IPPROTO_TCP, self.source, port, self.destination, SERVICE_PORT)

    async def ask(self) -> None:
        if self.reader is None or self.writer is None:
            raise ConnectionError("it is not open")
        question = self.question()
        self.writer.write(question)
        async with asyncio.timeout(TRIES * ANSWER_S):
            answer = await self.reader.readexactly(len(question))
        if answer != question:
            raise ConnectionError("what came back is not what was sent")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()


@dataclass(slots=True)
class DatagramFlow(Flow):
    """A connected socket whose datagrams are questions and answers."""

    protocol: int = socket.IPPROTO_UDP
    sock: socket.socket | None = None

    def connect(self, kind: int, socket_protocol: int, port: int) -> int:
        """Open the socket and return its own port."""
        self.close()
        self.sock = self.host.open_socket(family_of(self.source), kind, socket_protocol)
        self.sock.setblocking(False)
        self.sock.bind((self.source, 0))
        self.sock.connect((self.destination, port))
        own: int = self.sock.getsockname()[1]
        return own

    async def open(self) -> None:
        own = self.connect(socket.SOCK_DGRAM, 0, SERVICE_PORT)
        self.key = FlowKey(self.protocol, self.source, own, self.destination, SERVICE_PORT)

    def wire(self, question: bytes) -> bytes:
        """Return the packet that carries a question."""
        return question

    def carried(self, packet: bytes) -> bytes:
        """Return what an answer carries."""
        return packet

    async def exchange(self, packet: bytes, fits: Callable[[bytes], bool]) -> bytes:
        """Send a packet until an answer fits, and return that."""
        if self.sock is None:
            raise ConnectionError("it is not open")
        loop = asyncio.get_running_loop()
        for tried in range(TRIES):
            self.repeated += tried > 0
            self.sock.send(packet)
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    while not fits(answer := await loop.sock_recv(self.sock, 65536)):
                        pass
                    return answer
        raise TimeoutError(f"no answer to {TRIES} questions")

    async def ask(self) -> None:
        question = self.question()
        await self.exchange(self.wire(question), lambda answer: self.carried(answer) == question)

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None


@dataclass(slots=True)
class PingFlow(DatagramFlow):
    """An ICMP or ICMPv6 echo with an id of its own; the other host's kernel answers."""

    async def open(self) -> None:
        v6 = family_of(self.source) == socket.AF_INET6
        self.protocol = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
        identifier = self.connect(socket.SOCK_DGRAM, self.protocol, 0)
        self.key = FlowKey(self.protocol, self.source, identifier, self.destination, 0)

    def wire(self, question: bytes) -> bytes:
        kind = 128 if self.protocol == socket.IPPROTO_ICMPV6 else 8
        return struct.pack("!BBHHH", kind, 0, 0, 0, self.number & 0xFFFF) + question

    def carried(self, packet: bytes) -> bytes:
        return packet[8:]


@dataclass(slots=True)
class RawFlow(DatagramFlow):
    """Packets of a protocol that the hosts' kernels need not know; one flow for each pair of addresses."""

    async def open(self) -> None:
        self.connect(socket.SOCK_RAW, self.protocol, 0)
        self.key = FlowKey(self.protocol, self.source, 0, self.destination, 0)

    def wire(self, question: bytes) -> bytes:
        if self.protocol == GRE:  # a key (RFC 2890), and Ethernet inside
            return struct.pack("!HHI", 0x2000, 0x6558, 0x1000) + question
        return struct.pack("!II", 0x1000, self.number) + question  # ESP: SPI and sequence number

    def carried(self, packet: bytes) -> bytes:
        return (_payload(packet) if family_of(self.source) == socket.AF_INET else packet)[8:]


@dataclass(slots=True)
class SctpFlow(RawFlow):
    """An association."""

    port: int = 0
    tag: int = 0

    async def open(self) -> None:
        self.connect(socket.SOCK_RAW, sctp.PROTOCOL, 0)
        self.port = random.randrange(20000, 60000)
        self.key = FlowKey(sctp.PROTOCOL, self.source, self.port, self.destination, SERVICE_PORT)
        self.tag = 0
        accepted = await self._exchange(sctp.INIT, sctp.init(random.randrange(1, 1 << 32)), sctp.INIT_ACK)
        self.tag = sctp.initiate_tag(accepted.value)
        await self._exchange(sctp.COOKIE_ECHO, b"cookie00", sctp.COOKIE_ACK)

    async def ask(self) -> None:
        question = self.question()
        answer = await self._exchange(sctp.DATA, sctp.data(self.number, question), sctp.DATA)
        if sctp.body(answer.value) != question:
            raise ConnectionError("what came back is not what was sent")

    async def _exchange(self, kind: int, value: bytes, wanted: int) -> sctp.Packet:
        def fits(packet: bytes) -> bool:
            answer = self._read(packet)
            same = wanted != sctp.DATA or answer.value[:4] == value[:4]
            return answer.destination_port == self.port and answer.kind == wanted and same

        packet = sctp.Packet(self.port, SERVICE_PORT, self.tag, kind, value).wire()
        return self._read(await self.exchange(packet, fits))

    def _read(self, packet: bytes) -> sctp.Packet:
        return sctp.read(_payload(packet) if family_of(self.source) == socket.AF_INET else packet)


KINDS = {"tcp": 200, "udp": 150, "fragments": 25, "ping": 50, "sctp": 25, "gre": 25, "esp": 25}
"""How many flows of a kind there are in each address family: 1,000 in all."""


def mixed_flows(hub: Hub) -> Iterator[Flow]:
    """Return the flows of the example. Half of those that may are begun from the second spoke."""
    for version, (kind, count) in product((4, 6), KINDS.items()):
        ends = [addresses(spoke, version) for spoke in (1, 2)]
        pairs = list(product(*ends))
        random.shuffle(pairs)
        for number in range(count):
            source, destination = pairs[number % len(pairs)]
            host = hub.hosts[0]
            if number % 2 and kind in {"tcp", "udp", "fragments", "ping"}:
                host, source, destination = hub.hosts[1], destination, source
            yield _make(kind, host, source, destination)


def _make(kind: str, host: Host, source: str, destination: str) -> Flow:
    if kind == "tcp":
        return TcpFlow(host, source, destination, kind)
    if kind == "ping":
        return PingFlow(host, source, destination, kind)
    if kind == "sctp":
        return SctpFlow(host, source, destination, kind)
    if kind in {"gre", "esp"}:
        return RawFlow(host, source, destination, kind, protocol=GRE if kind == "gre" else ESP)
    return DatagramFlow(host, source, destination, kind, size=FRAGMENTED if kind == "fragments" else SMALL)


@dataclass(frozen=True, slots=True)
class Loss:
    """A question without an answer. Units: `at_s` monotonic seconds, when it was asked."""

    key: FlowKey
    kind: str
    at_s: float
    why: str


@dataclass(slots=True)
class Traffic:
    """Many flows at once. Owner: the task that runs them."""

    flows: list[Flow]
    answered: Counter[str] = field(default_factory=Counter)
    losses: list[Loss] = field(default_factory=list)

    @property
    def repeated(self) -> int:
        """How many questions were sent again."""
        return sum(flow.repeated for flow in self.flows)

    async def open(self, at_once: int = 50) -> None:
        """Open all flows and ask each of them once. Raises: OSError, TimeoutError -> one is not answered."""
        room = asyncio.Semaphore(at_once)

        async def begin(flow: Flow) -> None:
            async with room:
                try:
                    await flow.open()
                    await flow.ask()
                except (OSError, TimeoutError) as error:
                    raise type(error)(f"{flow.kind} {flow.source} > {flow.destination}: {error}") from error
                self.answered[flow.kind] += 1

        async with asyncio.TaskGroup() as tasks:
            for flow in self.flows:
                tasks.create_task(begin(flow))

    async def try_once(self, patience_s: float) -> int:
        """Open every flow and ask it once, all at the same time; return how many were answered."""

        async def one(flow: Flow) -> bool:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(patience_s):
                    await flow.open()
                    await flow.ask()
                    return True
            return False

        answered = sum(await asyncio.gather(*(one(flow) for flow in self.flows)))
        self.close()
        return answered

    async def run(self) -> None:
        """Keep all flows going until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for flow in self.flows:
                tasks.create_task(self._keep(flow))

    async def _keep(self, flow: Flow) -> None:
        """Ask once a period; a flow that is not answered is noted and begun anew, as a client would."""
        await asyncio.sleep(random.random() * PERIOD_S)
        while True:
            start_s = time.monotonic()
            try:
                await flow.ask()
                self.answered[flow.kind] += 1
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                if flow.key is not None:
                    self.losses.append(Loss(flow.key, flow.kind, start_s, f"{type(error).__name__}: {error}"))
                flow.close()
                with suppress(OSError, TimeoutError):  # it is noted when the next question fails
                    await flow.open()
            await asyncio.sleep(max(0.0, PERIOD_S - (time.monotonic() - start_s)))

    def close(self) -> None:
        """Close all flows."""
        for flow in self.flows:
            flow.close()


@dataclass(frozen=True, slots=True)
class Try:
    """One new flow: when it was begun, and whether it was answered at once. Units: monotonic seconds."""

    key: FlowKey
    at_s: float
    answered: bool


class NewFlows:
    """Begins a flow every few milliseconds, TCP and UDP in turn, over IPv4 and IPv6. Owner: the task that runs it."""

    def __init__(self, hub: Hub, interval_s: float = 0.025) -> None:
        self.tries: list[Try] = []
        self._hub = hub
        self._interval_s = interval_s

    async def run(self) -> None:
        """Begin flows until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for version, kind in product((4, 6), ("tcp", "udp")):
                    ends = [random.choice(addresses(spoke, version)) for spoke in (1, 2)]
                    tasks.create_task(self._try(_make(kind, self._hub.hosts[0], *ends)))
                    await asyncio.sleep(self._interval_s)

    async def _try(self, flow: Flow) -> None:
        start_s, answered = time.monotonic(), False
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(PATIENCE_S):
                    await flow.open()
                    await flow.ask()
                    answered = True
        finally:
            flow.close()
        key = flow.key or FlowKey(0, flow.source, 0, flow.destination, 0)
        self.tries.append(Try(key, start_s, answered))
