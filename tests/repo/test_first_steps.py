"""What a stranger meets first: the README's words, the commands, and what they install."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from asynclb import config
from asynclb.control.prepare import prepare
from asynclb.kinds import static_candidates
from asynclb.model import Model
from asynclb.observe import metrics

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted(path for path in ROOT.glob("**/*.md") if not {".venv", ".git"} & set(path.parts))
MAKEFILE = (ROOT / "Makefile").read_text()
SETUP = ROOT / ".ci" / "setup"
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def run(*words: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the checkout as its user would, and return what it said and its exit code."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | settings
    return subprocess.run(words, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link of a document names a file that is here."""
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    assert [link for link in links if "://" not in link and not (document.parent / link).exists()] == []


def test_the_configuration_in_the_readme_is_fine(tmp_path: Path) -> None:
    """What a stranger copies out of the README is accepted as it stands, without a warning."""
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        file = tmp_path / "asynclb.yaml"
        file.write_text(block)
        parsed = config.load(str(file))
        assert parsed.warnings == ()
        assert prepare(parsed, static_candidates(), Model()).rows


def test_the_smallest_configuration_is_fine() -> None:
    """conf/asynclb.yaml is accepted without a warning, by `check` as by a host."""
    parsed = config.load(str(ROOT / "conf" / "asynclb.yaml"))
    assert parsed.warnings == ()
    assert prepare(parsed, static_candidates(), Model()).rows


def test_commands_in_the_readme_exist() -> None:
    """Every `make` target and every `asynclb` command that the README names is there."""
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)\b(?=`|  )", README))
    assert {"demo", "test", "bench"} <= named <= targets
    listed = run(sys.executable, "-m", "asynclb", "--help")
    commands = set(re.findall(r"^  ([a-z]+) ", listed.stdout, re.MULTILINE))
    assert set(re.findall(r"(?:\basynclb|bin/asynclb) (run|check|explain|show|reload|[a-z]+)`", README)) <= commands


def test_the_readme_keeps_a_place_for_the_bench() -> None:
    """The bench writes its table between two markers, which stand in the README once, in order."""
    begin, end = "<!-- bench:begin -->", "<!-- bench:end -->"
    assert README.count(begin) == README.count(end) == 1
    assert README.index(begin) < README.index(end)


def test_exit_codes_are_those_of_the_process() -> None:
    """The README's table has the codes that `app` and `cli` document."""
    table = README.partition("| exit code |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE) == ["0", "1", "2", "70"]


def test_documents_name_metrics_that_exist() -> None:
    """A metric that a document names is one that a scrape shows."""
    source = Path(metrics.__file__).read_text()
    for document in DOCUMENTS:
        for name in re.findall(r"\basynclb_[a-z_]+\b(?=`)", document.read_text()):
            assert name.removesuffix("_total") in source, f"{document.name}: {name}"


def test_help_lists_every_target_that_is_explained() -> None:
    """`make` alone says what there is, and installs nothing."""
    shown = run("make", "--no-print-directory")
    explained = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)
    assert re.findall(r"^  make ([a-z-]+) ", shown.stdout, re.MULTILINE) == explained


def test_setup_refuses_what_it_does_not_know() -> None:
    """A wrong word, or an interpreter that does not fit, ends with one line that says what would."""
    found = run(SETUP, "everything")
    words = "demo | test | bench | fuzz | image | venv | own"
    assert (found.returncode, found.stderr) == (1, f"setup: what for? .ci/setup {words}\n")
    found = run(SETUP, "venv", PYTHON="/bin/false")
    assert (found.returncode, found.stderr) == (
        1,
        "setup: PYTHON=/bin/false is no Python 3.11, 3.12 or 3.13 that runs\n",
    )


@pytest.mark.parametrize("script", [SETUP, ROOT / ".ci" / "lock"], ids=lambda path: path.name)
def test_scripts_are_posix_shell(script: Path) -> None:
    """The scripts are what dash can read: a fresh Debian has it as /bin/sh."""
    assert script.read_text().startswith("#!/bin/sh\n")
    assert run("sh", "-n", script).returncode == 0


def test_the_image_runs_a_supported_python_as_nobody_special() -> None:
    """The Dockerfile's Python is one that pyproject.toml supports, and its last USER is not root."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = [line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE, re.MULTILINE)[0] in supported
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)[-1] == "65532:65532"


def test_the_image_sees_what_it_copies() -> None:
    """Everything that the Dockerfile copies from the checkout is let through by .dockerignore."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored[0] == "*"
    let_through = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)]
    for source in {source.rstrip("/") for words in copied for source in words}:
        assert (ROOT / source).exists()
        assert source in let_through


@pytest.mark.slow
def test_the_unprivileged_example_does_what_it_says() -> None:
    """It verifies itself on the loopback, and its exit code is its verdict."""
    found = run(sys.executable, ROOT / "examples" / "unprivileged" / "run.py")
    assert found.returncode == 0, found.stdout + found.stderr
