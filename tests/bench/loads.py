"""The loads: each runs for a fixed time against one subject, ends by itself, and says what it moved and what it cost.

The cost is the processor time, user and system, of all processes of the balancer while the load ran: with it goes the
kernel's work on the balancer's behalf, which on veth includes the way of its packets to the next socket.
"""

import asyncio
import json
import os
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from peers import BULK, BULK_SPLICED, UDP, WEB, Arena, Subject

from asynclb.lab import Host, LabError
from asynclb.lab.wrk import parse_wrk

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_GRACE_S = 20.0  # for a load to wind up after its time
_UDP_SESSIONS = 64
_OPENING_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of a load.

    Units: `value` as its measure says; `work` requests or GB; `cpu_s` seconds, 0 where there is no balancer; `failed`
    requests that had no answer.
    """

    value: float
    work: float
    cpu_s: float
    failed: int = 0


Load = Callable[[Arena, Subject, float], Awaitable[Sample]]


async def requests(arena: Arena, subject: Subject, seconds: float) -> Sample:
    """Requests per second over 64 kept-alive connections."""
    return await kept_alive(arena, subject, seconds, 64)


async def kept_alive(arena: Arena, subject: Subject, seconds: float, clients: int) -> Sample:
    """Requests per second over so many kept-alive connections of one program."""
    return (await _wrk(arena, subject, seconds, clients))[0]


async def latency(arena: Arena, subject: Subject, seconds: float) -> Sample:
    """Microseconds from a request to its answer, one at a time on one connection: the median of all."""
    sample, median_us = await _wrk(arena, subject, seconds, 1)
    return Sample(median_us, sample.work, sample.cpu_s, sample.failed)


async def connections(arena: Arena, subject: Subject, seconds: float) -> Sample:
    """Connections per second by 32 clients, with one request each; only those that got their answer count."""
    return (await _wrk(arena, subject, seconds, 32, "--header", "Connection: close"))[0]


async def upload(arena: Arena, subject: Subject, seconds: float) -> Sample:
    """Gbit/s of one TCP stream from the client to the member."""
    return await _iperf3(arena, subject, seconds, BULK)


async def upload_spliced(arena: Arena, subject: Subject, seconds: float) -> Sample:
    """Upload through HAProxy's frontend with `option splice-auto`."""
    return await _iperf3(arena, subject, seconds, BULK_SPLICED)


async def download(arena: Arena, subject: Subject, seconds: float) -> Sample:
    """Gbit/s of one TCP stream from the member to the client."""
    return await _iperf3(arena, subject, seconds, BULK, "--reverse")


async def download_spliced(arena: Arena, subject: Subject, seconds: float) -> Sample:
    """Download through HAProxy's frontend with `option splice-auto`."""
    return await _iperf3(arena, subject, seconds, BULK_SPLICED, "--reverse")


async def datagrams(arena: Arena, subject: Subject, seconds: float) -> Sample:
    """Answers per second to 64 UDP sessions that each have one question on its way."""
    before = cpu_s(subject)
    words = (arena.udp_program, "load", subject.target, str(UDP), str(_UDP_SESSIONS), f"{seconds:g}")
    text = await _run(arena.client, seconds, *words)
    found = re.fullmatch(r"replies (\d+) lost (\d+) seconds ([\d.]+)\s*", text)
    if found is None:
        raise LabError(f"udp_load printed {text!r}")
    replies, lost, took_s = int(found[1]), int(found[2]), float(found[3])
    return Sample(replies / took_s, replies, cpu_s(subject) - before, lost)


