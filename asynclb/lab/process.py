"""A program that runs inside a host of a lab.

It writes to files in the lab's directory, dies with the lab's owner (PR_SET_PDEATHSIG, set by `setpriv`), and its
process id is the program's own: `setpriv` and `ip netns exec` replace themselves by it.
"""

import asyncio
import re
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from asynclb.lab.namespace import LabError

POLL_S = 0.005
"""How often a condition is looked at: well under the 20 ms that the quickest server takes to start."""

PATIENCE_S = 60.0
"""How long whatever should happen is waited for: reached only where something is wrong, however busy the machine."""


async def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float = PATIENCE_S) -> None:
    """Return as soon as the condition holds.

    Raises: LabError -> it did not hold within `timeout_s`; the text names `what`.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout_s:g} s")
        await asyncio.sleep(POLL_S)


class Process:
    """A running program of a host. Owner: the lab, which kills it at the latest when it ends."""

    def __init__(self, name: str, argv: tuple[str, ...], child: asyncio.subprocess.Process, files: Path) -> None:
        self.name = name
        self.argv = argv
        self.stdout_path = files.with_name(f"{files.name}.out")
        self.stderr_path = files.with_name(f"{files.name}.err")
        self._child = child

    @classmethod
    async def start(
        cls, namespace: str, name: str, argv: tuple[str, ...], files: Path, env: Mapping[str, str] | None = None
    ) -> "Process":
        """Start the program in the namespace; `files` is where its `.out` and `.err` go."""
        command = ("setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", namespace, *argv)
        with (
            files.with_name(f"{files.name}.out").open("ab") as stdout,
            files.with_name(f"{files.name}.err").open("ab") as stderr,
        ):
            child = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=env,
                start_new_session=True,  # Ctrl-C is for the owner, who ends its programs in order
            )
        return cls(name, argv, child, files)

    @property
    def pid(self) -> int:
        """The process id of the program itself."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal, None while it runs."""
        return self._child.returncode

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self.stdout_path.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has written to standard error so far."""
        return self.stderr_path.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the program has ended."""
        if self.returncode is None:
            self._child.send_signal(number)

    async def wait(self, *, timeout_s: float = PATIENCE_S) -> int:
        """Return the exit code once the program ends.

        Raises: LabError -> it still runs after `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._child.wait()
        except TimeoutError:
            raise LabError(f"{self}: still runs after {timeout_s:g} s\n{self.tail()}") from None

    async def stop(self, *, timeout_s: float = PATIENCE_S) -> int:
        """End the program as an operator would (SIGTERM) and return its exit code.

        Raises: LabError -> it did not end within `timeout_s`; it has been killed.
        """
        self.signal(signal.SIGTERM)
        try:
            return await self.wait(timeout_s=timeout_s)
        except LabError:
            await self.kill()
            raise

    async def kill(self) -> int:
        """End the program with SIGKILL: no handler runs, the kernel closes its sockets."""
        self.signal(signal.SIGKILL)
        return await self.wait()

    async def wait_for_log(self, pattern: str, *, timeout_s: float = PATIENCE_S) -> re.Match[str]:
        """Return the first match of the regular expression in what the program writes, to either stream.

        Raises: LabError -> the program ended, or `timeout_s` passed, without it; the text shows what it did write.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            ended = self.returncode is not None
            match = re.search(pattern, self.stdout) or re.search(pattern, self.stderr)
            if match:
                return match
            if ended or time.monotonic() > deadline:
                why = f"ended with {self.returncode}" if ended else f"waited {timeout_s:g} s"
                raise LabError(f"{self}: no {pattern!r} in its output; {why}\n{self.tail()}")
            await asyncio.sleep(POLL_S)

    async def ready(self, condition: Callable[[], bool], what: str, *, timeout_s: float = PATIENCE_S) -> None:
        """Return as soon as the condition holds.

        Raises: LabError -> the program ended, or `timeout_s` passed, before that; the text shows what it wrote.
        """
        try:
            await wait_until(lambda: self.returncode is not None or condition(), what, timeout_s=timeout_s)
        except LabError as error:
            raise LabError(f"{self}: {error}\n{self.tail()}") from None
        if self.returncode is not None:
            raise LabError(f"{self}: ended with {self.returncode} before {what}\n{self.tail()}")

    def tail(self, lines: int = 20) -> str:
        """Return the last lines of both streams, for an error's text."""
        return "\n".join((self.stdout.splitlines() + self.stderr.splitlines())[-lines:])

    def __str__(self) -> str:
        return f"{self.name}: {shlex.join(self.argv)}"
