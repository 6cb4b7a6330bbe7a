"""HTTP load that can account for every request: which connection it was on, and which member that was.

A load generator counts errors; this one says of each failed request whose connection it was, so that "nothing failed
but what was on the killed member" can be shown. The member is known from the `X-Member` header of earlier answers on
the same connection; for a connection that never answered, the client's port is kept, from which the forwarding tables
tell the member.

Every client keeps two kinds of connection: a few that stay open, and many that carry one request each.
"""

import asyncio
import time
from dataclasses import dataclass, field

from asynclb.lab.host import Host


@dataclass(frozen=True, slots=True)
class Rate:
    """How much load one client makes. Units: `kept_hz` and `short_hz` requests per second of one worker."""

    kept: int = 6
    kept_hz: float = 20.0
    short: int = 8
    short_hz: float = 25.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A request that was answered with 200. `fresh`: it was the first of its connection, so a new flow.

    Units: `at_s` seconds since the epoch, comparable with access logs.
    """

    at_s: float
    client: str
    port: int
    member: str
    fresh: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that was not answered with 200. `member` answered last on its connection; "" if none ever did.

    Units: `opened_s`, when its connection was established, and `at_s`, when it failed, in seconds since the epoch.
    """

    opened_s: float
    at_s: float
    client: str
    port: int
    member: str
    what: str


class ConnectionLostError(Exception):
    """The connection ended before the answer was complete."""


@dataclass(slots=True)
class HttpLoad:
    """The load of one client. Owner: the task that runs it; the lists only grow."""

    host: Host
    address: str
    port: int
    rate: Rate = Rate()
    timeout_s: float = 5.0
    answers: list[Answer] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    async def run(self, stop: asyncio.Event) -> None:
        """Make load until `stop` is set; every request that was begun is finished and accounted for."""
        async with asyncio.TaskGroup() as workers:
            for _ in range(self.rate.kept):
                workers.create_task(self._work(stop, self.rate.kept_hz, keep=True))
            for _ in range(self.rate.short):
                workers.create_task(self._work(stop, self.rate.short_hz, keep=False))

    async def _work(self, stop: asyncio.Event, hz: float, *, keep: bool) -> None:
        """Send requests at a steady pace; what was missed while one took long is not made up for."""
        connection: _Connection | None = None
        due = time.monotonic()
        while not stop.is_set():
            connection = await self._account(connection, keep=keep)
            due = max(due + 1 / hz, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
        if connection is not None:
            connection.writer.close()

    async def _account(self, connection: "_Connection | None", *, keep: bool) -> "_Connection | None":
        """Send one request, record what became of it, and return the connection if it can be used again."""
        fresh = connection is None
        try:
            async with asyncio.timeout(self.timeout_s):
                connection = connection or await self._open()
                await connection.request(self.address, keep=keep)
        except (OSError, ConnectionLostError) as error:  # a timeout is an OSError too
            self._record_failure(connection, f"{type(error).__name__} {error}".strip())
            return None
        self.answers.append(Answer(time.time(), connection.client, connection.port, connection.member, fresh))
        if keep:
            return connection
        connection.writer.close()
        return None

    def _record_failure(self, connection: "_Connection | None", what: str) -> None:
        now_s = time.time()
        if connection is None:
            self.failures.append(Failure(now_s, now_s, "", 0, "", what))
            return
        known = (connection.client, connection.port, connection.member)
        self.failures.append(Failure(connection.opened_s, now_s, *known, what))
        connection.writer.transport.abort()

    async def _open(self) -> "_Connection":
        reader, writer = await self.host.connect(self.address, self.port, timeout_s=self.timeout_s)
        client, port = writer.get_extra_info("sockname")[:2]
        return _Connection(reader, writer, client, port, time.time())


@dataclass(slots=True)
class _Connection:
    """A connection of one worker; `member` is who answered last."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    client: str
    port: int
    opened_s: float
    member: str = ""

    async def request(self, host: str, *, keep: bool) -> None:
        """Send a request and read the answer to its end.

        Raises: ConnectionLostError -> the answer is not complete or not 200; OSError -> as the socket says.
        """
        close = "" if keep else "Connection: close\r\n"
        self.writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n{close}\r\n".encode())
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:] if line)
            await self.reader.readexactly(int(headers["Content-Length"]))
        except asyncio.IncompleteReadError as error:
            raise ConnectionLostError(f"closed after {len(error.partial)} bytes of an answer") from None
        self.member = headers["X-Member"]
        status = head[9:12]
        if status != b"200":
            raise ConnectionLostError(f"status {status.decode()}")
