"""Members from a file, which is read again whenever its content changes.

A file that is renamed into place is never seen half written. One that is written in place is read once the writer has
closed it, or a moment after it was made; what is no list of members by then is a failure, and the last members stay.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from asynclb.discovery.source import Answer, Failure, Finding, ReadMembers, Say, wrong_answer
from asynclb.errors import ConfigError
from asynclb.model import FileSource

MAX_BYTES = 10 * 1024 * 1024  # as a configuration: 65,535 members are 5 MiB


class Watch(Protocol):
    """Watches a file."""

    async def run(self) -> None:
        """Watch until cancelled."""


WatchFile = Callable[[Path, Callable[[], Awaitable[object]], Callable[[str | None], None]], Watch]
"""Make a watch of a path that calls the first for each new content, and the second with why there is none, or None."""


class FileMembers:
    """A `Source`. Owner: the task in `run`."""

    def __init__(self, source: FileSource, directory: Path, read: ReadMembers, watch: WatchFile) -> None:
        """Take where relative paths begin, who reads members, and who watches."""
        self._path = directory / source.path
        self._read = read
        self._watch = watch

    async def run(self, say: Say) -> None:
        """Say what the file says, now and whenever that changes."""

        found: Finding = Failure("")

        async def look() -> None:
            nonlocal found
            found = await asyncio.to_thread(self._find)
            say(found)

        def trouble(why: str | None) -> None:
            say(found if why is None else Failure(f"{self._path}: {why}"))

        watch = self._watch(self._path, look, trouble)  # before the first look, so that no change is missed
        await look()
        await watch.run()

    def _find(self) -> Finding:
        try:
            with self._path.open("rb") as file:
                return Answer(self._read(file.read(MAX_BYTES + 1), file=str(self._path)))
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte
            return Failure(f"{self._path}: it cannot be read: {error}")
        except ConfigError as error:
            return wrong_answer(error)
