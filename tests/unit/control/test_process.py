"""What the process asks of the kernel for itself. Each test is a process of its own, for what is changed stays so."""

import os
import subprocess
import sys

import pytest

LOWER_DESCRIPTORS = """
import resource
from asynclb.control.process import raise_descriptor_limit
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
hard = min(hard, {hard})
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
told = []
found = raise_descriptor_limit(lambda event, **fields: told.append((str(event), fields)))
assert found == hard == resource.getrlimit(resource.RLIMIT_NOFILE)[0], (found, hard)
assert [name for name, _ in told] == {told}, told
"""

LOWER_CAPABILITIES = """
import ctypes
from asynclb.control import process

def effective():
    with open("/proc/self/status") as lines:
        return next(line.split()[1] for line in lines if line.startswith("CapEff"))

before = effective()
libc = ctypes.CDLL(None, use_errno=True)
header, sets = process._Header(process._CAPABILITY_VERSION_3, 0), (process._Sets * 2)()
process._call(libc.capget, header, sets)
for half in sets:
    half.effective = 0
process._call(libc.capset, header, sets)
assert int(effective(), 16) == 0
assert process.raise_capabilities() is True
assert effective() == before
assert process.raise_capabilities() is False
"""


def run(code: str) -> None:
    """Run code in a process of its own; its failed assertions are ours."""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_the_descriptor_limit_is_raised_to_what_the_host_allows() -> None:
    """The soft limit becomes the hard one, and a hard one that is low is said."""
    run(LOWER_DESCRIPTORS.format(hard=1024, told=["host_limit"]))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lower and raise")
def test_permitted_capabilities_become_effective() -> None:
    """What is permitted and not effective is made effective; the second time there is nothing to do."""
    run(LOWER_CAPABILITIES)


@pytest.mark.skipif(os.geteuid() == 0, reason="root has capabilities")
def test_without_capabilities_nothing_is_done() -> None:
    """An ordinary user's process is left as it is."""
    run("from asynclb.control.process import raise_capabilities\nassert raise_capabilities() is False")
