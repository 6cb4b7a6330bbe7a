"""What a start of the kernel datapath tries is what it begins with: the kernel verifies each program once."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from asynclb.datapath.base import HostSettings, Refusal
from asynclb.datapath.kernel import KernelDatapath
from asynclb.datapath.kernel.bpffs import find_bpffs
from asynclb.datapath.kernel.host import KernelHost, Tried, look_at_host
from asynclb.datapath.kernel.pins import HOME, Pins, namespace_cookie
from asynclb.datapath.kernel.programs import FlowLimits
from asynclb.lab import STANDARD, Lab, Site
from asynclb.native.libbpf import Libbpf
from tests.netns.balancer import Balancer, balancer
from tests.netns.kernel_site import FLOWS, attached, let_xdp_redirect, needs_kernel, pins_of
from tests.netns.packet_site import rule
from tests.netns.proxy_site import serves
from tests.netns.test_kernel_changes import weighted


class Looking:
    """Looks at the host as the datapath does, and remembers what was kept. Owner: a test."""

    def __init__(self) -> None:
        self.tried: Tried | None = None
        self.program = 0

    def __call__(self, keep: FlowLimits | None) -> KernelHost | Refusal:
        """Look."""
        found = look_at_host(keep)
        assert isinstance(found, KernelHost), found
        self.tried = found.tried
        self.program = 0 if found.tried is None else found.bpf.program_id(found.tried.programs.tc)
        return found


@asynccontextmanager
async def begun(site: Site, looking: Looking, settings: HostSettings) -> AsyncIterator[Balancer]:
    """Run the datapath for the length of a block."""
    needs_kernel()
    kind = partial(KernelDatapath, limits=FLOWS, settings=settings, look=looking)
    async with balancer(site.lb, kind) as found:
        yield found


def forwarding(site: Site) -> int:
    """Return the id of the program that is pinned for tc."""
    with site.lb.entered():
        bpf, cookie = Libbpf(), namespace_cookie()
        fd = Pins(bpf, find_bpffs(f"{HOME}/{cookie}"), cookie).open("program-tc")
    try:
        return bpf.program_id(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("attach", ["tc", "xdp"])
async def test_what_was_tried_forwards(attach: str) -> None:
    """The program for tc is the one that was tried; others are loaded beside it, over the same tables."""
    async with Lab(f"tried-{attach}", offload=False) as lab:
        site, looking = await STANDARD.build(lab), Looking()
        await let_xdp_redirect(lab)
        async with begun(site, looking, attached(attach)) as datapath:
            await datapath.apply(rule(site))
            assert forwarding(site) == looking.program != 0
            assert ("program-xdp" in pins_of(site.lb)) == (attach == "xdp")
            await serves(site)
            assert (await datapath.counters()).rules["web"].new_flows == 1
        assert pins_of(site.lb) == []


async def test_tables_that_do_not_fit_what_was_tried(site: Site) -> None:
    """Programs with more room are loaded, and what was tried is let go of."""
    looking = Looking()
    async with begun(site, looking, attached("tc")) as datapath:
        await datapath.apply(rule(site), *[weighted(site, n) for n in range(40)])
        assert looking.tried is not None
        assert (forwarding(site) != looking.program, looking.tried.state.maps) == (True, {})
        await serves(site)


async def test_nothing_is_kept_for_nobody(site: Site) -> None:
    """Without rules what was tried is let go of; the first rule begins without it."""
    looking = Looking()
    async with begun(site, looking, attached("tc")) as datapath:
        assert looking.tried is not None
        assert looking.tried.state.maps
        await datapath.apply()
        assert looking.tried.state.maps == {}
        await datapath.apply(rule(site))
        await serves(site)


async def test_nothing_is_kept_beside_maps_with_flows(site: Site) -> None:
    """Where an instance before left what forwards, its maps are gone on with, and what is tried is not kept."""
    looking = Looking()
    async with begun(site, looking, attached("tc", leave=True)) as datapath:
        await datapath.apply(rule(site))
        await serves(site)
    async with begun(site, looking, attached("tc")) as datapath:
        assert looking.tried is None
        await datapath.apply(rule(site))
        assert (await datapath.counters()).rules["web"].new_flows == 1
        await serves(site)


def test_room_that_cannot_be_had_is_no_refusal() -> None:
    """Whether the kernel takes the program is decided with small maps then."""
    needs_kernel()
    found = look_at_host(FlowLimits(1 << 31, 1 << 31))
    assert isinstance(found, KernelHost)
    assert found.tried is None
