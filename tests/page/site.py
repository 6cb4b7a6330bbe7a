"""A real `asynclb run` with members on the loopback, for a browser to look at. No privileges are needed.

All members listen on one socket: every address of 127.0.0.0/8 is this host's. Which of them are well is said by name.
"""

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from asynclb.lab import PATIENCE_S
from tests.ports import free_port


def address(number: int) -> str:
    """Return the address of a member."""
    return f"127.1.{number // 200}.{number % 200 + 1}"


class Members(ThreadingHTTPServer):
    """Web servers that are asked by their address; those in `ill` answer 503."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self) -> None:
        super().__init__(("0.0.0.0", 0), _Answer)
        self.ill: set[str] = set()

    @property
    def port(self) -> int:
        """Return the port of every member."""
        return int(self.server_address[1])


class _Answer(BaseHTTPRequestHandler):
    server: Members

    def do_GET(self) -> None:
        """Answer by the address that was asked."""
        body = b"x" * 2000
        self.send_response(503 if self.connection.getsockname()[0] in self.server.ill else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


class Site:
    """The process and where it is reached. Owner: the test."""

    def __init__(self, directory: Path, members: Members, pools: dict[str, int], token: str = "") -> None:
        self.members = members
        self.admin, self.front = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.admin}/"
        self._directory = directory
        self._token = token
        self._process: subprocess.Popen[bytes] | None = None
        self._path = directory / "asynclb.yaml"
        self._path.write_text(self._text(pools))

    def _text(self, pools: dict[str, int]) -> str:
        token = ""
        if self._token:
            (self._directory / "token").write_text(self._token)
            token = f", token_file: {self._directory / 'token'}"
        lines = [
            f"version: 1\nadmin: {{listen: 127.0.0.1:{self.admin}{token}}}\nhash_seed: '7'\nshutdown_drain: 0s",
            "frontends:\n  public: {address: 127.0.0.1}\nbackend_pools:",
        ]
        first = 0
        for pool, size in pools.items():
            lines.append(f"  {pool}:\n    members:")
            lines += [f"      - {{name: {pool}-{n + 1}, address: {address(first + n)}}}" for n in range(size)]
            first += size
        interval = "250ms" if first < 100 else "5s"
        lines.append(f"probes:\n  http: {{protocol: http, port: {self.members.port}, path: /, interval: {interval}}}")
        lines.append("rules:")
        lines += [
            f"  - {{name: {pool}, frontend: public, protocol: tcp, frontend_port: {self.front + n}, "
            f"backend_pool: {pool}, backend_port: {self.members.port}, probe: http, transparent: false}}"
            for n, pool in enumerate(pools)
        ]
        return "\n".join(lines) + "\n"

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "asynclb", "run", str(self._path), "--log-format", "json"],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "STATE_DIRECTORY": str(self._directory / "state")},
            )
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with suppress(OSError):
                urllib.request.urlopen(f"{self.url}readyz", timeout=2).close()  # noqa: S310  # our own
                return
            time.sleep(0.05)
        raise AssertionError((self._directory / "log").read_text())

    def kill(self) -> None:
        """End the process with SIGKILL: it says nothing to anybody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None

    @contextmanager
    def load(self) -> Iterator[None]:
        """Have a client ask through the first frontend again and again."""
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(0.02):
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.front}/", timeout=2) as answer:
                    answer.read()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextmanager
def site(directory: Path, pools: dict[str, int], *, ill: tuple[int, ...] = (), token: str = "") -> Iterator[Site]:
    """Run members and asynclb for the length of a test. `ill`: numbers of members that answer 503."""
    members = Members()
    members.ill = {address(number) for number in ill}
    thread = threading.Thread(target=members.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    running = Site(directory, members, pools, token)
    try:
        running.start()
        yield running
    finally:
        running.kill()
        members.shutdown()
        thread.join()
        members.server_close()
