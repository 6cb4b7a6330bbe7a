"""What the kernel datapath pins for a lab goes with the lab, also when the bench was killed.

Namespaces are in the lab's register; pins are not, and keep their maps for good. So a note of each namespace's cookie
is made before anything is pinned for it, and the next bench removes what the notes of dead ones name.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from asynclb.datapath.kernel.bpffs import find_bpffs
from asynclb.datapath.kernel.pins import HOME, namespace_cookie
from asynclb.lab import Host

NOTES = Path("/run/asynclb-bench")
"""Lives as long as pins do: until the next boot. A note is called `<process>-<cookie>`."""


def note(host: Host) -> None:
    """Take note that something may be pinned for a host."""
    NOTES.mkdir(mode=0o700, exist_ok=True)
    with host.entered():
        (NOTES / f"{os.getpid()}-{namespace_cookie()}").touch()


def remove_dead() -> None:
    """Remove what is pinned for hosts of benches that have ended."""
    _remove(lambda pid: not Path(f"/proc/{pid}").exists())


def remove_own() -> None:
    """Remove what is still pinned for this bench's hosts."""
    _remove(lambda pid: pid == os.getpid())


def _remove(is_meant: Callable[[int], bool]) -> None:
    for path in NOTES.glob("*-*"):
        pid, cookie = path.name.split("-")
        if not is_meant(int(pid)):
            continue
        if bpffs := find_bpffs(f"{HOME}/{cookie}"):
            shutil.rmtree(bpffs / HOME / cookie, ignore_errors=True)
        path.unlink(missing_ok=True)
    with suppress(OSError):  # others' notes are still in it
        NOTES.rmdir()
