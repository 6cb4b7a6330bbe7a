"""The installation's hash seed."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asynclb.control.seed import FILE_NAME, installation_seed, read_seed, state_directory
from asynclb.events import Event
from tests.unit.control.fakes import Log


def test_made_once_and_kept(tmp_path: Path) -> None:
    """The first call makes the seed with mode 0600, later ones find the same."""
    log, place = Log(), tmp_path / "state"
    first = installation_seed(place, log)
    assert installation_seed(place, log) == first == read_seed(place)
    assert stat.S_IMODE((place / FILE_NAME).stat().st_mode) == 0o600
    assert [path.name for path in place.iterdir()] == [FILE_NAME]
    assert log.events == []


def test_makers_at_once_agree(tmp_path: Path) -> None:
    """Whoever is first decides; nobody reads a half-written file."""
    with ThreadPoolExecutor(8) as pool:
        seeds = set(pool.map(lambda _: installation_seed(tmp_path, Log()), range(32)))
    assert len(seeds) == 1


@pytest.mark.parametrize("content", ["", "not hex", "f" * 17, "-1"])
def test_a_spoilt_file_is_left_alone(tmp_path: Path, content: str) -> None:
    """A file that holds something else is not overwritten: the process uses a random seed and says so."""
    (tmp_path / FILE_NAME).write_text(content)
    log = Log()
    assert installation_seed(tmp_path, log) != installation_seed(tmp_path, log)
    assert log.names() == [Event.HOST_LIMIT, Event.HOST_LIMIT]
    assert (tmp_path / FILE_NAME).read_text() == content


def test_nowhere_to_keep_it(tmp_path: Path) -> None:
    """Where the directory cannot be made, the event names the file and two remedies."""
    (tmp_path / "file").write_text("")
    log = Log()
    installation_seed(tmp_path / "file" / "below", log)
    (fields,) = log.of(Event.HOST_LIMIT)
    assert str(tmp_path / "file" / "below" / FILE_NAME) in str(fields["value"])
    assert "hash_seed" in str(fields["remedy"])


def test_where_it_is_kept() -> None:
    """systemd's list of directories is used by its first entry; without it there is one fixed place."""
    assert state_directory({"STATE_DIRECTORY": f"/a{os.pathsep}/b"}) == Path("/a")
    assert state_directory({}) == Path("/var/lib/asynclb")
