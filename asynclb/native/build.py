"""Builds the native library and the BPF object: a hatchling hook for wheels and editable installs, and a command.

The compiler is the one in the PyPI package `ziglang`, so nothing of the system is needed. The library links
nothing (no libc), so that one file serves glibc and musl of any age: the wheel's tag names both.

`ASYNCLB_ARCH=aarch64` cross-compiles a wheel. On a processor without a recipe here the wheel is pure Python.

Source: PEP 600 (manylinux_2_17), PEP 656 (musllinux_1_1).
"""

import os
import platform
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ("native/abi.c", "native/maglev.c", "datapath/core/native.c", "datapath/kernel/tally.c")
"""The C files, by their paths in the package."""
LIBRARY = "_native.so"
OBJECT_SOURCE = "datapath/kernel/bpf.c"
OBJECT = "_kernel.bpf.o"
"""The core as BPF. One file serves every little-endian processor."""
ARCHITECTURES = ("x86_64", "aarch64")
_FLAGS = (
    *("-std=c11", "-O2", "-ffreestanding", "-nostdlib", "-fPIC", "-shared", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", "-Werror"),
    *("-Wl,-z,defs", "-s"),  # an unresolved symbol (a memset that the compiler put in) fails here, not at load
)
_BPF_FLAGS = (
    *("-target", "bpfel-freestanding", "-mcpu=v3"),  # v3: 32-bit jumps, atomic exchange; every kernel since 5.12
    *("-std=gnu11", "-O2", "-g"),  # -g: the types of maps and of functions' arguments, which the kernel asks for
    *("-Wall", "-Wextra", "-Werror"),
    # Half a stack slot where a pointer was may not be overwritten without CAP_PERFMON: no two spills share a slot.
    *("-mllvm", "-no-stack-slot-sharing"),
)


def compile_all(package: Path, directory: Path, architecture: str) -> None:
    """Compile the library and the BPF object into a directory, under their names there.

    Raises: subprocess.CalledProcessError -> the compiler refused; what it said is on stderr.
    """
    compile_library(package, directory / LIBRARY, architecture)
    compile_object(package, directory / OBJECT)


def compile_object(package: Path, output: Path) -> None:
    """Compile the core into the BPF object `output`. Raises: subprocess.CalledProcessError -> as above."""
    include = [f"-I{package / 'datapath' / part}" for part in ("core", "kernel")]
    with tempfile.TemporaryDirectory(prefix="asynclb-layout-") as generated:
        write_layout(package, Path(generated))
        names = (
            f"-ffile-prefix-map={package}=asynclb",
            f"-ffile-prefix-map={generated}=asynclb",
        )  # wherever it is built
        compiler = (sys.executable, "-m", "ziglang", "cc", *_BPF_FLAGS, *names)
        source = str(package / OBJECT_SOURCE)
        subprocess.run([*compiler, f"-I{generated}", *include, "-c", source, "-o", str(output)], check=True)


def compile_library(package: Path, output: Path, architecture: str) -> None:
    """Compile the C files of the package into the shared library `output`.

    Raises: subprocess.CalledProcessError -> the compiler refused; what it said is on stderr.
    """
    compiler = (sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-musl")
    files = [str(package / name) for name in SOURCES]
    with tempfile.TemporaryDirectory(prefix="asynclb-layout-") as generated:
        write_layout(package, Path(generated))
        subprocess.run([*compiler, *_FLAGS, f"-I{generated}", "-o", str(output), *files], check=True)


def write_layout(package: Path, directory: Path) -> None:
    """Write layout.h into a directory. Both files are read by path: while a wheel is built there is no package."""
    drops = runpy.run_path(str(package / "net" / "drop.py"))["Drop"]
    layout = runpy.run_path(str(package / "datapath" / "core" / "layout.py"))
    (directory / "layout.h").write_text(layout["header"]([drop.name for drop in drops]))


def wheel_tag(architecture: str) -> str:
    """Return the tag of a wheel whose library links nothing: any Python 3, glibc or musl."""
    platforms = (f"manylinux_2_17_{architecture}", f"manylinux2014_{architecture}", f"musllinux_1_1_{architecture}")
    return "py3-none-" + ".".join(platforms)


class CustomBuildHook(BuildHookInterface[Any]):
    """Put the library into the wheel, or beside its sources for an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before the files of the wheel are collected; a source distribution needs nothing."""
        architecture = os.environ.get("ASYNCLB_ARCH") or platform.machine()
        if self.target_name != "wheel":
            return
        if architecture not in ARCHITECTURES:
            self.app.display_warning(f"no native library for {architecture}: asynclb will use its Python twins")
            return
        package = Path(self.root, "asynclb")
        if version == "editable":
            compile_all(package, package / "native", architecture)
        else:
            self._scratch = tempfile.TemporaryDirectory(prefix="asynclb-build-")
            compile_all(package, Path(self._scratch.name), architecture)
            for name in (LIBRARY, OBJECT):
                build_data["force_include"][str(Path(self._scratch.name, name))] = f"asynclb/native/{name}"
        build_data["pure_python"] = False
        build_data["tag"] = wheel_tag(architecture)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove what `initialize` built aside."""
        scratch = getattr(self, "_scratch", None)
        if scratch is not None:
            scratch.cleanup()


if __name__ == "__main__":
    here = Path(__file__).parent
    compile_all(here.parent, here, platform.machine())
