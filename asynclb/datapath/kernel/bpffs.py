"""Where things of the kernel get names that outlive a process: a bpffs.

The usual place is /sys/fs/bpf. `ip netns exec` gives a program mounts of its own, with a /sys of its own, and what is
mounted there ends with the program; so a second place is looked at, under /run, that such programs see as well, and
the tree of process 1, where that may be looked into. A bpffs is mounted only where it outlives the process.

Source: kernel/bpf/inode.c; mount_namespaces(7), setns(2); ip-netns(8).
"""

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path

USUAL = Path("/sys/fs/bpf")
EVERYWHERE = Path("/run/asynclb/bpf")
"""Seen by programs of `ip netns exec` too."""
REMEDY = f"mount one that this user may write to (`mount -t bpf bpf {USUAL}`; before `ip netns exec`: {EVERYWHERE})"

_FIRST_PROCESS = Path("/proc/1/root")
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000  # linux/sched.h
_NOSUID_NODEV_NOEXEC = 2 | 4 | 8  # linux/mount.h


def find_bpffs(inside: str) -> Path | None:
    """Return a bpffs that this process may write to, mounting one if there is none and that is allowed, or None.

    Order: one that has `inside` already comes before the others.
    """
    found = present()
    if not found:
        _mount_for_all(USUAL)
        found = present()
    return next((place for place in found if (place / inside).is_dir()), found[0] if found else None)


def mount_everywhere() -> None:
    """Mount the bpffs that programs of `ip netns exec` see, if it is not there and this process may."""
    if not _mounted(EVERYWHERE):
        EVERYWHERE.mkdir(parents=True, exist_ok=True)
        _mount_for_all(EVERYWHERE)


def present() -> list[Path]:
    """Return the mounted ones that this process may write to."""
    places = (USUAL, EVERYWHERE, _FIRST_PROCESS / USUAL.relative_to("/"))
    return [place for place in places if _mounted(place) and os.access(place, os.W_OK | os.X_OK)]


def _mounted(place: Path) -> bool:
    first = place.is_relative_to(_FIRST_PROCESS)
    wanted = f"/{place.relative_to(_FIRST_PROCESS)}" if first else str(place)
    kinds = [line.partition(" - ")[2].split()[0] for line in _mounts(first=first) if line.split()[4] == wanted]
    return kinds[-1:] == ["bpf"]  # later mounts cover earlier ones


def _mounts(*, first: bool = False) -> list[str]:
    try:
        text = Path(f"/proc/{'1' if first else 'thread-self'}/mountinfo").read_text(errors="surrogateescape")
    except OSError:  # process 1 is not ours to look at
        return []
    return text.splitlines()


def _mount_for_all(place: Path) -> None:
    """Mount a bpffs that process 1 and its children see, if this process may; whether it did is seen afterwards."""
    if _mounts() == _mounts(first=True):  # each mount has a number of its own, so these are the same
        _mount(place)
        return
    try:
        there = os.open("/proc/1/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        thread = threading.Thread(target=_mount_in, args=(there, place), name="bpffs")  # elsewhere until it ends
        thread.start()
        thread.join()
    finally:
        os.close(there)


def _mount_in(mounts: int, place: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    steps: tuple[Callable[[], int], ...] = (
        lambda: int(libc.unshare(_CLONE_FS)),
        lambda: int(libc.setns(mounts, _CLONE_NEWNS)),
        lambda: _mount(place),
    )
    all(step() == 0 for step in steps)  # the first that fails is the last


def _mount(place: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong(_NOSUID_NODEV_NOEXEC)
    return int(libc.mount(b"bpf", os.fsencode(place), b"bpf", flags, b"mode=0700"))
