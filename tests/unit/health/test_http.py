"""HTTP and HTTPS checks against real members that answer, and that misbehave."""

import asyncio
import socket
import ssl
import struct
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from asynclb.health import HttpProbe, Outcome, OutcomeKind
from asynclb.health.sockets import Sockets
from asynclb.health.tls import server_name
from asynclb.lab import PATIENCE_S
from asynclb.model import Probe, ProbeProtocol, Reason, StatusRange
from tests.unit.health.conftest import Street, Talk

HERE = IPv4Address("127.0.0.1")
FAILURE, TIMEOUT, SUCCESS = OutcomeKind.FAILURE, OutcomeKind.TIMEOUT, OutcomeKind.SUCCESS


def probe(port: int, protocol: ProbeProtocol = ProbeProtocol.HTTP, **more: object) -> Probe:
    """Return a probe with a timeout that is not reached."""
    fields: dict[str, object] = {"timeout_s": PATIENCE_S, "path": "/healthz", **more}
    return Probe("p", protocol, port, **fields)  # type: ignore[arg-type]  # any field


def answering(answer: bytes, requests: list[bytes] | None = None) -> Talk:
    """Return a member that reads a request, answers, and closes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if requests is not None:
            requests.append(request)
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    return talk


async def ask(street: Street, sockets: Sockets, talk: Talk, **more: object) -> Outcome:
    """Check one member that behaves like `talk`."""
    return await HttpProbe().check(HERE, probe(await street.member(talk), **more), sockets)


@pytest.mark.parametrize("status", [200, 201, 204, 301, 404, 500, 503])
async def test_only_200_is_healthy(street: Street, sockets: Sockets, status: int) -> None:
    """Any status decides at once; exactly 200 means healthy."""
    outcome = await ask(street, sockets, answering(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status))
    healthy = status == 200
    assert outcome.kind is (SUCCESS if healthy else FAILURE)
    assert outcome.reason is (Reason.UP_PROBE_SUCCESS if healthy else Reason.DOWN_PROBE_HTTP_STATUS)
    assert outcome.decisive
    assert f"GET /healthz answered {status}" in outcome.detail


async def test_expected_status(street: Street, sockets: Sockets) -> None:
    """A probe may call other statuses healthy; the detail of a failure lists them."""
    expected = (StatusRange(200, 299), StatusRange(401, 401))
    fine = await ask(street, sockets, answering(b"HTTP/1.1 401 X\r\n\r\n"), expected_status=expected)
    wrong = await ask(street, sockets, answering(b"HTTP/1.1 302 X\r\n\r\n"), expected_status=expected)
    assert fine.kind is SUCCESS
    assert wrong.detail.endswith("GET /healthz answered 302, expected 200-299, 401")


async def test_request_on_the_wire(street: Street, sockets: Sockets) -> None:
    """The member reads one well-formed GET with the probe's path and Host."""
    requests: list[bytes] = []
    talk = answering(b"HTTP/1.1 200 OK\r\n\r\n", requests)
    await ask(street, sockets, talk, host="shop.example")
    assert requests == [
        (
            b"GET /healthz HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: asynclb\r\nAccept: */*\r\n"
            b"Connection: close\r\n\r\n"
        )
    ]


async def test_ipv6_member(street: Street, sockets: Sockets) -> None:
    """An IPv6 member is asked with its address in brackets."""
    requests: list[bytes] = []
    port = await street.member(answering(b"HTTP/1.1 200 OK\r\n\r\n", requests), host="::1")
    outcome = await HttpProbe().check(IPv6Address("::1"), probe(port), sockets)
    assert outcome.kind is SUCCESS
    assert b"\r\nHost: [::1]:%d\r\n" % port in requests[0]


async def accept_and_say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Accept, and never answer."""
    await reader.read()
    await asyncio.sleep(60)


async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer correctly, one octet every 20 ms."""
    for octet in b"HTTP/1.1 200 OK\r\nServer: slow\r\n\r\n":
        writer.write(bytes([octet]))
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("talk", [accept_and_say_nothing, drip])
async def test_no_answer_in_time(street: Street, sockets: Sockets, talk: Talk) -> None:
    """A member that accepts and does not finish an answer is a timeout, which only counts towards the threshold."""
    outcome = await ask(street, sockets, talk, timeout_s=0.2)
    assert (outcome.kind, outcome.reason) == (TIMEOUT, Reason.DOWN_PROBE_HTTP_NO_RESPONSE)
    assert not outcome.decisive
    assert outcome.detail.endswith("connected, but no answer within 0.2 s")


