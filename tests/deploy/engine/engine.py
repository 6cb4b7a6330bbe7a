"""A Docker Engine in a host of a lab: the commands of the documentation run there as they stand.

It sees the host's interfaces as `--network host`, and has its own bridge and iptables rules beside them, as an engine
has that was just installed. `/etc`, `/run`, mounts, processes and control groups are its own: see engine.sh.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from asynclb.lab import PATIENCE_S, Host, LabError, Process
from asynclb.lab.namespace import namespace_path
from asynclb.lab.process import wait_until
from tests.netns.deploy import cgroup

ROOT = Path(__file__).parents[3]
_HERE = Path(__file__).parent
_SCRIPT = _HERE / "engine.sh"
_CAP_SYS_RESOURCE = 24  # <linux/capability.h>


class Engine:
    """A running engine. Owner: the lab of its host, which ends it and its containers at the latest."""

    def __init__(self, host: Host, process: Process, path: str) -> None:
        self._host = host
        self._path = path
        self.process = process

    @classmethod
    @asynccontextmanager
    async def running(cls, host: Host, home: Path) -> AsyncIterator[Self]:
        """Run the engine that was unpacked into `home`, where images and volumes stay, but no containers. Cost: 1 s."""
        tools = home / "files"
        path = f"{tools}/usr/bin:{tools}/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        with cgroup.cgroup() as group:
            words: tuple[str | Path, ...] = (
                "unshare",
                "--cgroup",
                "sh",
                _SCRIPT,
                group,
                tools,
                home / "data",
                *_runtime(host),
            )
            process = await host.run(*cgroup.within(group), "env", f"PATH={path}", *words, name="engine")
            try:
                await process.wait_for_log("API listen on")
                engine = cls(host, process, path)
                await engine.run("docker ps --all --quiet | xargs -r docker rm --force")
                yield engine
                await engine.run("kill $(cat /run/docker.pid)")
                await process.wait()
            finally:
                await process.kill()
                await cgroup.deserted(group, timeout_s=PATIENCE_S)

    async def run(self, command: str, *, timeout_s: float = PATIENCE_S) -> str:
        """Run a command line in the checkout as the engine's host has it, and return what it printed.

        Raises: LabError -> its exit code is not 0; with all that was said.
        """
        inside = ("nsenter", "--target", str(self._first), "--mount", "--pid", "--cgroup")
        settings = ("env", f"PATH={self._path}", "DOCKER_CONFIG=/run/docker-cli")
        return await self._host.check_output(
            *inside, *settings, "sh", "-euc", f"cd {ROOT}\n{command}", timeout_s=timeout_s
        )

    async def until(self, command: str, expected: str, *, timeout_s: float = PATIENCE_S) -> str:
        """Run a command over and over until what it prints has the text, and return that.

        Raises: LabError -> not within `timeout_s`; with what it printed last.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        while expected not in (said := await self.run(f"{command} 2>&1 || true")):
            if asyncio.get_running_loop().time() > deadline:
                raise LabError(f"{command}: no {expected!r} within {timeout_s:g} s\n{said}")
            await asyncio.sleep(0.2)
        return said

    @property
    def _first(self) -> int:
        """The number here of the process that is 1 inside."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])


@asynccontextmanager
async def internet(host: Host) -> AsyncIterator[None]:
    """Let the host reach what this machine reaches, through a program: nothing is set up outside of the host."""
    where = str(namespace_path(host.namespace))
    words = ("slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path", where, "tap0")
    process = await asyncio.create_subprocess_exec(
        "setpriv", "--pdeathsig", "KILL", *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await wait_until(lambda: "tap0" in _routes(host), "slirp4netns sets up tap0")
        yield
    finally:
        process.kill()
        await process.wait()


def _routes(host: Host) -> str:
    with host.entered():
        return Path("/proc/thread-self/net/route").read_text(encoding="ascii")


def _runtime(host: Host) -> tuple[str, ...]:
    """Return the engine's options for a runtime, where the machine's own cannot be as it is: see runtime.py."""
    (mask,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:")]
    if int(mask.split()[1], 16) >> _CAP_SYS_RESOURCE & 1:
        return ()
    wrapper = host.write("runc", f'#!/bin/sh\nexec {sys.executable} {_HERE / "runtime.py"} "$@"\n')
    wrapper.chmod(0o755)
    return (f"--add-runtime=lowered={wrapper}", "--default-runtime=lowered")
