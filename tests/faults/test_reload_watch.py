"""The file watch against what really happens to configuration files."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from asynclb.control.watch import ConfigWatch
from asynclb.events import Event
from asynclb.lab import PATIENCE_S
from tests.unit.control.fakes import Log


class Follower:
    """Remembers the content at every change that it was told of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[str] = []

    async def changed(self) -> None:
        self.seen.append(self.path.read_text())

    async def until(self, count: int) -> list[str]:
        """Wait for so many changes, then a little for one too many."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.seen) < count:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        return self.seen


@asynccontextmanager
async def watching(path: Path, log: Log, *, poll_s: float = 60.0) -> AsyncIterator[Follower]:
    """Watch a file with short waits."""
    follower = Follower(path)
    watch = ConfigWatch(path, follower.changed, log, debounce_s=0.02, poll_s=poll_s, retry_s=0.02)
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(0.05)
    try:
        yield follower
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def config_map(root: Path, version: int) -> None:
    """Publish a version as kubelet does: a new directory, and the link `..data` renamed over the old one."""
    directory = root / f"..version_{version}"
    directory.mkdir()
    (directory / "asynclb.yaml").write_text(f"version {version}")
    draft = root / "..data_tmp"
    draft.symlink_to(directory.name)
    draft.replace(root / "..data")
    old = root / f"..version_{version - 1}"
    if old.exists():
        shutil.rmtree(old)


async def test_config_map_swaps_three_times_in_a_row(tmp_path: Path) -> None:
    """Every swap of the link is seen, not only the first one."""
    config_map(tmp_path, 0)
    (tmp_path / "asynclb.yaml").symlink_to("..data/asynclb.yaml")
    async with watching(tmp_path / "asynclb.yaml", Log()) as follower:
        for version in (1, 2, 3):
            config_map(tmp_path, version)
            await follower.until(version)
        seen = follower.seen

    assert seen == ["version 1", "version 2", "version 3"]


def rename_over(path: Path, text: str) -> None:
    """Save as vim and most tools do."""
    draft = path.with_name(".draft")
    draft.write_text(text)
    draft.replace(path)


def write_in_place(path: Path, text: str) -> None:
    """Save as nano and shells do."""
    path.write_text(text)


def remove_and_write(path: Path, text: str) -> None:
    """Save as some editors with backups do: the old one is moved away first."""
    path.rename(path.with_suffix(".bak"))
    path.write_text(text)


@pytest.mark.parametrize("save", [rename_over, write_in_place, remove_and_write])
async def test_every_way_to_save(tmp_path: Path, save: Callable[[Path, str], None]) -> None:
    """However a file is saved, each new content is told once, and a save without a change is not told."""
    path = tmp_path / "asynclb.yaml"
    path.write_text("old")
    async with watching(path, Log()) as follower:
        save(path, "one")
        await follower.until(1)
        save(path, "one")
        await asyncio.sleep(0.1)
        save(path, "two")
        seen = await follower.until(2)

    assert seen == ["one", "two"]


async def test_a_file_behind_a_link_elsewhere(tmp_path: Path) -> None:
    """A link to a file in another directory: a new file there is seen, and so is a link that is turned."""
    for name in ("here", "there", "elsewhere"):
        (tmp_path / name).mkdir()
    link, target = tmp_path / "here" / "asynclb.yaml", tmp_path / "there" / "real.yaml"
    target.write_text("old")
    link.symlink_to(target)
    async with watching(link, Log()) as follower:
        rename_over(target, "one")
        await follower.until(1)
        other = tmp_path / "elsewhere" / "real.yaml"
        other.write_text("two")
        draft = link.with_name("draft")
        draft.symlink_to(other)
        draft.replace(link)
        await follower.until(2)
        rename_over(other, "three")
        seen = await follower.until(3)

    assert seen == ["one", "two", "three"]


async def test_the_directory_vanishes_and_comes_back(tmp_path: Path) -> None:
    """A directory that is removed is an event, told once; when it is back with a new content, that is seen."""
    path = tmp_path / "conf" / "asynclb.yaml"
    path.parent.mkdir()
    path.write_text("old")
    log = Log()
    async with watching(path, log) as follower:
        shutil.rmtree(path.parent)
        await asyncio.sleep(0.2)
        assert log.names() == [Event.CONFIG_WATCH_FAILED]
        path.parent.mkdir()
        path.write_text("new")
        await follower.until(1)
        rename_over(path, "newer")
        seen = await follower.until(2)

    assert seen == ["new", "newer"]


async def test_a_missing_file_is_told_and_changes_nothing(tmp_path: Path) -> None:
    """Deleting the file is one event; putting the same content back is no change."""
    path = tmp_path / "asynclb.yaml"
    path.write_text("old")
    log = Log()
    async with watching(path, log) as follower:
        path.unlink()
        await asyncio.sleep(0.1)
        path.write_text("old")
        await asyncio.sleep(0.1)
        seen = follower.seen

    assert seen == []
    assert log.names() == [Event.CONFIG_WATCH_FAILED]


async def test_without_events_the_content_is_polled(tmp_path: Path) -> None:
    """A change that sends no event (as on a network file system) is found by looking."""
    directory = tmp_path / "conf"
    directory.mkdir()
    path = directory / "asynclb.yaml"
    path.write_text("old")
    writer = os.open(path, os.O_WRONLY)  # a write that is not followed by a close sends no event that is watched
    async with watching(path, Log(), poll_s=0.05) as follower:
        os.write(writer, b"new")
        seen = await follower.until(1)

    try:
        assert seen == ["new"]
    finally:
        os.close(writer)


async def test_a_storm_of_events_is_survived(tmp_path: Path) -> None:
    """Thousands of files in the directory cost a look per debounce, and the last content is the one that is told."""
    path = tmp_path / "asynclb.yaml"
    path.write_text("old")
    async with watching(path, Log()) as follower:
        for number in range(3000):
            (tmp_path / f"other-{number % 50}").write_text("x")
            if number % 100 == 0:
                await asyncio.sleep(0)
        rename_over(path, "new")
        seen = await follower.until(1)

    assert seen == ["new"]
