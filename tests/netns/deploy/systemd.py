"""A real systemd beside the host's own, in a lab's namespace, that runs asynclb by the unit in conf/.

Nothing is emulated: the sandbox, the user, the watchdog and the notifications are systemd's. It is process 1 of a
process namespace, so that everything in it ends with it, and with the test.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from asynclb.lab import Host, LabError, Process
from tests.netns.deploy import cgroup

ROOT = Path(__file__).parents[3]
CONF = ROOT / "conf"
TARGETS = ("sysinit", "basic", "shutdown", "network-online")
WAIT_S = 60.0


def why_not() -> str:
    """Return why systemd cannot be booted here, or ''."""
    needed = ("unshare", "nsenter", "pivot_root", "systemctl", "systemd-analyze", "systemd-sysusers")
    missing = [name for name in needed if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        return f"needs root and {', '.join(missing)}" if missing else "needs root"
    return cgroup.why_not()


class Machine:
    """A booted systemd. Owner: the test."""

    def __init__(self, host: Host, process: Process) -> None:
        self._host = host
        self._process = process

    async def run(self, *words: str) -> tuple[int, str]:
        """Run a program inside, as root; return its exit code and what it wrote."""
        target = ("nsenter", "-t", str(self._first()), "-a", "-r", "-w", *words)
        child = await asyncio.create_subprocess_exec(
            *target, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        async with asyncio.timeout(WAIT_S):
            out, _ = await child.communicate()
        return child.returncode or 0, out.decode(errors="replace")

    async def systemctl(self, *words: str) -> tuple[int, str]:
        """Run systemctl inside."""
        return await self.run("systemctl", "--no-pager", *words)

    async def show(self, name: str) -> str:
        """Return a property of the unit."""
        return (await self.systemctl("show", "asynclb.service", "--property", name, "--value"))[1].strip()

    async def until(self, name: str, *values: str) -> str:
        """Wait until a property of the unit has one of the values."""
        found = ""
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                while (found := await self.show(name)) not in values:
                    await asyncio.sleep(0.1)
                return found
        raise AssertionError(f"{name} is {found!r}, not {values}\n{self._process.tail()}\n{self.journal()}")

    def journal(self) -> str:
        """Return what the service has written."""
        path = self.path("/run/asynclb.log")
        return path.read_text() if path.exists() else ""

    def path(self, inside: str) -> Path:
        """Return where a file of the machine is seen from here."""
        return Path(f"/proc/{self._first()}/root{inside}")

    def write(self, inside: str, text: str) -> None:
        """Put a file in place in one step, for everybody to read."""
        target = self.path(inside)
        draft = target.with_name(f".{target.name}")
        draft.write_text(text)
        draft.chmod(0o644)
        draft.rename(target)

    def _first(self) -> int:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children:
            raise LabError("systemd does not run")
        return int(children[0])

    async def booted(self) -> None:
        """Wait until systemd answers. Raises: LabError -> it ended instead."""
        async with asyncio.timeout(WAIT_S):
            while self._process.returncode is None:
                with suppress(LabError):  # it is not process 1 of its namespace yet
                    if (await self.systemctl("is-system-running"))[1].strip() in ("running", "degraded"):
                        return
                await asyncio.sleep(0.1)
        raise LabError(f"systemd has ended\n{self._process.tail()}")


@asynccontextmanager
async def booted(host: Host, config: str, drop_in: str = "") -> AsyncIterator[Machine]:
    """Boot systemd in a host of a lab, with the unit, a configuration and what a drop-in adds."""
    etc = host.directory / "etc"
    units = etc / "systemd" / "system"
    (units / "asynclb.service.d").mkdir(parents=True)
    (etc / "asynclb").mkdir()
    (etc / "asynclb" / "asynclb.yaml").write_text(config)
    shutil.copy(CONF / "asynclb.service", units)
    for target in TARGETS:
        (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (units / "default.target").symlink_to("basic.target")
    log = "StandardOutput=append:/run/asynclb.log\nStandardError=append:/run/asynclb.log"
    (units / "asynclb.service.d" / "test.conf").write_text(f"[Service]\n{log}\n{drop_in}\n")
    root = host.directory / "root"
    root.mkdir()
    namespaces = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--cgroup")
    with cgroup.cgroup() as group:
        process = await host.run(
            *(*cgroup.within(group), *namespaces, "sh", Path(__file__).with_name("boot.sh"), root),
            name="systemd",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "ETC": str(etc)} | python() | user(host.directory),
        )
        machine = Machine(host, process)
        try:
            await machine.booted()
            yield machine
        finally:
            await process.kill()
            await cgroup.deserted(group, timeout_s=WAIT_S)


def python() -> dict[str, str]:
    """Return where this interpreter and its packages are."""
    return {
        "PYTHON_HOME": sys.base_prefix,
        "PYTHON": f"python{sys.version_info[0]}.{sys.version_info[1]}",
        "SITE_PACKAGES": sysconfig.get_path("purelib"),
        "SOURCE": str(ROOT / "asynclb"),
    }


def user(directory: Path) -> dict[str, str]:
    """Return the lines for passwd and group that systemd-sysusers makes of conf/asynclb.sysusers."""
    home = directory / "sysusers"
    (home / "etc").mkdir(parents=True)
    subprocess.run(
        ["systemd-sysusers", f"--root={home}", str(CONF / "asynclb.sysusers")], check=True, capture_output=True
    )
    (passwd,) = (home / "etc" / "passwd").read_text().splitlines()
    (group,) = (home / "etc" / "group").read_text().splitlines()
    return {"USER_LINE": passwd, "GROUP_LINE": group}
