"""Probes: how a member's health is asked for."""

from dataclasses import dataclass
from enum import StrEnum

from asynclb.net.address import Address


class ProbeProtocol(StrEnum):
    """The kinds of probe."""

    TCP = "tcp"
    HTTP = "http"
    HTTPS = "https"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class StatusRange:
    """A range of HTTP status codes, both ends included."""

    first: int
    last: int

    def __contains__(self, status: int) -> bool:
        return self.first <= status <= self.last


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe's definition. Two equal definitions are the same probe: state is carried over a reload by value.

    `rise` and `fall` are consecutive checks; for HTTP(S) an answer flips the state at once and only timeouts count.
    `flap_damping`: a member that keeps falling comes back more slowly each time.
    """

    name: str
    protocol: ProbeProtocol
    port: int
    interval_s: float = 5.0
    timeout_s: float = 5.0
    rise: int = 1
    fall: int = 1
    max_in_flight: int = 256
    source_address_v4: Address | None = None
    source_address_v6: Address | None = None
    path: str = "/"
    host: str | None = None
    expected_status: tuple[StatusRange, ...] = (StatusRange(200, 200),)
    tls_verify: bool = False
    tls_server_name: str | None = None
    tls_ca_file: str | None = None
    send: bytes = b""
    expect: bytes | None = None
    """UDP: the bytes that an answer must start with; None accepts any answer."""
    flap_damping: bool = True
