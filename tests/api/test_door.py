"""Crowds at the door: connections that do nothing, names that are not this host's, listeners, tokens, scrapes."""

import asyncio
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
import uvloop

from asynclb.admin.door import PLACES
from asynclb.admin.guard import Guard
from asynclb.events import Event
from asynclb.model import Admin
from tests.unit.admin.test_api import Site, site
from tests.unit.admin.test_page_stream import site as page_site
from tests.unit.admin.test_tls import certify

CROWD = 1000


@asynccontextmanager
async def crowd(here: Site, first: bytes) -> AsyncIterator[list[socket.socket]]:
    """Hold a thousand connections open; each sends `first` and then nothing."""
    host, port = here.address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4 * CROWD, limits[1]), limits[1]))
    socks = [socket.socket() for _ in range(CROWD)]
    try:
        for sock in socks:
            sock.setblocking(False)
            await loop.sock_connect(sock, (host, int(port)))
            with suppress(ConnectionError):  # the first ones have given their places to those that came after
                await loop.sock_sendall(sock, first)
        yield socks
    finally:
        for sock in socks:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def are_open(socks: list[socket.socket]) -> int:
    """Return how many of the connections the other end has not closed."""
    number = 0
    for sock in socks:
        try:
            while sock.recv(65536):
                pass
        except BlockingIOError:
            number += 1
        except ConnectionError:
            pass
    return number


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"GET /metrics HTT",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["silent", "half a line", "half a header", "kept alive"],
)
async def test_a_thousand_connections_keep_nobody_out(first: bytes) -> None:
    """Health, metrics and the API are answered at once, places stay bounded, and the loop is not held."""
    async with site() as here, crowd(here, first) as socks:
        loop = asyncio.get_running_loop()
        for path in ("/healthz", "/api/v1/state", "/readyz"):
            began_s = loop.time()
            assert (await here.ask("GET", path))[0] == 200
            assert loop.time() - began_s < 2
        async with aiohttp.ClientSession() as session, session.get(f"http://{here.address}/metrics") as answer:
            assert (answer.status, b"asynclb_member_up" in await answer.read()) == (200, True)
        assert 0 < are_open(socks) <= PLACES