async def reset_in_the_middle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send half a header section, then a reset."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nServ")
    await writer.drain()
    await asyncio.sleep(0.01)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.parametrize("talk", [reset_in_the_middle, answering(b""), answering(b"HTTP/1.1 200 OK\r\nServ")])
async def test_broken_answer(street: Street, sockets: Sockets, talk: Talk) -> None:
    """A reset or a close before the header section is complete is no answer: it counts and does not decide."""
    outcome = await ask(street, sockets, talk)
    assert (outcome.kind, outcome.reason) == (FAILURE, Reason.DOWN_PROBE_HTTP_UNREACHABLE)
    assert not outcome.decisive


async def test_garbage(street: Street, sockets: Sockets) -> None:
    """A member that answers with another protocol is down at once, and the detail shows what it sent."""
    outcome = await ask(street, sockets, answering(b"SSH-2.0-OpenSSH_9.2\r\n"))
    assert (outcome.kind, outcome.reason) == (FAILURE, Reason.DOWN_PROBE_HTTP_INVALID)
    assert outcome.decisive
    assert "SSH-2.0" in outcome.detail


async def send_headers_forever(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a header section that does not end."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Filler: " + b"y" * 4000 + b"\r\n")
        await writer.drain()


async def test_endless_header(street: Street, sockets: Sockets) -> None:
    """A header section that does not end is given up at a bound, well before the timeout."""
    outcome = await ask(street, sockets, send_headers_forever)
    assert (outcome.kind, outcome.reason) == (FAILURE, Reason.DOWN_PROBE_HTTP_INVALID)


async def send_body_forever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer 200 with a body that does not end."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"z" * 4096)
        await writer.drain()


async def test_endless_body(street: Street, sockets: Sockets) -> None:
    """The body does not matter: a 200 with an endless one is healthy, and the connection ends all the same."""
    outcome = await ask(street, sockets, send_body_forever)
    assert outcome.kind is SUCCESS
    async with asyncio.timeout(PATIENCE_S):
        while sockets.retired:
            await asyncio.sleep(0.002)


async def test_refused(sockets: Sockets) -> None:
    """A closed port counts as a failure, without deciding."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        outcome = await HttpProbe().check(HERE, probe(sock.getsockname()[1]), sockets)
    assert (outcome.kind, outcome.reason) == (FAILURE, Reason.DOWN_PROBE_TCP_REFUSED)
    assert not outcome.decisive


async def ask_tls(street: Street, sockets: Sockets, tls: ssl.SSLContext | None, **more: object) -> Outcome:
    """Check a member that answers 200 over TLS (or plainly, without a context)."""
    port = await street.member(answering(b"HTTP/1.1 200 OK\r\n\r\n"), tls=tls)
    return await HttpProbe().check(HERE, probe(port, ProbeProtocol.HTTPS, **more), sockets)


async def test_self_signed_is_accepted(street: Street, sockets: Sockets, member_tls: ssl.SSLContext) -> None:
    """Without tls_verify any certificate will do."""
    outcome = await ask_tls(street, sockets, member_tls)
    assert (outcome.kind, outcome.decisive) == (SUCCESS, True)


async def test_verified_against_ca_file(
    street: Street, sockets: Sockets, member_tls: ssl.SSLContext, certificate: tuple[Path, Path]
) -> None:
    """With tls_verify the chain and the name are checked against the CA file."""
    ca_file = str(certificate[0])
    verify = {"tls_verify": True, "tls_ca_file": ca_file}
    assert (await ask_tls(street, sockets, member_tls, **verify, tls_server_name="member.test")).kind is SUCCESS
    assert (await ask_tls(street, sockets, member_tls, **verify, host="member.test:8443")).kind is SUCCESS
    for wrong in ({"tls_server_name": "other.test"}, {}):
        outcome = await ask_tls(street, sockets, member_tls, **verify, **wrong)
        assert (outcome.kind, outcome.reason) == (FAILURE, Reason.DOWN_PROBE_TLS)
        assert "certificate not accepted" in outcome.detail
        assert not outcome.decisive


async def test_self_signed_is_refused_when_verified(
    street: Street, sockets: Sockets, member_tls: ssl.SSLContext
) -> None:
    """With tls_verify and no CA file, the host's own store decides, which does not know the member."""
    outcome = await ask_tls(street, sockets, member_tls, tls_verify=True, tls_server_name="member.test")
    assert outcome.reason is Reason.DOWN_PROBE_TLS


