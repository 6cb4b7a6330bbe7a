"""The register of labs: what makes a lab disappear even when its owner was killed.

Every lab has one file in `/run/asynclb-lab`, written before its first namespace exists and locked (flock) for as long
as its owner lives, or an `ip` that the owner has started still creates namespaces. The kernel drops the lock when the
owner dies, however it dies; so whoever gets the lock knows that the owner is gone, and is at the same time the only one
who clears up after it.

Laws:
  1. No namespace without an entry: an entry is made first and removed last.
  2. Only the holder of an entry's lock touches what belongs to it.
"""

import fcntl
import itertools
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from asynclb.lab.namespace import NETNS_DIRECTORY, delete_namespaces

REGISTER = Path("/run/asynclb-lab")
"""Lives as long as namespaces do: until the next boot. Only root can write there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One lab in the register. Every namespace of the lab is called `<name>-<host>`. Owner: the holder of `lock_fd`."""

    name: str
    title: str
    pid: int
    directory: Path
    lock_fd: int

    def namespaces(self) -> list[str]:
        """Return the namespaces that exist of this lab."""
        return sorted(path.name for path in NETNS_DIRECTORY.glob(f"{self.name}-*"))

    def remove(self, *, keep_files: bool = False) -> None:
        """Delete everything that belongs to the lab, the entry last. May be called again if it was interrupted."""
        delete_namespaces(self.namespaces())
        if not keep_files:
            shutil.rmtree(self.directory, ignore_errors=True)
        (REGISTER / self.name).unlink(missing_ok=True)
        os.close(self.lock_fd)


def claim(title: str) -> Entry:
    """Make an entry for a new lab of this process and hold it."""
    REGISTER.mkdir(mode=0o700, exist_ok=True)
    for number in itertools.count(1):
        path = REGISTER / f"alb{os.getpid()}-{number}"
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not _still_there(fd, path):  # a sweep came between the two calls and took it for dead
            os.close(fd)
            continue
        directory = Path(tempfile.mkdtemp(prefix=f"{path.name}-"))
        entry = Entry(path.name, title, os.getpid(), directory, fd)
        os.write(fd, json.dumps({"title": title, "pid": entry.pid, "directory": str(directory)}).encode())
        return entry
    raise AssertionError("unreachable")


def sweep() -> list[Entry]:
    """Remove every lab whose owner is dead; return what was removed. Several sweeps may run at once."""
    removed = []
    for path in sorted(REGISTER.glob("alb*")):
        entry = _take_over(path)
        if entry is not None:
            entry.remove()
            removed.append(entry)
    return removed


def living() -> list[Entry]:
    """Return the labs whose owner lives; their `lock_fd` is -1, for they belong to somebody else."""
    return [_read(path, -1) for path in sorted(REGISTER.glob("alb*")) if _is_held(path)]


def _take_over(path: Path) -> Entry | None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if not _still_there(fd, path):
        os.close(fd)
        return None
    return _read(path, fd)


def _is_held(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass  # it has just been removed
    return False


def _read(path: Path, fd: int) -> Entry:
    try:
        found = json.loads(path.read_text())
        title, pid, directory = str(found["title"]), int(found["pid"]), Path(found["directory"])
    except (OSError, ValueError, KeyError):  # killed before it wrote: there is nothing but the name yet
        title, pid, directory = "?", 0, Path(tempfile.gettempdir(), f"{path.name}-none")
    return Entry(path.name, title, pid, directory, fd)


def _still_there(fd: int, path: Path) -> bool:
    try:
        return path.stat().st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        return False
