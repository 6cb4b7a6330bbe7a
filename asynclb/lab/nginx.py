"""nginx as a member of a lab, and what its access log says of the clients."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asynclb.lab.process import Process


@dataclass(frozen=True, slots=True)
class Hit:
    """One request as the member saw it. `number` counts the requests of its connection from 1.

    Units: `at_s` seconds since the epoch, with milliseconds.
    """

    client: str
    client_port: int
    number: int
    status: int
    at_s: float
    uri: str


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx. One process without a master, so that killing it kills all of it."""

    member: str
    process: Process
    log_path: Path

    def hits(self) -> Iterator[Hit]:
        """Iterate over the requests logged so far, oldest first; `/healthz` is not logged."""
        with self.log_path.open() as log:
            for line in log:
                if line.endswith("\n"):  # the last line may be half written
                    client, port, number, status, at_s, uri = line.split()
                    yield Hit(client, int(port), int(number), int(status), float(at_s), uri)


class LogTail:
    """Reads an access log while it grows, and keeps only counts, for logs of millions of lines.

    `clients` counts requests by client address; `started` has the time of each connection's first request.
    Owner: its one reader. Units: `started` seconds since the epoch.
    """

    def __init__(self, path: Path) -> None:
        self.clients: Counter[str] = Counter()
        self.started: list[float] = []
        self._path = path
        self._offset = 0

    def read(self) -> None:
        """Take in what has been written since the last call. Cost: 1 us for each line."""
        if not self._path.exists():
            return
        with self._path.open("rb") as log:
            log.seek(self._offset)
            complete, newline, _ = log.read().rpartition(b"\n")
        self._offset += len(complete) + len(newline)
        for line in complete.decode().splitlines():
            client, _, number, _, at_s, _ = line.split(" ", 5)
            self.clients[client] += 1
            if number == "1":
                self.started.append(float(at_s))


def nginx_config(root: Path, member: str, port: int, body: str) -> str:
    """Return the configuration of a member's nginx. Connections are kept as long as clients like."""
    return f"""\
daemon off;
master_process off;
user root;
pid {root}/nginx.pid;
error_log stderr warn;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
    log_format hit '$remote_addr $remote_port $connection_requests $status $msec $request_uri';
    access_log {root}/access.log hit;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    default_type text/plain;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    reset_timedout_connection on;
    server {{
        listen {port} backlog=4096;
        listen [::]:{port} ipv6only=on backlog=4096;
        add_header X-Member {member} always;
        root {root}/;
        location = / {{ return 200 {_quoted(body)}; }}
        location = /healthz {{ access_log off; return 200 "ok\\n"; }}
    }}
}}
"""


def _quoted(text: str) -> str:
    if "$" in text:
        raise ValueError(f"{text!r}: nginx would take what follows $ for a variable")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
