"""`asynclb top` on a pseudo-terminal, seen through a terminal emulator."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from asynclb.lab import PATIENCE_S
from tests.unit.admin.test_api import site
from tests.unit.admin.test_commands import record

pyte = pytest.importorskip("pyte")


class Seen:
    """A program on a terminal. Owner: the test."""

    def __init__(self, master: int, pid: int, columns: int, lines: int) -> None:
        self.master = master
        self.pid = pid
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)

    async def until(self, shown: Callable[[list[str]], bool]) -> list[str]:
        """Read until the screen is as wanted; return its lines."""
        deadline = time.monotonic() + PATIENCE_S
        while not shown(lines := [line.rstrip() for line in self.screen.display]):
            assert time.monotonic() < deadline, "\n".join(lines)
            try:
                self._stream.feed(os.read(self.master, 65536))
            except BlockingIOError:
                await asyncio.sleep(0.02)
        return lines

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self.master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Make the terminal another size, as a window manager does."""
        self.screen.resize(lines, columns)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    async def ended(self) -> int:
        """Wait for the end and return the exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            try:
                self._stream.feed(os.read(self.master, 65536))
            except OSError:
                await asyncio.sleep(0.02)
        raise AssertionError("top does not end")


@contextmanager
def top(address: str, *words: str, columns: int = 80, lines: int = 24) -> Iterator[Seen]:
    """Run `asynclb top` on a terminal of its own."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    command = [
        "setsid",
        "--ctty",
        sys.executable,
        "-m",
        "asynclb",
        "top",
        "--url",
        address,
        "--interval",
        "0.2",
        *words,
    ]
    files = [(os.POSIX_SPAWN_DUP2, slave, number) for number in (0, 1, 2)]
    environment = {**os.environ, "TERM": "xterm-256color"}
    pid = os.posix_spawnp(command[0], command, environment, file_actions=files)
    os.close(slave)
    os.set_blocking(master, False)
    seen = Seen(master, pid, columns, lines)
    try:
        yield seen
    finally:
        if seen.pid:
            os.kill(seen.pid, signal.SIGKILL)
            os.waitpid(seen.pid, 0)
        os.close(master)


async def test_a_person_looks_around() -> None:
    """At 80x24: what is wrong first, then rules, members, clients, a filter, help, and another size."""
    async with site() as here:
        here.bench.datapaths[0].records = [record(number) for number in (1, 2, 2)]
        with top(f"http://{here.address}") as seen:
            lines = await seen.until(lambda lines: any(line.startswith("web-1") for line in lines))
            assert re.fullmatch(r"c of pool web is down since (\S+ )?\S+ UTC: Down_Probe_TcpProbeTimeout\.", lines[0])
            assert lines[2].startswith("[1 RULES]")
            assert lines[3].split()[:2] == ["RULE", "STATE"]
            assert lines[23].startswith("F1 help")
            seen.type("\t")
            lines = await seen.until(lambda lines: "[2 MEMBERS]" in lines[2] and "web/a" in "".join(lines))
            assert lines[4].split()[:2] == ["web/c", "down"]
            seen.type("/web/b\r")
            await seen.until(lambda lines: lines[5] == "" and lines[4].startswith("web/b"))
            seen.type("3")
            seen.type("\x1b")
            lines = await seen.until(lambda lines: lines[4].startswith("198.51.100.2"))
            assert lines[4].split()[1] == "2"
            seen.type("\x1bOP")
            await seen.until(lambda lines: lines[0] == "asynclb top")
            seen.type("x1")
            seen.resize(60, 12)
            lines = await seen.until(lambda lines: len(lines) == 12 and lines[11].startswith("F1 help"))
            seen.type("q")
            assert await seen.ended() == 0


async def test_the_process_goes_while_somebody_looks() -> None:
    """When nobody answers any more, the first line says so, and the last rows stay."""
    async with site() as here:
        seen_by = top(f"http://{here.address}")
        seen = seen_by.__enter__()
        try:
            await seen.until(lambda lines: any(line.startswith("web-1") for line in lines))
        except BaseException:
            seen_by.__exit__(None, None, None)
            raise
    try:
        lines = await seen.until(lambda lines: lines[0].startswith("no asynclb answers at"))
        assert any(line.startswith("web-1") for line in lines)
        seen.type("\x03")
        assert await seen.ended() == 0
    finally:
        seen_by.__exit__(None, None, None)
