"""A base image out of what this machine has: its own Debian packages, and the Python that runs the tests.

It stands in for the image that the Dockerfile names where no registry can be asked: Debian with apt and this machine's
package sources, Python and pip in /usr/local. dpkg knows each package that is in it and no other, so the Dockerfile's
`apt-get install` does there what it does over the real one. Copying takes seconds; a bootstrap downloads for minutes.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

LIMIT_S = 1_200
"""For whatever downloads: a slow mirror of packages. A minute or three is what it takes."""
_PACKAGES = ("apt", "ca-certificates", "mawk", "gawk")
"""What images of Python have beside the essential packages, as far as this image needs it."""
_DIRECTORIES = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var/tmp", "var/log/apt", "usr/local")
_APT = ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/lib/dpkg/info", "var/lib/dpkg/updates")
_MERGED = ("bin", "sbin", "lib", "lib64")
_CONFIGURATION = (
    "/etc/apt",
    "/etc/ca-certificates.conf",
    "/etc/debian_version",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ssl",
)
_DOCUMENTS = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/")
_NOT_NEEDED = shutil.ignore_patterns(
    "test", "tests", "idlelib", "tkinter", "lib2to3", "_tkinter*", "config-*", "__pycache__", "*-packages"
)
_USERS = "root:x:0:0:root:/root:/bin/sh\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n"
_GROUPS = "root:x:0:\nnogroup:x:65534:\n"


def make_base(root: Path, pip: Path) -> None:
    """Fill an empty directory; `pip` is where the package pip lies, which the interpreter of a system may lack."""
    for path in (*_DIRECTORIES, *_APT, *(f"usr/{name}" for name in _MERGED)):
        (root / path).mkdir(parents=True, exist_ok=True)
    for path in _MERGED:
        (root / path).symlink_to(f"usr/{path}")
    (root / "tmp").chmod(0o1777)
    (root / "var" / "tmp").chmod(0o1777)
    (root / "etc" / "passwd").write_text(_USERS)
    (root / "etc" / "group").write_text(_GROUPS)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    stdlib = Path(sys.base_prefix, "lib", version)
    packages = _with_dependencies([*_essential(), *_PACKAGES, *_owners(_libraries(stdlib))])
    _copy([*_files(packages), *_CONFIGURATION], root)
    _tell_dpkg(packages, root / "var" / "lib" / "dpkg")
    _alternatives(root)
    _python(root, version, stdlib, pip)


def _output(*words: str | Path) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def _essential() -> list[str]:
    listing = _output("dpkg-query", "-W", "-f", "${Package} ${Essential}\\n")
    return [line.split()[0] for line in listing.splitlines() if line.endswith(" yes")]


def _libraries(stdlib: Path) -> set[Path]:
    """Return the libraries that the interpreter and its modules are linked with."""
    modules = [path for path in (stdlib / "lib-dynload").glob("*.so") if not path.name.startswith("_tkinter")]
    linked = _output("ldd", os.path.realpath(sys.executable), *modules)
    return {Path(found) for found in re.findall(r"=> (/\S+)", linked)}


def _owners(libraries: set[Path]) -> set[str]:
    """Return the packages of libraries. A library that came with the interpreter has none."""
    names = {
        str(name) for path in libraries for name in (path, path.resolve(), f"/lib/{path}".replace("/lib//usr/", "/"))
    }
    found = subprocess.run(["dpkg-query", "-S", *sorted(names)], check=False, capture_output=True, text=True)
    return {line.partition(":")[0] for line in found.stdout.splitlines()}


def _with_dependencies(names: Iterable[str]) -> list[str]:
    """Return installed packages and all that they depend on, as dpkg names them."""
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    known = _output("apt-cache", "depends", "--recurse", "--installed", *(f"--no-{kind}" for kind in kinds), *names)
    wanted = {line.partition(":")[0] for line in known.splitlines() if line and not line.startswith((" ", "<"))}
    installed = _output("dpkg-query", "-W", "-f", "${Package} ${binary:Package} ${db:Status-Status}\\n").splitlines()
    rows = (line.split() for line in installed)
    return [name for package, name, status in rows if package in wanted and status == "installed"]


def _files(packages: list[str]) -> list[str]:
    """Return the files of packages, without documents; dpkg may say /bin for what is in /usr/bin."""
    listed = _output("dpkg-query", "-L", *packages).splitlines()
    paths = {Path(path) for path in listed if path.startswith("/") and not path.startswith(_DOCUMENTS)}
    real = {path.parent.resolve() / path.name for path in paths}
    return sorted(str(path) for path in real if path.is_symlink() or path.is_file())


def _copy(paths: Iterable[str], root: Path) -> None:
    """Copy with owners, modes and links, in one go."""
    there = "\0".join(path.lstrip("/") for path in paths if os.path.lexists(path))
    packed = subprocess.run(
        ["tar", "-C", "/", "--null", "--files-from=-", "-cf", "-"],
        input=there.encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    subprocess.run(["tar", "-C", root, "--keep-directory-symlink", "-xpf", "-"], input=packed.stdout, check=True)


def _tell_dpkg(packages: list[str], place: Path) -> None:
    """Write dpkg's data base as if nothing else had ever been installed."""
    named = {name.partition(":")[0] for name in packages}
    stanzas = Path("/var/lib/dpkg/status").read_text(encoding="utf-8").split("\n\n")
    kept = [text for text in stanzas if text.strip() and text.split()[1] in named]
    (place / "status").write_text("\n\n".join(kept) + "\n\n", encoding="utf-8")
    (place / "available").touch()
    for path in Path("/var/lib/dpkg/info").iterdir():
        if path.name == "format" or path.stem in packages:
            shutil.copy2(path, place / "info")


def _alternatives(root: Path) -> None:
    """Link the programs of which Debian lets one choose, such as awk, where the one chosen is here."""
    for choice in Path("/etc/alternatives").iterdir():
        record = Path("/var/lib/dpkg/alternatives", choice.name)
        if not record.exists() or not (root / str(choice.readlink()).lstrip("/")).exists():
            continue
        link = record.read_text(encoding="utf-8").splitlines()[1]
        _copy([str(choice), str(record), link], root)


def _python(root: Path, version: str, stdlib: Path, pip: Path) -> None:
    """Put the interpreter, its library and pip where images of Python have them."""
    local = root / "usr" / "local"
    (local / "bin").mkdir()
    shutil.copy2(os.path.realpath(sys.executable), local / "bin" / version)
    for name in ("python", "python3"):
        (local / "bin" / name).symlink_to(version)
    shutil.copytree(stdlib, local / "lib" / version, symlinks=True, ignore=_NOT_NEEDED)
    for library in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
        shutil.copy2(library, local / "lib", follow_symlinks=False)
    subprocess.run(["ldconfig", "-r", root], check=True)
    inside = _output("chroot", root, f"/usr/local/bin/{version}", "-c", "import site; print(site.getsitepackages()[0])")
    packages = root / inside.strip().lstrip("/")
    packages.mkdir(parents=True, exist_ok=True)
    shutil.copytree(pip, packages / "pip", ignore=shutil.ignore_patterns("__pycache__"))
