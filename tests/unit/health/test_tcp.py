"""TCP checks against real members on loopback."""

import asyncio
import errno
import resource
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from asynclb.health import OutcomeKind, TcpProbe
from asynclb.health.sockets import LINGER_BYTES, Sockets, sockaddr
from asynclb.lab import PATIENCE_S
from asynclb.model import Probe, ProbeProtocol, Reason
from tests.ports import free_port
from tests.unit.health.conftest import Street

HERE = IPv4Address("127.0.0.1")


def probe(port: int, **more: object) -> Probe:
    """Return a TCP probe with a timeout that is not reached."""
    fields: dict[str, object] = {"timeout_s": PATIENCE_S, **more}
    return Probe("p", ProbeProtocol.TCP, port, **fields)  # type: ignore[arg-type]  # any field


async def until_closed(sockets: Sockets) -> None:
    """Wait until every connection has ended."""
    async with asyncio.timeout(PATIENCE_S):
        while sockets.retired:
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_handshake_is_success_and_close_is_orderly(street: Street, sockets: Sockets, host: str) -> None:
    """A member that accepts is healthy and sees our FIN, not a reset."""
    ends: list[bytes] = []
    ended = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        ends.append(await reader.read())
        ended.set()

    port = await street.member(talk, host=host)
    outcome = await TcpProbe().check(ip_address(host), probe(port), sockets)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.SUCCESS, Reason.UP_PROBE_SUCCESS)
    await asyncio.wait_for(ended.wait(), PATIENCE_S)
    assert ends == [b""]
    await until_closed(sockets)


async def test_banner_is_read_and_not_reset(street: Street, sockets: Sockets) -> None:
    """A member that greets, and goes on writing after our FIN, can write everything and closes in order."""
    errors: list[OSError] = []
    ended = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"220 hello\r\n")
            assert await reader.read() == b""
            for _ in range(3):
                writer.write(b"still here\r\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        except OSError as error:
            errors.append(error)
        writer.close()
        await writer.wait_closed()
        ended.set()

    port = await street.member(talk)
    assert (await TcpProbe().check(HERE, probe(port), sockets)).kind is OutcomeKind.SUCCESS
    await asyncio.wait_for(ended.wait(), PATIENCE_S)
    await until_closed(sockets)
    assert errors == []


async def test_member_that_sends_forever_is_bounded(street: Street, sockets: Sockets) -> None:
    """A member that never stops writing is healthy, and is cut off after a bounded number of bytes."""
    sent = 0

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        while True:
            writer.write(b"z" * 4096)
            await writer.drain()
            sent += 4096
            await asyncio.sleep(0)

    port = await street.member(talk)
    assert (await TcpProbe().check(HERE, probe(port), sockets)).kind is OutcomeKind.SUCCESS
    await until_closed(sockets)
    assert sent < 64 * LINGER_BYTES  # what the kernel's buffers hold comes on top


async def test_member_that_never_closes_is_left(
    street: Street, sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that keeps its side open is healthy; our socket is gone after the linger time."""
    monkeypatch.setattr("asynclb.health.sockets.LINGER_S", 0.05)
    monkeypatch.setattr("asynclb.health.sockets._SWEEP_S", 0.01)

    async def talk(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    port = await street.member(talk)
    assert (await TcpProbe().check(HERE, probe(port), sockets)).kind is OutcomeKind.SUCCESS
    assert sockets.retired == 1
    await until_closed(sockets)


async def test_closed_port_is_refused_at_once(sockets: Sockets) -> None:
    """A closed port is a failure, not a timeout, and the detail names the address."""
    port = free_port()
    outcome = await TcpProbe().check(HERE, probe(port), sockets)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILURE, Reason.DOWN_PROBE_TCP_REFUSED)
    assert outcome.detail == f"127.0.0.1:{port}: connection refused"
    assert not outcome.decisive


async def test_silence_is_a_timeout(sockets: Sockets) -> None:
    """A member whose accept queue is full does not answer the handshake: timeout, and no socket stays open."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            assert filler.connect_ex(("127.0.0.1", port)) in (0, errno.EINPROGRESS)
        outcome = await TcpProbe().check(HERE, probe(port, timeout_s=0.15), sockets)
        for filler in fillers:
            filler.close()
    assert (outcome.kind, outcome.reason) == (OutcomeKind.TIMEOUT, Reason.DOWN_PROBE_TCP_TIMEOUT)
    assert outcome.detail == f"127.0.0.1:{port}: no connection within 0.15 s"


async def test_source_address_is_used(street: Street, sockets: Sockets) -> None:
    """The member sees the probe's source address."""
    seen: list[str] = []
    ended = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername")[0])
        await reader.read()
        ended.set()

    port = await street.member(talk)
    source = IPv4Address("127.9.8.7")
    await TcpProbe().check(HERE, probe(port, source_address_v4=source), sockets)
    await asyncio.wait_for(ended.wait(), PATIENCE_S)
    assert seen == ["127.9.8.7"]


@pytest.mark.parametrize(
    ("address", "field", "source"),
    [("127.0.0.1", "source_address_v4", "192.0.2.1"), ("::1", "source_address_v6", "2001:db8::99")],
)
async def test_source_address_of_nobody(sockets: Sockets, address: str, field: str, source: str) -> None:
    """A source address that this host does not have is a failure that says what to do."""
    outcome = await TcpProbe().check(ip_address(address), probe(80, **{field: ip_address(source)}), sockets)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILURE, Reason.DOWN_PROBE_SOURCE_ADDRESS)
    assert outcome.detail == f"source address {source} is not on this host; add it to an interface or remove {field}"


async def test_no_descriptor_left_says_nothing_of_the_member(street: Street, sockets: Sockets) -> None:
    """Out of descriptors, a check is an error of this host."""

    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    port = await street.member(talk)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        outcome = await TcpProbe().check(HERE, probe(port), sockets)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (outcome.kind, outcome.reason) == (OutcomeKind.ERROR, Reason.NA)
    assert "too many open files" in outcome.detail


async def test_unreachable_member(sockets: Sockets) -> None:
    """A link-local member on an interface that is not there is unreachable, not an exception."""
    outcome = await TcpProbe().check(IPv6Address("fe80::1%nowhere0"), probe(80), sockets)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.FAILURE, Reason.DOWN_PROBE_UNREACHABLE)


async def test_cancelled_check_leaves_no_socket(sockets: Sockets) -> None:
    """Cancelling a check that waits for a handshake closes its socket (a leak would be a ResourceWarning)."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.create_connection(("127.0.0.1", port))]
        checks = [asyncio.create_task(TcpProbe().check(HERE, probe(port), sockets)) for _ in range(3)]
        await asyncio.sleep(0.01)
        for check in checks:
            check.cancel()
        await asyncio.gather(*checks, return_exceptions=True)
        fillers[0].close()
    assert checks[-1].cancelled()


def test_sockaddr_of_a_zone() -> None:
    """A link-local address carries its interface as a number."""
    assert sockaddr(IPv6Address("fe80::1%lo"), 80) == ("fe80::1", 80, 0, socket.if_nametoindex("lo"))
    assert sockaddr(IPv6Address("fe80::1%7"), 80) == ("fe80::1", 80, 0, 7)
    assert sockaddr(IPv4Address("10.0.0.1"), 80) == ("10.0.0.1", 80)
