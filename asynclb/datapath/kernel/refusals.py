"""Why a host cannot run the datapath, and what to do about it. Pure: what is so was found out in `host`."""

import errno
from collections.abc import Collection

from asynclb.datapath.base import Refusal
from asynclb.datapath.host import Capability
from asynclb.native.libbpf import LOADING, BpfError, LibbpfMissingError

OLDEST_KERNEL = (5, 15)
TELLS_LENGTH = (5, 18)
"""From here on the kernel tells a program how long a frame is, which without that takes pointers, and CAP_PERFMON."""

_OTHERWISE = "or use `datapath: packet` or `proxy`"


def lack(why: str, mend: str) -> Refusal:
    """Return the refusal of a host where something is missing that can be mended."""
    return Refusal(why, f"{mend}, {_OTHERWISE}", mend=mend)


def too_old(release: tuple[int, ...], name: str) -> Refusal | None:
    """Return why a kernel is too old, or None; `name` is its version as the operator knows it."""
    if release >= OLDEST_KERNEL:
        return None
    return lack(f"this kernel is Linux {name}", "install Linux 5.15 or later")


def lacking(missing: Collection[Capability], release: tuple[int, ...]) -> Refusal | None:
    """Return which capabilities this kernel asks for in vain, or None; CAP_SYS_ADMIN is as good as two of them."""
    wanted = [Capability.CAP_NET_ADMIN] if Capability.CAP_NET_ADMIN in missing else []
    if Capability.CAP_SYS_ADMIN in missing:
        others = (Capability.CAP_BPF, *((Capability.CAP_PERFMON,) if release < TELLS_LENGTH else ()))
        wanted += [capability for capability in others if capability in missing]
    if not wanted:
        return None
    names = " and ".join(capability.name for capability in wanted)
    before = " before 5.18" if Capability.CAP_PERFMON in wanted else ""
    return lack(f"BPF programs need {names} on Linux{before}", f"run as root or with {names}")


def refused(error: BpfError, missing: Collection[Capability], lockdown: str) -> Refusal:
    """Return why the kernel, or the library, refused the programs to a process with the capabilities that they need.

    `lockdown` is the kernel's level, or empty.
    """
    if isinstance(error, LibbpfMissingError):
        return lack(error.what, error.remedy)
    if error.errno == errno.EPERM:
        return _forbidden(error, lockdown)
    if error.errno == errno.ENOSYS:
        why = "this kernel has no bpf(2), or a seccomp profile hides it"
        return lack(why, "let the container's seccomp profile allow `bpf`, or boot a kernel with CONFIG_BPF_SYSCALL")
    if error.call == LOADING and Capability.CAP_PERFMON in missing:
        why = "this kernel's verifier refuses the programs to a process without CAP_PERFMON"
        return lack(why, "run as root or with CAP_PERFMON as well")
    return lack(f"{error.what}{_locked(lockdown)}", error.remedy)


def _forbidden(error: BpfError, lockdown: str) -> Refusal:
    why = f"{error.what}, though this process has the capabilities{_locked(lockdown)}"
    mend = (
        "let the container's seccomp profile or the unit's `SystemCallFilter=` allow `bpf`, "
        "and run outside of user namespaces (rootless containers)"
    )
    return lack(why, mend)


def _locked(lockdown: str) -> str:
    return f" (kernel lockdown: {lockdown})" if lockdown else ""
