"""TLS for probes: contexts by what a probe verifies, and the handshake on a connected socket.

Members of a balancer usually carry self-signed certificates or names that only clients know, so nothing is verified
unless the probe says `tls_verify`. No client certificate is ever sent.
"""

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path
from socket import socket

from asynclb.health.ready import readable, writable
from asynclb.health.turns import Turns
from asynclb.model import Probe
from asynclb.net.address import Address

_Key = tuple[bool, str | None]


class Contexts:
    """TLS contexts, made once for each way to verify, and anew when the CA file changes. Owner: the HTTP probe."""

    def __init__(self) -> None:
        self._made: dict[_Key, tuple[int, ssl.SSLContext]] = {}

    def of(self, probe: Probe) -> ssl.SSLContext:
        """Return the probe's context.

        Raises: OSError -> the CA file cannot be read, or (as ssl.SSLError) holds no certificate.
        """
        key = (probe.tls_verify, probe.tls_ca_file)
        changed_ns = Path(probe.tls_ca_file).stat().st_mtime_ns if probe.tls_ca_file else 0
        known = self._made.get(key)
        if known is not None and known[0] == changed_ns:
            return known[1]
        context = _context(probe.tls_ca_file) if probe.tls_verify else _trusting_context()
        self._made[key] = (changed_ns, context)
        return context


def _context(ca_file: str | None) -> ssl.SSLContext:
    """Verify the chain and the name against `ca_file`, or against the host's own store."""
    return ssl.create_default_context(cafile=ca_file)


def _trusting_context() -> ssl.SSLContext:
    """Accept any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def server_name(address: Address, probe: Probe) -> str:
    """Return the name to ask for and to verify: the probe's own, else its host without the port, else the address."""
    if probe.tls_server_name:
        return probe.tls_server_name
    if probe.host and not probe.host.startswith("["):
        return probe.host.partition(":")[0]
    return str(address).partition("%")[0]


def _demand_name(name: str) -> None:
    """Refuse what TLS cannot carry as a server name.

    Raises: ssl.SSLError -> always the same text for the same name.
    """
    try:
        fits = bool(name.encode("idna")) and not name.startswith(".") and "\0" not in name
    except UnicodeError:
        fits = False
    if not fits:
        raise ssl.SSLError(ssl.SSL_ERROR_SSL, f"server name {name!r} cannot be asked for")


async def handshake(sock: socket, context: ssl.SSLContext, name: str, turns: Turns) -> ssl.SSLSocket:
    """Make a connected socket a TLS one, which takes it over.

    Raises: OSError -> the handshake failed (as ssl.SSLError), or the member reset it. Cancel: the socket is closed.
    Cost: about 0.5 ms of CPU, nearly all of it the library's arithmetic; resumed sessions would save a quarter.
    """
    try:
        sock.getpeername()  # a name or a connection that is bad already must not reach wrap_socket, which leaks on them
        _demand_name(name)
        secured = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
    except OSError:
        sock.close()
        raise
    try:
        await _shake(secured, turns)
    except BaseException:
        secured.close()
        raise
    return secured


async def _shake(secured: ssl.SSLSocket, turns: Turns) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await turns.take()
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            await readable(loop, secured)
        except ssl.SSLWantWriteError:
            await writable(loop, secured)
        else:
            return


def farewell(sock: socket) -> None:
    """End TLS, if the socket has it, so that the FIN that follows does not look like a truncation."""
    if isinstance(sock, ssl.SSLSocket):
        with suppress(OSError, ValueError):  # the alert is sent and its answer not waited for; or TLS is over already
            sock.unwrap()


def tls_trouble(error: OSError) -> str:
    """Return what went wrong, in the words of the TLS library without its source lines."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    reason = getattr(error, "reason", None)  # only where the library itself found the error
    if reason:
        return f"TLS: {reason.replace('_', ' ').lower()}"
    return (error.strerror or str(error)).lower()
