"""The names under which a network namespace's programs, maps and links live on without a process.

    <bpffs>/asynclb/<cookie of the network namespace>/map-flows4, map-..., program-tc, tails-52, link-7-tcx, ...

The cookie is a number that the kernel never gives out twice before it is started again; a namespace's inode may be
another's tomorrow. A pin is replaced by a rename, so that there is the old thing or the new one under its name.

Source: SO_NETNS_COOKIE in net/core/sock.c.
"""

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from asynclb.native.libbpf import Libbpf

_SO_NETNS_COOKIE = 71  # asm-generic/socket.h, Linux 5.14
HOME = "asynclb"
FRESH = "fresh-"
"""Begins the names of what is about to get its own; a bpffs keeps names with a dot for itself."""


def namespace_cookie() -> int:
    """Return the number of the calling thread's network namespace. Raises: OSError -> a kernel before 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")


class Pins:
    """One namespace's directory. Without a bpffs there is none: nothing is kept, nothing is found. Owner: one task."""

    def __init__(self, bpf: Libbpf, bpffs: Path | None, cookie: int) -> None:
        self._bpf = bpf
        self.home = bpffs / HOME if bpffs is not None else None
        self.directory = self.home / str(cookie) if self.home is not None else None
        self._held = -1

    def hold(self) -> bool:
        """Say that a process uses the directory, until `release` or its end; return whether nobody else does."""
        if self.directory is None:
            return True
        self.directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._held = fd
        return True

    def release(self) -> None:
        """Let others use the directory."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def others(self) -> list["Pins"]:
        """Return the directories of other network namespaces."""
        if self.home is None or not self.home.is_dir():
            return []
        found = (path for path in self.home.iterdir() if path != self.directory and path.name.isdigit())
        return [Pins(self._bpf, self.home.parent, int(path.name)) for path in found]

    def keep(self, fd: int, name: str) -> None:
        """Pin under a name, in place of what is there. Raises: BpfError."""
        if self.directory is None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        fresh = self.directory / f"{FRESH}{name}"
        fresh.unlink(missing_ok=True)
        self._bpf.pin(fd, str(fresh))
        fresh.rename(self.directory / name)

    def open(self, name: str) -> int:
        """Return a descriptor of what is pinned under a name. Raises: BpfError -> nothing is."""
        return self._bpf.pinned(str(self.directory / name if self.directory is not None else name))

    def names(self) -> tuple[str, ...]:
        """Return the names in use."""
        if self.directory is None or not self.directory.is_dir():
            return ()
        return tuple(sorted(path.name for path in self.directory.iterdir()))

    def drop(self, name: str) -> None:
        """Remove a name; what it stood for ends with its last holder."""
        if self.directory is not None:
            (self.directory / name).unlink(missing_ok=True)

    def drop_all(self) -> None:
        """Remove every name, and the directories as far as nobody else uses them."""
        for name in self.names():
            self.drop(name)
        for directory in (self.directory, self.home):
            if directory is not None:
                with suppress(OSError):
                    directory.rmdir()
