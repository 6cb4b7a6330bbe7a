"""The programs of a Docker Engine, from Debian 13, unpacked into a directory: nothing is installed, no service is made.

Debian 12's own engine (20.10) is too old for conf/compose.yaml: to its CAP_BPF it answers `unknown capability`. These
packages need no newer C library than Debian 12 has; runc and slirp4netns of Debian 13 do: those are this machine's own.
"""

import shutil
import subprocess
from pathlib import Path

from asynclb.errors import HostError

_RELEASE = "trixie"
_PACKAGES = ("containerd", "docker-buildx", "docker-cli", "docker-compose", "docker.io")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
LIMIT_S = 600  # 90 MB from a slow mirror


def unpack_engine(home: Path) -> None:
    """Download the packages and unpack them into `files`, which is as `/` to them. Cost: 5 s.

    Raises: HostError -> apt, Debian's keys or a mirror of Debian are not here.
    """
    mirror = _mirror()
    for name in ("state/lists/partial", "cache/archives/partial", "files"):
        (home / name).mkdir(parents=True)
    (home / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror} {_RELEASE} main\n")
    settings = {
        "APT::Sandbox::User": "root",
        "Dir::Cache": home / "cache",
        "Dir::Etc::sourcelist": home / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": home / "state",
        "Dir::State::status": "/dev/null",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    _run(home, "apt-get", "-qq", *options, "update")
    _run(home, "apt-get", "-qq", *options, "download", *_PACKAGES)
    for package in home.glob("*.deb"):
        _run(home, "dpkg-deb", "--extract", package, "files")


def _mirror() -> str:
    """Return where this machine's apt has Debian's packages from."""
    missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
    if missing or not _KEYRING.exists():
        raise HostError(f"a Docker Engine is unpacked with apt and Debian's keys; missing: {missing or _KEYRING}")
    listing = ("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian")
    found = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
    if not found:
        raise HostError("a Docker Engine is unpacked from a mirror of Debian, and apt knows none here")
    return found[0]


def _run(home: Path, *words: str | Path) -> None:
    done = subprocess.run(words, cwd=home, check=False, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, f"{words[0]}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
