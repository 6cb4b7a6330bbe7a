"""What the tests of the loader need: libbpf, capabilities, a bpffs of their own, and a small object."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynclb.datapath.host import Capability, missing
from asynclb.native.libbpf import BpfError, Libbpf

SOURCE = """
#define SEC(name) __attribute__((section(name), used))
#define FIELD(name, value) int (*name)[value]
struct { FIELD(type, 2); FIELD(max_entries, 4); FIELD(key_size, 4); FIELD(value_size, 8); } numbers SEC(".maps");
const volatile unsigned answer SEC(".rodata.settings") = 41;
static void *(*lookup)(void *map, const void *key) = (void *)1;
SEC("tc") int adds(void *context) {
    unsigned zero = 0;
    unsigned long long *first = lookup(&numbers, &zero);
    if (first) __sync_fetch_and_add(first, 1);
    return answer + 1;
}
SEC("xdp") int %s(void *context) { return %s; }
char licence[] SEC("license") = "Dual BSD/GPL";
"""


def compiled(directory: Path, *, name: str = "passes", returns: str = "2") -> bytes:
    """Compile the small object: a map, a section of settings, two programs."""
    source, output = directory / f"{name}.c", directory / f"{name}.o"
    source.write_text(SOURCE % (name, returns))
    compiler = (sys.executable, "-m", "ziglang", "cc", "-target", "bpfel-freestanding", "-O2", "-g", "-mcpu=v3")
    subprocess.run([*compiler, "-c", str(source), "-o", str(output)], check=True)
    return output.read_bytes()


@pytest.fixture(scope="session")
def small_object(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Give the test the small object."""
    return compiled(tmp_path_factory.mktemp("object"))


@pytest.fixture
def bpf() -> Libbpf:
    """Give the test the library, if this process may use it."""
    if missing(Capability.CAP_NET_ADMIN) or missing(Capability.CAP_BPF):
        pytest.skip("needs CAP_BPF and CAP_NET_ADMIN")
    try:
        return Libbpf()
    except BpfError as error:
        pytest.skip(str(error))


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """Give the test a bpffs of its own."""
    place = tmp_path / "bpf"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(place), b"bpf", ctypes.c_ulong(0), None) != 0:
        pytest.skip("needs to mount a bpffs")
    yield place
    libc.umount2(os.fsencode(place), 2)  # MNT_DETACH