async def test_a_request_in_progress_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come after it, whoever is being answered is answered to the end."""
    monkeypatch.setattr("asynclb.admin.limits.BODY_S", 5.0)
    async with site() as here:
        host, port = here.address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"PATCH /api/v1/pools/web/members/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: 12\r\n\r\n"
        )
        async with crowd(here, b""):
            writer.write(b'{"weight":2}')
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_thousand_silent_handshakes_keep_nobody_out(tmp_path: Path) -> None:
    """With TLS, those who never say hello lose their places to those who do."""
    tls = certify(tmp_path, "lb1")
    async with site(Admin(port=0, tls=tls)) as here, crowd(here, b""):
        trust = ssl.create_default_context(cafile=tls.certificate_file)
        connector = aiohttp.TCPConnector(ssl=trust)
        url = f"https://{here.address}/healthz"
        async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
            assert answer.status == 200
        assert here.bench.log.of(Event.TASK_FAILED) == []


async def test_a_thousand_listeners() -> None:
    """64 tabs listen, the others are told when to come back, and health is answered beside them."""
    async with page_site() as running, AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        url = f"http://{running.address}"
        statuses = []
        for _ in range(CROWD // 100):
            gets = (stack.enter_async_context(session.get(f"{url}/api/v1/stream")) for _ in range(100))
            answers = await asyncio.gather(*gets)
            statuses += [answer.status for answer in answers]
            for answer in answers:
                if answer.status == 503:
                    assert answer.headers["Retry-After"] == "5"
                    assert (await answer.json())["error"] == "64 listeners are there already"
        async with session.get(f"{url}/healthz") as answer:
            assert answer.status == 200
    assert sorted(statuses) == [200] * 64 + [503] * (CROWD - 64)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9180", 200),
        ("tab.localhost", 200),
        ("127.0.0.1:9180", 200),
        ("[::1]:9180", 200),
        ("192.0.2.7", 200),
        ("lb1.example.org:9180", 200),
        ("LB1.example.org.", 200),
        ("rebound.example", 421),
        ("lb1.example.org.rebound.example", 421),
        ("localhost.rebound.example", 421),
        ("127.0.0.1.rebound.example:9180", 421),
        ("2130706433", 421),
        ("", 421),
    ],
)
async def test_names_that_are_not_ours_are_turned_away(host: str, status: int) -> None:
    """A page that rebinds its name to this address reads nothing; addresses, localhost and `admin.hosts` are let in."""
    async with site(Admin(port=0, hosts=("lb1.example.org",))) as here:
        found = [await here.ask("GET", path, {"Host": host}) for path in ("/api/v1/state", "/nothing")]
        url = f"http://{here.address}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url, headers={"Host": host}) as answer:
            scraped = answer.status
        health = await here.ask("GET", "/healthz", {"Host": host})
    assert [answer[0] for answer in found] == [status, 404 if status == 200 else status]
    assert (scraped, health[0]) == (status, 200)
    if status == 421:
        assert "admin.hosts" in found[0][1]["remedy"]


async def test_a_host_header_twice_or_never(tmp_path: Path) -> None:
    """Two Host headers are refused; a client of HTTP/1.0 that sends none is no browser; a UNIX socket has no name."""
    async with site() as here:
        twice = await here.raw(b"GET /api/v1/state HTTP/1.1\r\nHost: localhost\r\nHost: x\r\nConnection: close\r\n\r\n")
        never = await here.raw(b"GET /readyz HTTP/1.0\r\n\r\n")
    assert (twice[:12], never[:12]) == (b"HTTP/1.0 400", b"HTTP/1.0 200")
    assert Guard.of(Admin(unix_path=str(tmp_path / "s"))).misdirected("anything") is None


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("Bearer 0123456789abcdef0123456789abcdef", 200),
        ("bearer 0123456789abcdef0123456789abcdef", 200),
        ("Bearer 0123456789abcdef0123456789abcdeF", 401),
        ("Bearer 1123456789abcdef0123456789abcdef", 401),
        ("Bearer 0123456789abcdef0123456789abcde", 401),
        ("Bearer 0123456789abcdef0123456789abcdef0", 401),
        ("Basic 0123456789abcdef0123456789abcdef", 401),
        ("0123456789abcdef0123456789abcdef", 401),
        ("Bearer", 401),
        ("Bearer \xe9", 401),
        (None, 401),
    ],
)
async def test_a_token_wrong_by_one_byte(tmp_path: Path, given: str | None, status: int) -> None:
    """The token is compared whole (`hmac.compare_digest`); wrong, short, long or missing, the answer is the same."""
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123456789abcdef\n")
    async with site(Admin(port=0, token_file=str(token))) as here:
        found = await here.ask("GET", "/api/v1/state", {"Authorization": given} if given is not None else None)
    assert found[0] == status
    if status == 401:
        assert found[1]["error"] == "the bearer token is missing or wrong"
        assert found[2]["WWW-Authenticate"].startswith("Bearer")


async def test_two_scrapes_at_once_and_a_crowd_of_them() -> None:
    """Two Prometheus at the same moment both get everything; a crowd is told to come back."""
    async with site() as here, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def scrape() -> tuple[int, bytes]:
            async with session.get(f"http://{here.address}/metrics") as answer:
                return answer.status, await answer.read()

        both = await asyncio.gather(scrape(), scrape())
        many = await asyncio.gather(*(scrape() for _ in range(100)))
    assert [status for status, _ in both] == [200, 200]
    assert all(body.count(b"asynclb_member_up{") == 3 for _, body in both)
    assert {status for status, _ in many} <= {200, 503}


async def test_a_huge_body_is_refused_before_it_comes() -> None:
    """What is announced as too long is 413 at once, and what comes without an end is 413 at the limit."""
    post = "POST /api/v1/plan HTTP/1.1\r\nHost: localhost\r\n"
    announced = [f"{post}Content-Length: {size}\r\n\r\nversion: 1".encode() for size in (11_000_000, 10**15)]
    chunk = b"100000\r\n" + b"#" * 0x100000 + b"\r\n"
    endless = f"{post}Transfer-Encoding: chunked\r\n\r\n".encode() + 12 * chunk
    async with site() as here:
        answers = await asyncio.gather(*map(here.raw, (*announced, endless)))
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 413"] * 3


def test_the_loop_of_the_process_has_the_same_door(tmp_path: Path) -> None:
    """uvloop takes connections in, and throws them out, as the standard library's loop does."""
    uvloop.run(test_a_thousand_connections_keep_nobody_out(b""))
    uvloop.run(test_a_thousand_silent_handshakes_keep_nobody_out(tmp_path))