async def _wrk(arena: Arena, subject: Subject, seconds: float, clients: int, *more: str) -> tuple[Sample, float]:
    before = cpu_s(subject)
    words = ("--threads", "1", "--connections", str(clients), "--duration", f"{_whole(seconds)}s", "--latency")
    text = await _run(arena.client, seconds, "wrk", *words, *more, f"http://{subject.target}:{WEB}/")
    spent_s = cpu_s(subject) - before
    result = parse_wrk(text)
    found = re.search(r"50%\s+([\d.]+)(us|ms|s)\b", text)
    if found is None:
        raise LabError(f"wrk printed no latency:\n{text}")
    median_us = float(found[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[found[2]]
    return Sample(result.requests_per_s, result.requests, spent_s, sum(result.errors.values())), median_us


async def _iperf3(arena: Arena, subject: Subject, seconds: float, port: int, *more: str) -> Sample:
    before = cpu_s(subject)
    words = ("--client", subject.target, "--port", str(port), "--time", _whole(seconds), "--json")
    report = json.loads(await _run(arena.client, seconds, "iperf3", *words, *more))
    received = report["end"]["sum_received"]
    return Sample(received["bits_per_second"] / 1e9, received["bytes"] / 1e9, cpu_s(subject) - before)


def _whole(seconds: float) -> str:
    """Return a whole number of seconds, at least one: wrk takes no other, and iperf3 takes 0.8 for 0, without end."""
    return str(max(round(seconds), 1))


async def _run(host: Host, seconds: float, *words: str | Path) -> str:
    return await host.check_output(*words, timeout_s=seconds + _GRACE_S)


# Memory.


@dataclass(frozen=True, slots=True)
class Memory:
    """What idle connections take. Units: KiB of resident memory; `each` and `next` for one connection.

    `each` is over all of them; `next` over a fifth more. The two differ where a process had memory to spare at first,
    which connections then take at no visible cost.
    """

    before: float
    each: float
    next: float


async def idle_connections(arena: Arena, subject: Subject, count: int) -> Memory:
    """Open connections, send one request over each, and see by how much the balancer has grown when all are idle.

    Raises: LabError -> the balancer lost a connection.
    """
    more = count // 5
    opened: list[socket.socket] = []
    try:
        before = resident_kib(subject)
        full = await _open_idle(arena, subject, count, opened)
        fuller = await _open_idle(arena, subject, more, opened)
    finally:
        for sock in opened:
            sock.close()
    await asyncio.sleep(1.0)
    return Memory(before, (full - before) / count, (fuller - full) / more)


async def _open_idle(arena: Arena, subject: Subject, count: int, opened: list[socket.socket]) -> float:
    """Open that many connections more, and return the resident memory when they are idle."""
    for start in range(0, count, _OPENING_AT_ONCE):
        batch = [_socket(arena.client, opened) for _ in range(min(_OPENING_AT_ONCE, count - start))]
        await asyncio.gather(*(_ask_once(sock, subject) for sock in batch))
    await asyncio.sleep(1.0)  # buffers that are given back when idle are given back
    return resident_kib(subject)


def _socket(client: Host, opened: list[socket.socket]) -> socket.socket:
    sock = client.open_socket()
    sock.setblocking(False)
    opened.append(sock)
    return sock


async def _ask_once(sock: socket.socket, subject: Subject) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        await loop.sock_connect(sock, (subject.target, WEB))
        await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
        if not (await loop.sock_recv(sock, 1000)).endswith(b"ok\n"):
            raise LabError(f"{subject.name}: no answer over an idle connection")


# Processes.


def cpu_s(subject: Subject) -> float:
    """Return the processor time of the subject's processes so far. Source: proc_pid_stat(5), utime to cstime."""
    return sum(sum(map(int, _stat(pid)[11:15])) for pid in _processes(subject)) / _TICKS_A_SECOND


def resident_kib(subject: Subject) -> float:
    """Return the resident memory of the subject's processes. Source: proc_pid_status(5)."""
    texts = (Path(f"/proc/{pid}/status").read_text() for pid in _processes(subject))
    return float(sum(int(line.split()[1]) for text in texts for line in text.splitlines() if line[:6] == "VmRSS:"))


def _processes(subject: Subject) -> list[int]:
    """Return the subject's process and all its descendants."""
    if subject.process is None:
        return []
    if subject.process.returncode is not None:
        raise LabError(f"{subject.process} ended with {subject.process.returncode}\n{subject.process.tail()}")
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
            except OSError:
                continue  # it has ended since
    family = [subject.process.pid]
    for pid in family:  # grows while it is read
        family += [child for child, parent in parents.items() if parent == pid]
    return family


def _stat(pid: int) -> list[str]:
    """Return the fields from the third on; the second, the name, may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
