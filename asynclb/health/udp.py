"""The UDP probe: one datagram, and the answer it is expected to bring.

The socket is connected, so that only the member's own datagrams reach it and an ICMP port unreachable comes back as
an error at once. Nothing is sent twice: the threshold is what absorbs a lost datagram.

The payload may be empty. Datagram transports drop empty payloads; a plain socket does not.
"""

import asyncio
import socket
from functools import partial

from asynclb.health.outcome import Outcome, OutcomeKind, failure, from_os_error, timeout
from asynclb.health.ready import complete, readable
from asynclb.health.sockets import Sockets, SourceMissingError, sockaddr
from asynclb.model import Probe, Reason
from asynclb.net.address import Address, endpoint

_DATAGRAM_BYTES = 65_535
_SHOWN_BYTES = 32
_ANSWERED = Outcome(OutcomeKind.SUCCESS, Reason.UP_PROBE_SUCCESS, "answered")


class UdpProbe:
    """Sends the probe's payload and waits for one answer. Cost: see tests/bench/health_bench.py."""

    async def check(self, address: Address, probe: Probe, sockets: Sockets) -> Outcome:
        """Ask once."""
        where = endpoint(address, probe.port)
        try:
            async with asyncio.timeout(probe.timeout_s):
                answer = await _ask(address, probe, sockets)
        except SourceMissingError as error:
            return failure(Reason.DOWN_PROBE_SOURCE_ADDRESS, str(error))
        except TimeoutError:
            return timeout(Reason.DOWN_PROBE_UDP_NO_RESPONSE, f"{where}: no answer within {probe.timeout_s:g} s")
        except OSError as error:
            return from_os_error(error, where, Reason.DOWN_PROBE_UDP_UNREACHABLE, Reason.DOWN_PROBE_UDP_NO_RESPONSE)
        return judge(answer, probe.expect, where)


async def _ask(address: Address, probe: Probe, sockets: Sockets) -> bytes:
    with sockets.open(socket.SOCK_DGRAM, address, probe) as sock:
        sock.connect(sockaddr(address, probe.port))
        sock.send(probe.send)
        return await complete(sock, partial(sock.recv, _DATAGRAM_BYTES), readable)


def judge(answer: bytes, expect: bytes | None, where: str) -> Outcome:
    """Compare an answer with what it must start with."""
    if expect is None or answer.startswith(expect):
        return _ANSWERED
    shown = answer[:_SHOWN_BYTES].hex() or "nothing"
    wanted = expect[:_SHOWN_BYTES].hex()
    return failure(Reason.DOWN_PROBE_UDP_MISMATCH, f"{where}: answered {shown}, expected {wanted}")
