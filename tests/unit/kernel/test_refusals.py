"""What a host lacks, in words: the reason, and what the operator can do about it."""

import errno
from collections.abc import Collection

import pytest

from asynclb.datapath.host import Capability
from asynclb.datapath.kernel.refusals import lacking, refused, too_old
from asynclb.native.libbpf import LOADING, BpfError, LibbpfMissingError

ADMIN, BPF, PERFMON, SYS = (
    Capability.CAP_NET_ADMIN,
    Capability.CAP_BPF,
    Capability.CAP_PERFMON,
    Capability.CAP_SYS_ADMIN,
)


@pytest.mark.parametrize(
    ("missing", "release", "named"),
    [
        ((), (5, 15), ""),
        ((PERFMON, SYS), (5, 15), "CAP_PERFMON"),
        ((PERFMON, SYS), (5, 17), "CAP_PERFMON"),
        ((PERFMON, SYS), (5, 18), ""),
        ((PERFMON,), (5, 15), ""),
        ((BPF,), (6, 1), ""),
        ((BPF, PERFMON, SYS), (6, 1), "CAP_BPF"),
        ((BPF, PERFMON, SYS), (5, 15), "CAP_BPF and CAP_PERFMON"),
        ((ADMIN, BPF, PERFMON, SYS), (5, 15), "CAP_NET_ADMIN and CAP_BPF and CAP_PERFMON"),
        ((ADMIN,), (6, 1), "CAP_NET_ADMIN"),
    ],
)
def test_capabilities_by_kernel(missing: Collection[Capability], release: tuple[int, int], named: str) -> None:
    """Each one that this kernel asks for is named, in the reason and in the remedy; CAP_SYS_ADMIN stands for two."""
    found = lacking(missing, release)
    assert (found is None) == (not named)
    if found is not None:
        assert f"need {named} on Linux" in found.why
        assert ("before 5.18" in found.why) == ("CAP_PERFMON" in named)
        assert found.mend == f"run as root or with {named}"
        assert found.remedy == f"{found.mend}, or use `datapath: packet` or `proxy`"


def test_an_old_kernel() -> None:
    """Its version is named as the operator knows it, with what is needed."""
    assert too_old((5, 15), "5.15.0-91-generic") is None
    found = too_old((5, 10), "5.10.0-30-amd64")
    assert found is not None
    assert "5.10.0-30-amd64" in found.why
    assert "5.15 or later" in found.remedy


@pytest.mark.parametrize(
    ("error", "missing", "lockdown", "why", "mend"),
    [
        (BpfError(LOADING, errno.EPERM), (), "", "though this process has the capabilities", "seccomp profile"),
        (BpfError(LOADING, errno.EPERM), (), "confidentiality", "(kernel lockdown: confidentiality)", "seccomp"),
        (BpfError(LOADING, errno.ENOSYS), (), "", "has no bpf(2)", "CONFIG_BPF_SYSCALL"),
        (BpfError(LOADING, errno.EACCES), (PERFMON,), "", "without CAP_PERFMON", "CAP_PERFMON as well"),
        (BpfError(LOADING, errno.EACCES, "R1 invalid"), (), "", "R1 invalid", "bug of asynclb or of the kernel"),
        (BpfError("create map 'flows4'", errno.ENOMEM), (), "", "Cannot allocate", "make the flow table smaller"),
        (LibbpfMissingError("libbpf.so.1 cannot be loaded"), (), "", "cannot be loaded", "`apt install libbpf1`"),
    ],
)
def test_what_the_kernel_refuses(
    error: BpfError, missing: Collection[Capability], lockdown: str, why: str, mend: str
) -> None:
    """The reason says what was refused, the remedy what to change; neither is told twice."""
    found = refused(error, missing, lockdown)
    assert why in found.why
    assert mend in found.mend
    assert found.mend not in found.why
