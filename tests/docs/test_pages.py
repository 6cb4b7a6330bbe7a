"""Every page of the documentation does what it says."""

import runpy
import shutil
from pathlib import Path

import pytest

from asynclb import config
from asynclb.errors import HostError
from asynclb.lab import require_root, require_tools
from tests.docs.commands import commands
from tests.docs.page import blocks, matches, tried

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for folder in ("conf", "examples") for path in (ROOT / folder).rglob("*.md"))
FOLLOWED = [page for page in PAGES if any(block.kind == "sh" and not block.word for block in blocks(page))]
WITH_FILES = [page for page in PAGES if any(block.kind == "yaml" for block in blocks(page))]


def title(page: Path) -> str:
    """Return a page's path in the checkout."""
    return page.relative_to(ROOT).as_posix()


@pytest.mark.netns
@pytest.mark.parametrize("page", FOLLOWED, ids=title)
def test_commands_do_what_the_page_says(page: Path, tmp_path: Path) -> None:
    """A reader who types what a page has sees what it shows."""
    try:
        require_root("network namespaces")
        require_tools("ip", "curl", "unshare")
    except HostError as error:
        pytest.skip(str(error))
    for name in ("conf", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for expected, said in tried(page, tmp_path):
        assert matches(expected, said), f"the page has:\n{expected}\nand this was printed:\n{said}"


@pytest.mark.parametrize("page", WITH_FILES, ids=title)
def test_configurations_in_pages_are_fine(page: Path, tmp_path: Path) -> None:
    """What a reader copies out of a page is accepted as it stands: whole files, and parts in a whole around them."""
    for block in blocks(page):
        if block.kind == "yaml" and "version:" in block.text:
            file = tmp_path / "asynclb.yaml"
            file.write_text(block.text)
            assert config.load(str(file)).model.rules


def test_every_command_of_an_engine_is_run() -> None:
    """Documents have no other `docker` commands than those of the kinds that tests/deploy/engine/check.py runs."""
    assert {line.split()[1] for line in commands("docker")} == {"build", "run", "compose"}
    assert commands("podman") == commands("buildah") == []


def test_output_is_compared_word_by_word() -> None:
    """Blanks may differ and `...` is anything; all else counts."""
    assert matches("a  b\n...\nz\n", "a b\nmuch\nmore\nz")
    assert matches("at ... o'clock", "at 12 o'clock")
    assert not matches("a b", "a c")
    assert not matches("a", "a b")


def test_the_reference_is_what_the_program_says() -> None:
    """conf/REFERENCE.md is what conf/reference.py writes now: no key, metric, reason or event is missing."""
    written = (ROOT / "conf" / "REFERENCE.md").read_text()
    assert written == runpy.run_path(str(ROOT / "conf" / "reference.py"))["page"](), "run: python conf/reference.py"
