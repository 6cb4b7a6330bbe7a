"""What the kernel datapath needs of a host, and what to do where it is not there.

Everything is tried rather than looked up, as far as that is possible: the program for tc is loaded, so that a kernel
that refuses it is known before a rule depends on it. The others have most of their text from there, and nothing depends
on them: without XDP there is tc.

Where rules are expected, what was tried has maps of full size and is kept: the datapath begins with it, and the kernel
has verified it once. If that fails, small maps decide, so that a refusal is never one of size.
"""

import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from asynclb.datapath.base import Refusal
from asynclb.datapath.host import Capability, missing
from asynclb.datapath.kernel.bpffs import find_bpffs, present
from asynclb.datapath.kernel.leftovers import is_forwarding
from asynclb.datapath.kernel.pins import HOME, Pins, namespace_cookie
from asynclb.datapath.kernel.programs import (
    SMALLEST_IMAGE,
    Entry,
    FlowLimits,
    Programs,
    State,
    kernel_release,
    read_object,
)
from asynclb.datapath.kernel.refusals import lack, lacking, refused, too_old
from asynclb.native.libbpf import BpfError, Libbpf

_LOCKDOWN = Path("/sys/kernel/security/lockdown")
_CONF = Path("/proc/sys/net/ipv4/conf")
_TRIAL = FlowLimits(1_024, 1_024)
_BUILD = "build it: `python -m asynclb.native.build`"


@dataclass(frozen=True, slots=True)
class Tried:
    """The program for tc, and maps that nothing has used. Owner: who looked, until somebody takes it."""

    programs: Programs
    state: State

    def close(self) -> None:
        """Let go of both."""
        self.programs.close()
        self.state.close()


@dataclass(frozen=True, slots=True)
class KernelHost:
    """A host that the datapath can run on. Without a bpffs nothing outlives the process."""

    bpf: Libbpf
    code: bytes
    bpffs: Path | None
    cookie: int
    tried: Tried | None = None

    @property
    def pins(self) -> Pins:
        """Where programs and maps of this network namespace are pinned."""
        return Pins(self.bpf, self.bpffs, self.cookie)


def look_at_host(keep: FlowLimits | None = None) -> KernelHost | Refusal:
    """Return what is there, or why this host cannot run the datapath. Blocks for some 200 ms: it loads a program.

    `keep`: room for so many flows, and what was tried is kept; not beside what an instance before this one left, which
    has its flows in maps of its own.
    """
    without, release = missing(*Capability), kernel_release()
    judged = too_old(release, platform.release()) or lacking(without, release)
    if judged is not None:
        return judged
    try:
        bpf = Libbpf()
        code = read_object()
        cookie = namespace_cookie()
        inside = f"{HOME}/{cookie}"
        left = next((place for place in present() if (place / inside).is_dir()), None)
        tried = _tried(bpf, code, None if is_forwarding(Pins(bpf, left, cookie)) else keep)
        return KernelHost(bpf, code, find_bpffs(inside), cookie, tried)
    except BpfError as error:
        return refused(error, without, _lockdown())
    except ValueError as error:
        return lack(str(error), _BUILD)
    except OSError as error:
        return lack(f"the BPF object is not there: {error}", _BUILD)


def limits_of_host() -> Iterator[tuple[str, int, str]]:
    """Yield what keeps the calling thread's network namespace from routing: (sysctl, value, what is lost and remedy).

    The host's own routing takes packets whose next hop is not resolved yet, those that XDP cannot send, and the first
    ones of members' own connections.
    """
    for name in forwarding_off():
        lost = "packets whose next hop is not resolved yet, or that XDP cannot send, are lost"
        yield name, 0, f"{lost}: sysctl -w {name}=1"
    strict = strict_interfaces()
    if strict:
        lost = "of those, packets are lost whose sender is reached by another interface, and members' own connections"
        what = f"net.ipv4.conf.rp_filter of {', '.join(strict)}"
        yield what, 1, f"{lost}: sysctl -w net.ipv4.conf.all.rp_filter=2"


def forwarding_off() -> tuple[str, ...]:
    """Return the sysctls of the calling thread's network namespace that keep the host from routing at all."""
    found = []
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        with suppress(OSError):  # a kernel without IPv6
            if Path("/proc/sys", *name.split(".")).read_text(encoding="ascii").strip() == "0":
                found.append(name)
    return tuple(found)


def strict_interfaces() -> tuple[str, ...]:
    """Return the interfaces of the calling thread's network namespace with a strict reverse path filter.

    In force is the stricter of an interface's own and that of all; 1 is strict, 2 loose.
    Source: Documentation/networking/ip-sysctl.rst.
    """
    values = {path.parent.name: int(path.read_text(encoding="ascii")) for path in _CONF.glob("*/rp_filter")}
    common = values.pop("all", 0)
    ours = {name: value for name, value in values.items() if name not in ("default", "lo")}
    return tuple(sorted(name for name, value in ours.items() if max(common, value) == 1))


def _tried(bpf: Libbpf, code: bytes, keep: FlowLimits | None) -> Tried | None:
    """Try, and return what is to be kept. Raises: BpfError, ValueError -> as `Programs`."""
    if keep is not None:
        with suppress(BpfError):
            return _try(bpf, code, keep)
    _try(bpf, code, _TRIAL).close()
    return None


def _try(bpf: Libbpf, code: bytes, limits: FlowLimits) -> Tried:
    """Load the program for tc. Raises: BpfError, ValueError -> as `Programs`."""
    state = State({})
    return Tried(Programs(bpf, code, state, limits, SMALLEST_IMAGE, (Entry.TC,)), state)


def _lockdown() -> str:
    """Return the kernel's level of lockdown, or nothing where there is none."""
    try:
        level = re.search(r"\[(\w+)\]", _LOCKDOWN.read_text(encoding="ascii"))
    except OSError:
        return ""
    return level[1] if level is not None and level[1] != "none" else ""
