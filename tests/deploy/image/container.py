"""What a runtime does with the image and the service of conf/compose.yaml: a container, and programs inside it."""

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from asynclb.lab import Host, LabError, Process

ROOT = Path(__file__).parents[3]
SERVICE = yaml.safe_load((ROOT / "conf" / "compose.yaml").read_text())["services"]["asynclb"]
_HERE = Path(__file__).parent
CAPABILITIES = {
    10: "CAP_NET_BIND_SERVICE",
    12: "CAP_NET_ADMIN",
    13: "CAP_NET_RAW",
    38: "CAP_PERFMON",
    39: "CAP_BPF",
}
"""By their numbers in linux/capability.h."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that was unpacked: its files, and what it says about running it."""

    root: Path
    settings: dict[str, Any]

    @property
    def command(self) -> list[str]:
        """What is run when nothing else is named."""
        return [*self.settings["Entrypoint"], *self.settings["Cmd"]]

    @property
    def health(self) -> list[str]:
        """The command of its health check."""
        kind, *words = self.settings["Healthcheck"]["Test"]
        assert kind == "CMD"
        return words


class Container:
    """A running container. Owner: the test; it ends with the lab at the latest."""

    def __init__(self, host: Host, process: Process, who: tuple[str, ...]) -> None:
        self._host = host
        self._who = who
        self.process = process

    @classmethod
    async def start(
        cls, host: Host, image: Image, capabilities: set[str], sources: dict[str, Path], *, inside: tuple[str, ...] = ()
    ) -> "Container":
        """Run the image as the Compose file's service. `sources` has what its mounts are here, by their targets.

        `inside` runs a command in the mount namespace that stands for the host's.
        """
        mounts = host.write("mounts", "".join(f"{line}\n" for line in _mounts(sources)))
        user, _, group = image.settings["User"].partition(":")
        only = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in sorted(capabilities))])
        who = ("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--inh-caps=-all")
        who = (*who, f"--bounding-set={only}", "env", "-i", *image.settings["Env"])
        namespaces = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
        runtime = ("sh", _HERE / "container.sh", image.root, mounts)
        process = await host.run(*inside, *namespaces, *runtime, *who, *image.command, name="container")
        return cls(host, process, who)

    @property
    def first(self) -> int:
        """The number here of the process that is 1 inside."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if not children:
            raise LabError(f"{self.process}: nothing runs\n{self.process.tail()}")
        return int(children[0])

    def status(self, field: str) -> str:
        """Return a line of what the kernel says of the program."""
        text = Path(f"/proc/{self.first}/status").read_text(encoding="utf-8")
        (found,) = re.findall(rf"^{field}:\s+(.*)$", text, re.MULTILINE)
        return str(found)

    def capabilities(self, which: str) -> set[str]:
        """Return a set of the program's capabilities: CapEff, CapBnd and so on."""
        mask = int(self.status(which), 16)
        return {CAPABILITIES.get(bit, str(bit)) for bit in range(mask.bit_length()) if mask >> bit & 1}

    async def run(self, *words: str) -> Process:
        """Run a program in the container to its end, as the same user with the same capabilities: a health check."""
        enter = ("nsenter", "--target", str(self.first), "--mount", "--pid", "--root", "--wd")
        process = await self._host.run(*enter, *self._who, *words, name="exec")
        await process.wait()
        return process

    async def kill(self) -> None:
        """End it without a word, as the kernel does that lacks memory."""
        os.kill(self.first, signal.SIGKILL)
        await self.process.wait()

    async def stop(self, name: str) -> int:
        """Send process 1 a signal, as a runtime does that stops a container, and return the exit code."""
        os.kill(self.first, signal.Signals[name])
        return await self.process.wait()


def _mounts(sources: dict[str, Path]) -> list[str]:
    """Return the lines that container.sh reads, as the Compose file's service has its mounts."""
    assert SERVICE["read_only"]
    temporary = [f"tmpfs {target} mode=1777,nosuid,nodev" for target in SERVICE["tmpfs"]]
    bound = [
        f"{sources.get(volume['target'], '/nowhere')} {volume['target']} {'ro' if volume.get('read_only') else 'rw'}"
        for volume in SERVICE["volumes"]
    ]
    return [*temporary, *bound]


async def bpffs(host: Host, commands: str) -> tuple[str, ...]:
    """Run commands in a mount namespace with a /run of its own; return what runs others there until the lab ends."""
    script = f"set -e\nmount -t tmpfs tmpfs /run\n{commands}\necho mounted\nexec sleep infinity\n"
    holder = await host.run("unshare", "--mount", "--propagation", "private", "sh", "-c", script, name="mounts")
    await holder.wait_for_log("mounted")
    return ("nsenter", "--target", str(holder.pid), "--mount")
