"""The standard lab as the tests of the kernel datapath use it: small maps, every way to attach, pins."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path

import pytest

from asynclb.datapath.base import HostSettings, Refusal
from asynclb.datapath.kernel import KernelDatapath
from asynclb.datapath.kernel.bpffs import find_bpffs, mount_everywhere
from asynclb.datapath.kernel.host import KernelHost, look_at_host
from asynclb.datapath.kernel.pins import HOME, namespace_cookie
from asynclb.datapath.kernel.programs import FlowLimits
from asynclb.lab import Host, Lab
from asynclb.native.libbpf import Libbpf
from tests.netns.balancer import Balancer, balancer

FLOWS = FlowLimits(20_000, 20_000)
"""A million flows for each test would be 192 MB that the kernel has to find."""

OUR_BUG = "bug of asynclb"
"""What no test is skipped for: the verifier refuses the programs to a process with every capability."""


@asynccontextmanager
async def kernel(
    host: Host,
    *,
    attach: str = "auto",
    leave: bool = False,
    library: Libbpf | None = None,
    settings: HostSettings | None = None,
) -> AsyncIterator[Balancer]:
    """Run the kernel datapath in a host for the length of a block; `settings` outweigh the two before."""
    needs_kernel()
    kind = kernel_kind(settings or attached(attach, leave=leave), library)
    async with balancer(host, kind) as found:
        yield found


def kernel_kind(settings: HostSettings | None = None, library: Libbpf | None = None) -> Callable[..., KernelDatapath]:
    """Return what makes a kernel datapath, with small maps."""
    return partial(KernelDatapath, limits=FLOWS, settings=settings, look=partial(_look_here, library))


def attached(attach: str, *, leave: bool = False) -> HostSettings:
    """Return settings that attach to both interfaces of the balancer's host in one way."""
    return HostSettings(dict.fromkeys(("front", "back"), attach), leave)


async def let_xdp_redirect(lab: Lab) -> None:
    """Give the cables of the balancer's host, at their other ends, rings that XDP can put frames into."""
    for switch in ("front", "back"):
        await lab.hosts[switch].check_output("ethtool", "-K", "lb", "gro", "on")


def needs_kernel() -> None:
    """Skip the test where this host cannot run the kernel datapath at all."""
    if isinstance(found := _tried(), Refusal):
        assert OUR_BUG not in found.remedy, found
        pytest.skip(found.why)
    mount_everywhere()  # programs of a lab's hosts have a /sys of their own


@cache
def _tried() -> KernelHost | Refusal:
    """Look at this host. Done once: the kernel verifies the programs for half a second."""
    return look_at_host()


def _look_here(library: Libbpf | None, _keep: FlowLimits | None) -> KernelHost | Refusal:
    """Say what the calling thread's namespace has, with the programs tried once for all tests."""
    found, cookie = _tried(), namespace_cookie()
    if isinstance(found, Refusal):
        return found
    return KernelHost(library or found.bpf, found.code, find_bpffs(f"{HOME}/{cookie}"), cookie)


def pins_of(host: Host) -> list[str]:
    """Return the names under which the host's programs, maps and links live on."""
    with host.entered():
        place = directory_of(namespace_cookie())
    return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


def directory_of(cookie: int) -> Path:
    """Return where a namespace's pins are."""
    inside = f"{HOME}/{cookie}"
    return (find_bpffs(inside) or Path("/nowhere")) / inside
