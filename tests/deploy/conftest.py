"""What both ways of building the image share: a directory, and what stands for the image that the Dockerfile names."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pip
import pytest

from asynclb.errors import HostError
from asynclb.lab import require_root, require_tools
from asynclb.lab.registry import claim, sweep
from tests.deploy.image.base import LIMIT_S, make_base

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def work() -> Iterator[Path]:
    """Give the tests a directory that the labs' register removes even if this process is killed."""
    try:
        require_root("building an image")
        require_tools("nginx", "curl")
    except HostError as error:
        pytest.fail(str(error), pytrace=False)
    sweep()
    with ExitStack() as stack:
        entry = claim("image")
        stack.callback(entry.remove)
        yield entry.directory


@pytest.fixture(scope="session")
def stand_in(work: Path) -> Path:
    """Fill the directory: base, a Debian with Python; wheels, all that pip installs there; pip.conf, which says so."""
    (work / "base").mkdir()
    make_base(work / "base", Path(pip.__file__).parent)
    locks = [word for name in ("build", "run") for word in ("-r", ROOT / ".ci" / f"requirements-{name}.txt")]
    download = (sys.executable, "-m", "pip", "-qq", "download", "--require-hashes", *locks, "-d", work / "wheels")
    subprocess.run(download, check=True, timeout=LIMIT_S)
    (work / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels-here\n")
    return work