async def test_ca_file_missing(street: Street, sockets: Sockets, member_tls: ssl.SSLContext, tmp_path: Path) -> None:
    """A CA file that is not there, or holds no certificate, is a failure that names the file."""
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for ca_file in (tmp_path / "gone.pem", empty):
        outcome = await ask_tls(street, sockets, member_tls, tls_verify=True, tls_ca_file=str(ca_file))
        assert outcome.reason is Reason.DOWN_PROBE_TLS
        assert str(ca_file) in outcome.detail


async def test_client_certificate_demanded(
    street: Street, sockets: Sockets, member_tls: ssl.SSLContext, certificate: tuple[Path, Path]
) -> None:
    """A member that demands a client certificate is down: probes have none."""
    member_tls.load_verify_locations(certificate[0])
    member_tls.verify_mode = ssl.CERT_REQUIRED
    outcome = await ask_tls(street, sockets, member_tls)
    assert outcome.kind is FAILURE
    assert outcome.reason in (Reason.DOWN_PROBE_TLS, Reason.DOWN_PROBE_HTTP_UNREACHABLE)


async def test_plain_member_behind_https_probe(street: Street, sockets: Sockets) -> None:
    """A member that answers a TLS hello in plain text fails the handshake."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(1)

    port = await street.member(talk)
    outcome = await HttpProbe().check(HERE, probe(port, ProbeProtocol.HTTPS), sockets)
    assert (outcome.kind, outcome.reason) == (FAILURE, Reason.DOWN_PROBE_TLS)


async def test_silent_tls_member(street: Street, sockets: Sockets) -> None:
    """A member that accepts and ignores the TLS hello is a timeout."""
    port = await street.member(accept_and_say_nothing)
    outcome = await HttpProbe().check(HERE, probe(port, ProbeProtocol.HTTPS, timeout_s=0.2), sockets)
    assert (outcome.kind, outcome.reason) == (TIMEOUT, Reason.DOWN_PROBE_HTTP_NO_RESPONSE)


async def test_impossible_server_name(street: Street, sockets: Sockets, member_tls: ssl.SSLContext) -> None:
    """A server name that TLS cannot carry is a failure, not an exception."""
    outcome = await ask_tls(street, sockets, member_tls, tls_server_name=".")
    assert outcome.reason is Reason.DOWN_PROBE_TLS


async def test_many_handshakes_at_once(street: Street, sockets: Sockets, member_tls: ssl.SSLContext) -> None:
    """Forty checks of one member side by side all get their answer, though only some handshakes run in one turn."""
    port = await street.member(answering(b"HTTP/1.1 200 OK\r\n\r\n"), tls=member_tls)
    kind = HttpProbe()
    definition = probe(port, ProbeProtocol.HTTPS)
    outcomes = await asyncio.gather(*(kind.check(HERE, definition, sockets) for _ in range(40)))
    assert {outcome.kind for outcome in outcomes} == {SUCCESS}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"tls_server_name": "a.test", "host": "b.test"}, "a.test"),
        ({"host": "b.test:8443"}, "b.test"),
        ({"host": "[2001:db8::1]:8443"}, "127.0.0.1"),
        ({}, "127.0.0.1"),
    ],
)
def test_server_name(fields: dict[str, object], expected: str) -> None:
    """TLS asks for the probe's server name, else its host without the port, else the address."""
    assert server_name(HERE, probe(443, ProbeProtocol.HTTPS, **fields)) == expected
