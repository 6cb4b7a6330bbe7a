"""A configuration that is read after another one: the same answer, and less work for what stands as it stood."""

from pathlib import Path

import pytest

from asynclb.config import Loader, Parsed, parse
from asynclb.errors import ConfigError
from tests.unit.config.base import changed

MEMBERS = "backend_pools.web.members"
BEFORE = parse(changed({f"{MEMBERS}.0.weight": 1}), file="a.yaml")


def specs(found: Parsed) -> dict[str, object]:
    """Return the validated members of the pool web by name."""
    return {spec.name: spec for spec in found.draft.pools["web"].members.values()}


def test_members_that_stand_as_they_stood_are_not_validated_again() -> None:
    """Of two members one gets another address: the other one is the very object that it was, wherever it stands now."""
    moved = {"name": "web-1", "address": "10.1.0.99", "weight": 1}
    text = changed({MEMBERS: [{"name": "web-2", "address": "10.1.0.12"}, moved]})
    after = parse(text, file="a.yaml", before=BEFORE)
    assert after.model == parse(text, file="a.yaml").model
    assert specs(after)["web-2"] is specs(BEFORE)["web-2"]
    assert specs(after)["web-1"] is not specs(BEFORE)["web-1"]


@pytest.mark.parametrize("weight", [True, "1", "one", None, -1])
def test_what_only_looks_equal_is_validated(weight: object) -> None:
    """To Python 1 and true are equal; a member that says the other one is told the same as without a file before."""
    text = changed({f"{MEMBERS}.0.weight": weight})
    said = []
    for before in (None, BEFORE):
        with pytest.raises(ConfigError) as caught:
            parse(text, file="a.yaml", before=before)
        said.append([str(problem) for problem in caught.value.problems])
    assert said[0] == said[1]


def test_a_member_that_stands_twice_is_told_of() -> None:
    """Each of two equal members was sound by itself; together they are refused as ever."""
    text = changed({MEMBERS: [{"name": "web-2", "address": "10.1.0.12"}] * 2})
    with pytest.raises(ConfigError, match="web-2"):
        parse(text, file="a.yaml", before=BEFORE)


def test_a_loader_compares_with_the_last_sound_file(tmp_path: Path) -> None:
    """A file that is refused in between changes nothing of that."""
    path, loader = tmp_path / "a.yaml", Loader()
    path.write_bytes(changed({}))
    first = loader.load(path)
    path.write_bytes(b"version: 2")
    with pytest.raises(ConfigError):
        loader.load(path)
    path.write_bytes(changed({"shutdown_drain": "1s"}))
    assert specs(loader.load(path)) == specs(first)
    assert specs(loader.load(path))["web-1"] is specs(first)["web-1"]


def test_a_file_that_is_read_again_is_not_parsed_again(tmp_path: Path) -> None:
    """The same text under the same name is the same tree; a comment makes another one, of an equal model."""
    path, loader = tmp_path / "a.yaml", Loader()
    path.write_bytes(changed({}))
    first = loader.load(path)
    again = loader.load(path)
    assert again.source is first.source
    assert (again.model, again.digest) == (first.model, first.digest)
    path.write_bytes(changed({}) + b"# once more\n")
    second = loader.load(path)
    assert (second.model, second.digest) == (first.model, parse(path.read_bytes(), file="a.yaml").digest)
    assert second.source is not first.source


def test_a_file_that_is_read_again_is_checked_again(tmp_path: Path) -> None:
    """What the host has to have for it may be gone meanwhile."""
    path, loader, logs = tmp_path / "a.yaml", Loader(), tmp_path / "logs"
    logs.mkdir()
    path.write_bytes(changed({"flow_log": {"path": str(logs / "flows.jsonl")}}))
    loader.load(path)
    logs.rmdir()
    with pytest.raises(ConfigError, match="flow_log"):
        loader.load(path)
