"""The loader of the native library: what it accepts, what it says of anything else."""

import subprocess
import sys
from pathlib import Path

import pytest

from asynclb import native


def compiled(tmp_path: Path, source: str) -> Path:
    """Compile a library of one C file."""
    (tmp_path / "other.c").write_text(source)
    output = tmp_path / "other.so"
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-nostdlib", "-fPIC", "-o", str(output)]
    subprocess.run([*command, str(tmp_path / "other.c")], check=True)
    return output


def test_a_library_that_was_not_built_is_a_reason_with_a_remedy(tmp_path: Path) -> None:
    """A checkout without the library says how to build it."""
    loaded = native.load(tmp_path / "_native.so")
    assert loaded.library is None
    assert loaded.reason == "_native.so has not been built (python -m asynclb.native.build)"


def test_a_file_that_is_no_library_is_a_reason(tmp_path: Path) -> None:
    """A damaged file is reported, with the loader's own words."""
    (tmp_path / "_native.so").write_bytes(b"not ELF")
    loaded = native.load(tmp_path / "_native.so")
    assert loaded.library is None
    assert loaded.reason.startswith("_native.so cannot be loaded: ")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("unsigned asynclb_native_abi(void) { return 999; }", "ABI version 999, this code needs 2; build it again"),
        ("unsigned something_else(void) { return 1; }", "is not asynclb's library"),
    ],
)
def test_another_library_is_a_reason(tmp_path: Path, source: str, reason: str) -> None:
    """A library of another version, or of something else, is not called."""
    pytest.importorskip("ziglang")
    loaded = native.load(compiled(tmp_path, source))
    assert loaded.library is None
    assert loaded.reason.endswith(reason)


def test_the_header_and_the_loader_name_one_version() -> None:
    """A change of native.h that forgets the loader, or the other way round, is found here."""
    header = Path(native.__file__).with_name("native.h").read_text()
    assert f"#define ASYNCLB_NATIVE_ABI {native.ABI_VERSION}\n" in header
