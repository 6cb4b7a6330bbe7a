"""Watches a file, the configuration or one that it names, for changes of content.

The watch is on directories, not on the file: editors rename a new file over the old one, and a Kubernetes
ConfigMap swaps the symbolic link `..data` to another directory, so that a watch on the file's inode goes stale at
the first change. Events only say "look again"; whether the content is new is decided by its digest.

A single file that is bind-mounted into a container (`subPath`) never shows a change, here or anywhere: mount the
directory. Network file systems send no events, so the content is looked at every `POLL_S` as well.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from asyncinotify import Inotify, Mask

from asynclb.events import Emit, Event

DEBOUNCE_S = 0.1  # a ConfigMap swap and an editor's save are several events within a few ms
POLL_S = 30.0  # as slow as a person would tolerate, as rare as to cost nothing
RETRY_S = 1.0  # between attempts to watch a directory that has gone

_CONTENT = Mask.CREATE | Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE
_GONE = Mask.DELETE_SELF | Mask.MOVE_SELF


class FileWatch:
    """Calls `on_change` once per new content of a file. Owner: the task in `run`."""

    def __init__(
        self,
        path: Path,
        on_change: Callable[[], Awaitable[object]],
        on_trouble: Callable[[str | None], None],
        *,
        debounce_s: float = DEBOUNCE_S,
        poll_s: float = POLL_S,
        retry_s: float = RETRY_S,
    ) -> None:
        """Take the present content as known: make the watch before the file is first read.

        `on_trouble` is told once why the file cannot be watched or read, and with None that it can be again.
        """
        self._path = path
        self._on_change = on_change
        self._on_trouble = on_trouble
        self._debounce_s = debounce_s
        self._poll_s = poll_s
        self._retry_s = retry_s
        self._known = _digest(path)
        self._complained = False

    async def run(self) -> None:
        """Watch until cancelled; a directory that vanishes is tried again until it is back."""
        while True:
            try:
                await self._watch_once()
            except OSError as error:
                self._complain(str(error))
                await asyncio.sleep(self._retry_s)

    async def _watch_once(self) -> None:
        """Follow the directories of the file as it resolves now; return when it resolves to another one.

        Raises: OSError -> a directory cannot be watched, or has gone.
        """
        directories = _directories(self._path)
        with Inotify() as inotify:
            for directory in directories:
                inotify.add_watch(directory, _CONTENT | _GONE | Mask.ONLYDIR)
            while _directories(self._path) == directories:
                await self._look()
                if await self._settle(inotify):
                    await self._look()
                    return

    async def _settle(self, inotify: Inotify) -> bool:
        """Wait for events to come and then to calm down; return whether a watched directory has gone."""
        vanished = False
        wait_s = self._poll_s
        deadline = None
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(wait_s):  # wait_for() of Python 3.11 can lose a cancellation here
                    event = await inotify.get()
            except TimeoutError:
                return vanished
            vanished = vanished or bool(event.mask & (_GONE | Mask.IGNORED | Mask.UNMOUNT))
            deadline = deadline or loop.time() + self._debounce_s
            wait_s = deadline - loop.time()
            if wait_s <= 0:
                return vanished

    async def _look(self) -> None:
        """Call `on_change` if the content is new. A file that is missing or unreadable is not a new content."""
        found = await asyncio.to_thread(_digest, self._path)
        if found is None:
            self._complain("the file is missing or cannot be read; what it said last stays active")
            return
        if self._complained:
            self._complained = False
            self._on_trouble(None)
        if found != self._known:
            self._known = found
            await self._on_change()

    def _complain(self, error: str) -> None:
        """Say once what is wrong, until it is well again."""
        if not self._complained:
            self._complained = True
            self._on_trouble(error)


class ConfigWatch(FileWatch):
    """Watches the configuration, and tells of trouble by an event."""

    def __init__(self, path: Path, on_change: Callable[[], Awaitable[object]], emit: Emit, **waits: float) -> None:
        """Take what a `FileWatch` takes, and where events go."""

        def tell(error: str | None) -> None:
            if error is not None:
                emit(Event.CONFIG_WATCH_FAILED, path=str(path), error=error)

        super().__init__(path, on_change, tell, **waits)


def _directories(path: Path) -> frozenset[Path]:
    """Return the directory that holds the name, and the one that holds the file behind symbolic links."""
    try:
        return frozenset((path.absolute().parent, path.resolve().parent))
    except (OSError, RuntimeError):  # a loop of symbolic links: wait for it to be mended
        return frozenset((path.absolute().parent,))


def _digest(path: Path) -> bytes | None:
    try:
        return hashlib.blake2b(path.read_bytes()).digest()
    except OSError:
        return None
