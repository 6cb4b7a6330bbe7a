"""What an idle proxied connection costs in memory: `python tests/bench/proxy_memory.py [CONNECTIONS]`.

The proxy runs in this process, on the loopback and without privileges; one child holds the clients' ends, another one
the members'. Printed is the growth of this process's resident memory for each connection, for a first half (in which
the interpreter also takes memory to spare) and for a second half (the margin). The kernel's socket buffers belong to
no process and are not in it.
"""

import asyncio
import multiprocessing
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script

from tests.unit.proxy.privileges import without_network_privileges
from tests.unit.proxy.wire import resident_kib
from tests.unit.proxy.world import Driver, local, member, row

VIP, MEMBER = local(1), local(2)
SPARE = 500  # descriptors that are not of connections


def hold_members(pipe: Connection) -> None:
    """Accept for ever."""
    with socket.create_server((MEMBER, 0), backlog=4096) as listener:
        pipe.send(listener.getsockname()[1])
        held = []
        while True:
            held.append(listener.accept()[0])


def hold_clients(pipe: Connection) -> None:
    """Open as many connections as asked for, each time, and keep them; each client has said one byte."""
    held = []
    while True:
        port, count = pipe.recv()
        for _ in range(count):
            client = socket.create_connection((VIP, port))
            client.send(b"x")
            held.append(client)
        pipe.send(count)


@contextmanager
def child(target: Callable[[Connection], None]) -> Iterator[Connection]:
    """Run a child with a pipe to it."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=target, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours
    finally:
        process.kill()
        process.join()


async def measure(clients: Connection, member_port: int, half: int) -> None:
    """Open two halves of the connections and print what each took."""
    driver = Driver()
    await driver.proxy.open()
    with socket.create_server((VIP, 0)) as free:
        port = free.getsockname()[1]
    await driver.apply(row(VIP, port, [member("be1", MEMBER)], member_port, transparent=False))
    before = resident_kib()
    for name, wanted in (("first", half), ("second", 2 * half)):
        clients.send((port, half))
        deadline = time.monotonic() + 120
        while driver.proxy.counters().rules["web"].bytes_in < wanted and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert clients.recv() == half
        now = resident_kib()
        print(f"{name} {half} connections: {(now - before) / half:.2f} KiB each")
        before = now
    await driver.proxy.close(0)


def main() -> None:
    """Measure with the number of connections that was asked for, or 5,000."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(count, (hard - SPARE) // 2)
    with child(hold_members) as members, child(hold_clients) as clients, without_network_privileges():
        uvloop.run(measure(clients, members.recv(), count // 2))


if __name__ == "__main__":
    main()
