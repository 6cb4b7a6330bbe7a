"""What the repository promises of itself: the direction of imports, sizes, documentation, locks."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import asynclb

ROOT = Path(__file__).parents[2]
PACKAGE = sorted(ROOT.glob("asynclb/**/*.py"))
TESTS = sorted(ROOT.glob("tests/**/*.py"))
TEXTS = sorted(
    path
    for pattern in ("asynclb/**/*", "tests/**/*", "conf/**/*", "examples/**/*", ".ci/*", "*")
    for path in ROOT.glob(pattern)
    if path.name != ".git"
    and path.is_file()
    and path.suffix in {".py", ".c", ".h", ".md", ".yaml", ".yml", ".toml", ".txt", ".json", ""}
)

FILE_LINES, FUNCTION_LINES = 400, 50
LONGER: dict[str, int] = {
    "asynclb/datapath/core/layout.py": 700,  # one declaration of all that C and Python share, read by path: a list
}
"""Files (path) and functions (path::name) that may be longer, each with its limit and, beside it, why."""

FORBIDDEN = re.compile(r"[/]work/(main|shared)|[/]tmp/venv\b|[/]opt/(wheels|pypi)|\bissue #?\d+ of \d+\b")
"""Paths of the machine that something was written on: they mean nothing to whoever reads it."""


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def name(path: Path) -> str:
    """Return a file's path in the repository."""
    return path.relative_to(ROOT).as_posix()


def dependencies() -> set[str]:
    """Return the names of all that pyproject.toml depends on, as package indexes spell them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return {re.split(r"[<>=\[; ]", line)[0].lower().replace("_", "-") for line in wanted}


def test_imports_go_one_way() -> None:
    """The contracts in pyproject.toml hold."""
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_files_and_functions_fit_on_a_page_or_two() -> None:
    """A file has at most 400 lines and a function 50, but for those listed with their reason."""
    sizes = {name(path): len(path.read_text().splitlines()) for path in PACKAGE}
    long = {file: lines for file, lines in sizes.items() if lines > LONGER.get(file, FILE_LINES)}
    for path in PACKAGE:
        for node in functions(path):
            lines, key = (node.end_lineno or node.lineno) - node.lineno + 1, f"{name(path)}::{node.name}"
            if lines > LONGER.get(key, FUNCTION_LINES):
                long[key] = lines
    assert not long


def test_every_module_says_what_it_is_about() -> None:
    """Each file of the package opens with a docstring of at least a few words."""
    assert [name(path) for path in PACKAGE if len(ast.get_docstring(ast.parse(path.read_text())) or "") < 20] == []


def test_every_test_says_what_it_expects() -> None:
    """Each test function has a sentence of behaviour."""
    tests = [(path, node) for path in TESTS for node in functions(path) if node.name.startswith("test_")]
    assert [f"{name(path)}::{node.name}" for path, node in tests if not ast.get_docstring(node)] == []


def test_nothing_names_the_machine_it_was_written_on() -> None:
    """No path of a workplace is left in a file."""
    found = {name(path): FORBIDDEN.search(path.read_text(errors="replace")) for path in TEXTS}
    assert {file: match[0] for file, match in found.items() if match} == {}


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-run.txt", "requirements-build.txt"])
def test_the_lock_names_no_index_and_every_version_has_hashes(file: str) -> None:
    """The lock works with any index, and installs nothing but what was locked."""
    text = (ROOT / ".ci" / file).read_text()
    assert not re.search(r"https?://|file:|^-", text, re.MULTILINE)
    pins = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert [pin.splitlines()[0] for pin in pins if "==" not in pin or "--hash=sha256:" not in pin] == []


def test_the_lock_has_every_dependency() -> None:
    """What pyproject.toml asks for is locked; `.ci/lock` does it."""
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / ".ci" / "requirements.txt").read_text(), re.MULTILINE))
    assert dependencies() - locked == set()


def test_the_version_is_written_once() -> None:
    """The package's version is the project's, and the changelog knows it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "asynclb/__init__.py"
    changelog = ROOT / "CHANGELOG.md"
    assert asynclb.__version__ in changelog.read_text()


def test_every_event_says_which_fields_it_carries() -> None:
    """Log searches depend on names and fields, so each event's line has both."""
    lines = [
        line for line in (ROOT / "asynclb/events.py").read_text().splitlines() if re.match(r"    [A-Z_]+ = \"", line)
    ]
    assert lines
    assert [line for line in lines if not re.match(r'    ([A-Z_]+) = "[a-z_]+"  # \w+', line)] == []


def test_every_drop_reason_is_explained() -> None:
    """Each reason in the enumeration has a sentence, which the documentation and the pages show."""
    (drop,) = [n for n in ast.parse((ROOT / "asynclb/net/drop.py").read_text()).body if isinstance(n, ast.ClassDef)]
    members = [index for index, node in enumerate(drop.body) if isinstance(node, ast.Assign)]
    following = [drop.body[index + 1] for index in members if index + 1 < len(drop.body)]
    assert len(members) == len([n for n in following if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)])


def test_the_build_compiles_every_c_file() -> None:
    """A C file that the build hook does not list would never be compiled."""
    package = ROOT / "asynclb"
    (listed,) = [
        ast.literal_eval(node.value)
        for node in ast.parse((package / "native" / "build.py").read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "SOURCES"
    ]
    listed = (*listed, "datapath/kernel/bpf.c")  # compiled for the kernel, into an object of its own
    assert sorted(listed) == sorted(path.relative_to(package).as_posix() for path in package.glob("**/*.c"))
