"""The HTTP and HTTPS probes: GET a path, healthy on an expected status only.

An answer decides at once, both ways; only silence and broken connections count towards `rise` and `fall`. The
request is written and the answer read by hand over the same sockets as the TCP probe: aiohttp's client alone was
measured at 230 us a check where this takes 140 us with scheduling and all, and 5,000 members every 5 s leave 250 us.
HTTPS costs about 600 us, nearly all of it the TLS library's arithmetic.

Source: Azure Load Balancer, health probes, "HTTP / HTTPS probe" and "Probe threshold".
"""

import asyncio
import ssl
from dataclasses import dataclass, field
from socket import socket

from asynclb.health.outcome import Outcome, OutcomeKind, failure, from_os_error, timeout
from asynclb.health.ready import receive, send_all
from asynclb.health.response import NotHttpError, ResponseHead, request
from asynclb.health.sockets import Sockets
from asynclb.health.tls import Contexts, farewell, handshake, server_name, tls_trouble
from asynclb.health.turns import Turns
from asynclb.model import Probe, ProbeProtocol, Reason, StatusRange
from asynclb.net.address import Address, endpoint

HANDSHAKES_A_TURN = 8
"""Steps of TLS handshakes in one turn of the loop: 4 ms at most, where 64 at once were seen to hold it for 70 ms."""


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """Asks over plain TCP or TLS, as the probe's protocol says. Cost: see tests/bench/health_bench.py."""

    contexts: Contexts = field(default_factory=Contexts)
    turns: Turns = field(default_factory=lambda: Turns(HANDSHAKES_A_TURN))

    async def check(self, address: Address, probe: Probe, sockets: Sockets) -> Outcome:
        """Ask once; `timeout_s` covers connecting, the handshake and the answer together."""
        deadline = asyncio.get_running_loop().time() + probe.timeout_s
        try:
            context = self.contexts.of(probe) if probe.protocol is ProbeProtocol.HTTPS else None
        except OSError as error:
            return failure(Reason.DOWN_PROBE_TLS, f"tls_ca_file {probe.tls_ca_file}: {tls_trouble(error)}")
        connected = await sockets.connect(address, probe, deadline)
        if isinstance(connected, Outcome):
            return connected
        where = endpoint(address, probe.port)
        try:
            async with asyncio.timeout_at(deadline):
                stream = await self._stream(connected, context, address, probe)
                status = await _ask(stream, request(address, probe), sockets)
        except NotHttpError as error:
            return failure(Reason.DOWN_PROBE_HTTP_INVALID, f"{where}: {error}", decisive=True)
        except ssl.SSLError as error:
            return failure(Reason.DOWN_PROBE_TLS, f"{where}: {tls_trouble(error)}")
        except TimeoutError:
            text = f"{where}: connected, but no answer within {probe.timeout_s:g} s"
            return timeout(Reason.DOWN_PROBE_HTTP_NO_RESPONSE, text)
        except OSError as error:
            return from_os_error(error, where, Reason.DOWN_PROBE_HTTP_UNREACHABLE, Reason.DOWN_PROBE_HTTP_NO_RESPONSE)
        return judge(status, probe, where)

    async def _stream(self, sock: socket, context: ssl.SSLContext | None, address: Address, probe: Probe) -> socket:
        """Return the socket to talk over. Cancel: it is closed."""
        if context is None:
            return sock
        return await handshake(sock, context, server_name(address, probe), self.turns)


async def _ask(sock: socket, question: bytes, sockets: Sockets) -> int | None:
    """Return the status, or None if the member closed before it had answered. Cancel: the socket is retired."""
    try:
        await send_all(sock, question)
        return await _status(sock)
    finally:
        farewell(sock)
        sockets.retire(sock)


async def _status(sock: socket) -> int | None:
    head = ResponseHead()
    while data := await receive(sock):
        status = head.feed(data)
        if status is not None:
            return status
    return None


def judge(status: int | None, probe: Probe, where: str) -> Outcome:
    """Compare a status with those that mean healthy. Any status decides; a connection closed without one does not."""
    if status is None:
        text = f"{where}: closed the connection without an answer to GET {probe.path}"
        return failure(Reason.DOWN_PROBE_HTTP_UNREACHABLE, text)
    text = f"GET {probe.path} answered {status}"
    if any(status in expected for expected in probe.expected_status):
        return Outcome(OutcomeKind.SUCCESS, Reason.UP_PROBE_SUCCESS, text, decisive=True)
    wanted = ", ".join(_spell(expected) for expected in probe.expected_status)
    return failure(Reason.DOWN_PROBE_HTTP_STATUS, f"{where}: {text}, expected {wanted}", decisive=True)


def _spell(expected: StatusRange) -> str:
    return str(expected.first) if expected.first == expected.last else f"{expected.first}-{expected.last}"
