"""A file that grows by whole lines, is moved away when it is large, and is opened anew when somebody else moved it.

Laws:
  1. The file has whole lines only, also after a disk was full in the midst of one.
  2. It is moved away before it grows beyond its size; path.1 is the youngest, and none is older than path.KEEP.
  3. Nobody but its owner writes to it, and nobody but the owner and the group may read it.
"""

import os
from contextlib import suppress
from pathlib import Path

_MODE = 0o640


class LogFile:
    """Owner: the flow log, which calls it from one thread at a time. It is opened by the first `append`."""

    def __init__(self, path: str, max_bytes: int, keep: int) -> None:
        self.path, self._max_bytes, self._keep = path, max_bytes, keep
        self._fd: int | None = None
        self._size = 0

    def append(self, lines: bytes) -> None:
        """Write whole lines. Raises: OSError -> none of them is in the file, or none of those behind the last one."""
        self._open()
        if self._size and self._size + len(lines) > self._max_bytes:
            self._rotate()
            self._open()
        if self._fd is None:
            raise FileNotFoundError(self.path)
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            with suppress(OSError):  # the next one is the file's first whole line then
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(lines)

    def close(self) -> None:
        """Close the file; the next `append` opens it."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def _open(self) -> None:
        """Have the file open that the path names now: logrotate and `mv` need no signal."""
        if self._fd is not None:
            ours = os.fstat(self._fd)
            with suppress(FileNotFoundError):
                found = Path(self.path).stat()
                if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
                    self._size = found.st_size  # `copytruncate` makes it shorter
                    return
            self.close()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._fd = os.open(self.path, flags, _MODE)
        self._size = os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        self.close()
        if not self._keep:
            Path(self.path).unlink()
            return
        for number in range(self._keep - 1, 0, -1):
            with suppress(FileNotFoundError):
                Path(f"{self.path}.{number}").replace(f"{self.path}.{number + 1}")
        Path(self.path).replace(f"{self.path}.1")
