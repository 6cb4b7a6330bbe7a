"""Enough of HTTP/1.1 to ask for a path and read the status of the answer. Pure.

A probe needs the status of a finished header section and nothing else, from members that may send anything. So this
reads strictly what it needs, bounded, and refuses the rest at the first octet that cannot belong to a status line.

Source: RFC 9112, sections 2 to 4; RFC 9110, 15.2 (interim responses).
"""

import re
import string
from urllib.parse import quote

from asynclb.model import Probe, ProbeProtocol
from asynclb.net.address import Address, endpoint

MAX_HEADER_BYTES = 65_536
"""What a member may send before its header section ends: eight times what common servers allow themselves."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9][0-9])(?: [^\r\n]*)?\r?\n")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_START = b"HTTP/1."
_SHOWN_BYTES = 32


class NotHttpError(ValueError):
    """What the member sent is not an HTTP/1 response."""


def request(address: Address, probe: Probe) -> bytes:
    """Return the request of a probe. Octets that could break out of the request line are percent-encoded."""
    path = quote(probe.path, safe=string.punctuation)
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host(address, probe)}\r\nUser-Agent: asynclb\r\nAccept: */*\r\n"
        "Connection: close\r\n\r\n"
    ).encode()


def host(address: Address, probe: Probe) -> str:
    """Return the Host field: the probe's own, else the member, with the port where it is not the scheme's."""
    if probe.host is not None:
        return quote(probe.host, safe=string.punctuation)
    bare = str(address).partition("%")[0]  # a zone means something only on this host; RFC 6874
    default = 443 if probe.protocol is ProbeProtocol.HTTPS else 80
    return endpoint(bare, probe.port) if probe.port != default else f"[{bare}]" if ":" in bare else bare


class ResponseHead:
    """The header section of a response, while it arrives. Owner: one check."""

    __slots__ = ("_held", "_searched", "_taken")

    def __init__(self) -> None:
        self._held = bytearray()
        self._searched = 0
        self._taken = 0

    def feed(self, data: bytes) -> int | None:
        """Take what has arrived; return the final status once its header section is complete.

        Cost: linear in what arrives, however it is cut up.
        Raises: NotHttpError -> the octets cannot be, or no longer become, a response of bounded size.
        """
        self._held += data
        self._taken += len(data)
        if not self._held.startswith(_START[: len(self._held)]):
            raise NotHttpError(f"sent what is not HTTP/1: {bytes(self._held[:_SHOWN_BYTES])!r}")
        while (end := _HEADER_END.search(self._held, max(0, self._searched - 3))) is not None:
            status = self._status()
            if status >= 200:  # anything below is interim, and the response follows
                return status
            del self._held[: end.end()]
            self._searched = 0
        self._searched = len(self._held)
        if self._taken > MAX_HEADER_BYTES:
            raise NotHttpError(f"sent more than {MAX_HEADER_BYTES} bytes of header")
        return None

    def _status(self) -> int:
        line = _STATUS_LINE.match(self._held)
        if line is None:
            raise NotHttpError(f"sent a malformed status line: {bytes(self._held[:_SHOWN_BYTES])!r}")
        return int(line.group(1))
