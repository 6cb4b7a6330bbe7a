"""What does not fit the balancer's own links: BPF tells senders as the packet datapath does."""

from collections.abc import AsyncIterator
from functools import partial

import pytest

from asynclb.lab import Site
from tests.netns.balancer import Balancer
from tests.netns.kernel_site import kernel
from tests.netns.test_packet_own_mtu import (
    streams,
    test_a_datagram_that_does_not_fit,
    test_a_datagram_that_may_be_fragmented,
)
from tests.netns.test_packet_traffic import BOTH

__all__ = ["test_a_datagram_that_does_not_fit", "test_a_datagram_that_may_be_fragmented"]


@pytest.fixture(params=["tc", "xdp-generic"])
async def balancer(site: Site, request: pytest.FixtureRequest) -> AsyncIterator[Balancer]:
    """Give the test the kernel datapath on the balancer's host, in the place of the packet datapath."""
    async with kernel(site.lb, attach=request.param) as found:
        yield found


@BOTH
@pytest.mark.parametrize("attach", ["tc", "xdp", "xdp-generic"])
@pytest.mark.parametrize("narrow", ["front", "back"])
async def test_streams_over_a_narrow_link_of_our_own(version: int, narrow: str, attach: str) -> None:
    """Whichever side is narrow, a stream towards it arrives, and so does one away from it."""
    await streams(partial(kernel, attach=attach), version, narrow, offload=False)


@BOTH
@pytest.mark.parametrize("narrow", ["front", "back"])
async def test_what_is_segmented_later(version: int, narrow: str) -> None:
    """Large frames of a sender with offloads count by their segments; their checksums are yet to be completed."""
    await streams(partial(kernel, attach="tc"), version, narrow, offload=True)
