"""UDP checks against real members on loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from asynclb.health import OutcomeKind, UdpProbe
from asynclb.health.sockets import Sockets
from asynclb.lab import PATIENCE_S
from asynclb.model import Probe, ProbeProtocol, Reason
from tests.ports import free_port

Answer = Callable[[bytes], bytes | None]
HERE = IPv4Address("127.0.0.1")


class UdpMember:
    """Answers each datagram as a function says, on a plain socket, which also carries empty datagrams."""

    def __init__(self, host: str, answer: Answer) -> None:
        self.received: list[bytes] = []
        self._answer = answer
        self._sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        self._sock.bind((host, 0))
        self.port = int(self._sock.getsockname()[1])
        asyncio.get_running_loop().add_reader(self._sock, self._reply)

    def _reply(self) -> None:
        data, peer = self._sock.recvfrom(65_535)
        self.received.append(data)
        answer = self._answer(data)
        if answer is not None:
            self._sock.sendto(answer, peer)

    def close(self) -> None:
        """Stop answering."""
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()


@pytest.fixture
async def member() -> AsyncIterator[Callable[[Answer, str], UdpMember]]:
    """Opens UDP members that are closed after the test."""
    members: list[UdpMember] = []

    def start(answer: Answer, host: str) -> UdpMember:
        members.append(UdpMember(host, answer))
        return members[-1]

    yield start
    for each in members:
        each.close()


Start = Callable[[Answer, str], UdpMember]


def probe(port: int, send: bytes = b"ping", expect: bytes | None = None, **more: object) -> Probe:
    """Return a UDP probe with a timeout that is not reached."""
    fields: dict[str, object] = {"timeout_s": PATIENCE_S, **more}
    return Probe("p", ProbeProtocol.UDP, port, send=send, expect=expect, **fields)  # type: ignore[arg-type]  # any field


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("payload", [b"ping", b"", b"x" * 9000])
async def test_any_answer(member: Start, sockets: Sockets, host: str, payload: bytes) -> None:
    """A member that answers anything, even an empty datagram to an empty one, is healthy."""
    echo = member(lambda data: data, host)
    outcome = await UdpProbe().check(ip_address(host), probe(echo.port, payload), sockets)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.SUCCESS, Reason.UP_PROBE_SUCCESS)
    assert not outcome.decisive
    assert echo.received == [payload]


@pytest.mark.parametrize(
    ("answer", "healthy"), [(b"pong", True), (b"pong and more", True), (b"pon", False), (b"", False), (b"PONG", False)]
)
async def test_expected_prefix(member: Start, sockets: Sockets, answer: bytes, healthy: bool) -> None:
    """An answer has to start with what is expected; the detail of a failure shows both."""
    server = member(lambda _: answer, "127.0.0.1")
    outcome = await UdpProbe().check(HERE, probe(server.port, expect=b"pong"), sockets)
    if healthy:
        assert outcome.kind is OutcomeKind.SUCCESS
    else:
        assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILURE, Reason.DOWN_PROBE_UDP_MISMATCH)
        assert outcome.detail.endswith(f"answered {answer.hex() or 'nothing'}, expected 706f6e67")


async def test_silence(member: Start, sockets: Sockets) -> None:
    """A member that does not answer is a timeout."""
    silent = member(lambda _: None, "127.0.0.1")
    outcome = await UdpProbe().check(HERE, probe(silent.port, timeout_s=0.1), sockets)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.TIMEOUT, Reason.DOWN_PROBE_UDP_NO_RESPONSE)


@pytest.mark.parametrize("payload", [b"ping", b""])
async def test_port_unreachable_fails_at_once(sockets: Sockets, payload: bytes) -> None:
    """A closed port answers with ICMP, which ends the check without waiting for its timeout."""
    closed = probe(free_port(), payload, timeout_s=2 * PATIENCE_S)
    outcome = await asyncio.wait_for(UdpProbe().check(HERE, closed, sockets), PATIENCE_S)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILURE, Reason.DOWN_PROBE_UDP_UNREACHABLE)


async def test_answer_of_a_stranger_is_ignored(sockets: Sockets) -> None:
    """Only the member's own datagrams count: an answer from another port does not make it healthy."""
    loop = asyncio.get_running_loop()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        asked.setblocking(False)
        asked.bind(("127.0.0.1", 0))
        loop.add_reader(asked, lambda: stranger.sendto(b"pong", asked.recvfrom(100)[1]))
        outcome = await UdpProbe().check(HERE, probe(asked.getsockname()[1], timeout_s=0.1), sockets)
        loop.remove_reader(asked)
    assert outcome.kind is OutcomeKind.TIMEOUT


async def test_payload_too_big(sockets: Sockets) -> None:
    """A payload that no datagram can carry is a failure that says so."""
    outcome = await UdpProbe().check(HERE, probe(9, b"x" * 70_000), sockets)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILURE, Reason.DOWN_PROBE_UNREACHABLE)
    assert "message too long" in outcome.detail


async def test_source_address(member: Start, sockets: Sockets) -> None:
    """A UDP probe leaves from its source address, or says that this host does not have it."""
    server = member(lambda data: data, "127.0.0.1")
    from_here = probe(server.port, source_address_v4=IPv4Address("127.9.8.7"))
    assert (await UdpProbe().check(HERE, from_here, sockets)).kind is OutcomeKind.SUCCESS
    from_nowhere = probe(server.port, source_address_v6=IPv6Address("2001:db8::99"))
    outcome = await UdpProbe().check(IPv6Address("::1"), from_nowhere, sockets)
    assert outcome.reason is Reason.DOWN_PROBE_SOURCE_ADDRESS
