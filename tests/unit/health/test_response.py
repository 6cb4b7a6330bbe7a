"""The words of HTTP: what is asked and how answers are read, whatever a member sends."""

from ipaddress import ip_address

import pytest

from asynclb.health.response import MAX_HEADER_BYTES, NotHttpError, ResponseHead, host, request
from asynclb.model import Probe, ProbeProtocol

HTTP, HTTPS = ProbeProtocol.HTTP, ProbeProtocol.HTTPS


def feed_in_pieces(data: bytes, size: int) -> int | None:
    """Feed data cut into pieces; return the first status."""
    head = ResponseHead()
    for start in range(0, len(data), size):
        status = head.feed(data[start : start + size])
        if status is not None:
            return status
    return None


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nbody", 200),
        (b"HTTP/1.0 503 Service Unavailable\r\n\r\n", 503),
        (b"HTTP/1.1 204\r\n\r\n", 204),
        (b"HTTP/1.1 200 \r\n\r\n", 200),
        (b"HTTP/1.1 200 OK\n\n", 200),
        (b"HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", 301),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 Not Found\r\n\r\n", 404),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 200),
        (b"HTTP/1.1 200 OK\r\nServer: x\r\n", None),
        (b"HTTP/1.1 100 Continue\r\n\r\n", None),
        (b"HTT", None),
    ],
)
def test_status(data: bytes, status: int | None, size: int) -> None:
    """The final status is read once its header section is complete, however the answer is cut up."""
    assert feed_in_pieces(data, size) == status


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x0a",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.x 200 OK\r\n\r\n",
        b"HTTP/1.1 \xd9\xa2\xd9\xa0\xd9\xa0 OK\r\n\r\n",
    ],
)
def test_garbage_is_refused(data: bytes) -> None:
    """What is not an HTTP/1 response is refused and shown."""
    with pytest.raises(NotHttpError, match="sent"):
        feed_in_pieces(data, 1000)


def test_garbage_is_refused_at_the_first_octet() -> None:
    """Nobody waits for the end of a line that cannot become a status line."""
    with pytest.raises(NotHttpError):
        ResponseHead().feed(b"S")


@pytest.mark.parametrize(
    "piece",
    [b"x" * 1000, b"X-Filler: " + b"y" * 990, b"HTTP/1.1 100 Continue\r\n\r\n" * 40],
)
def test_endless_header_is_bounded(piece: bytes) -> None:
    """A header section, or a row of interim responses, that does not end is given up at 64 KiB."""
    start = b"HTTP/1.1 100 Continue\r\n\r\n" if piece.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n"
    endless = start + piece * (MAX_HEADER_BYTES // 1000 + 2)
    assert feed_in_pieces(endless[: MAX_HEADER_BYTES - 1000], 1000) is None
    with pytest.raises(NotHttpError, match="65536"):
        feed_in_pieces(endless, 1000)


@pytest.mark.parametrize(
    ("address", "protocol", "port", "configured", "expected"),
    [
        ("10.1.0.11", HTTP, 80, None, "10.1.0.11"),
        ("10.1.0.11", HTTP, 8080, None, "10.1.0.11:8080"),
        ("10.1.0.11", HTTP, 443, None, "10.1.0.11:443"),
        ("10.1.0.11", HTTPS, 443, None, "10.1.0.11"),
        ("2001:db8::1", HTTP, 80, None, "[2001:db8::1]"),
        ("2001:db8::1", HTTPS, 8443, None, "[2001:db8::1]:8443"),
        ("fe80::1%eth0", HTTP, 8080, None, "[fe80::1]:8080"),
        ("10.1.0.11", HTTP, 8080, "shop.example", "shop.example"),
        ("10.1.0.11", HTTP, 8080, "a\r\nX: y", "a%0D%0AX:%20y"),
    ],
)
def test_host(address: str, protocol: ProbeProtocol, port: int, configured: str | None, expected: str) -> None:
    """The Host field is the probe's own, or the member with brackets and port as the scheme asks for."""
    assert host(ip_address(address), Probe("p", protocol, port, host=configured)) == expected


def test_request() -> None:
    """The request is complete, closes the connection, and cannot be broken out of."""
    probe = Probe("p", HTTP, 80, path="/health z?a=%20b&c=\r\nX: y#é")
    assert request(ip_address("10.0.0.1"), probe) == (
        b"GET /health%20z?a=%20b&c=%0D%0AX:%20y#%C3%A9 HTTP/1.1\r\nHost: 10.0.0.1\r\nUser-Agent: asynclb\r\n"
        b"Accept: */*\r\nConnection: close\r\n\r\n"
    )
