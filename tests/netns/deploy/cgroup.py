"""A control group of its own for who makes groups below it: a systemd, a container engine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from asynclb.lab import wait_until


def cgroup_home() -> Path | None:
    """Return where version 2 of the cgroup file system is mounted."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split()[0] == "cgroup2":
            return Path(fields.split()[4])
    return None


def why_not() -> str:
    """Return why nobody can have a group here, or ''."""
    home = cgroup_home()
    return "" if home is not None and os.access(home, os.W_OK) else "no cgroup file system of version 2 to write to"


@contextmanager
def cgroup() -> Iterator[Path]:
    """Give a group to who runs in it; those of dead test runs go as well."""
    home = cgroup_home()
    if home is None:
        pytest.skip("no cgroup file system of version 2")
    for left in home.glob("asynclb-test-*"):
        if not Path("/proc", left.name.rpartition("-")[2]).exists():
            _remove(left)
    group = home / f"asynclb-test-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        _remove(group)


def within(group: Path) -> tuple[str | Path, ...]:
    """Return the words that run a program in the group, with the mounts of this process.

    A host of a lab runs programs by `ip netns exec`, which hides the groups behind a /sys of its own.
    """
    script = 'mkdir -p "$1" && echo $$ >"$1/cgroup.procs" && shift && exec "$@"'
    return "nsenter", "-t", str(os.getpid()), "--mount", "sh", "-c", script, "sh", group


async def deserted(group: Path, *, timeout_s: float) -> None:
    """Return when nothing runs in the group any more: the kernel takes its time to end what was killed."""
    events = group / "cgroup.events"
    await wait_until(
        lambda: "populated 0" in events.read_text(encoding="utf-8"), f"{group.name} is deserted", timeout_s=timeout_s
    )


def _remove(group: Path) -> None:
    """Remove a group with the groups in it, as far as nobody lives there any more."""
    for path in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        with suppress(OSError):
            path.rmdir()
    with suppress(OSError):
        group.rmdir()
