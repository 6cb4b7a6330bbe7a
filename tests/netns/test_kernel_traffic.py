"""Real traffic through the kernel datapath: what holds for the packet datapath holds here, by tc and by XDP."""

from collections.abc import AsyncIterator

import pytest

from asynclb.lab import Site
from tests.netns.balancer import Balancer
from tests.netns.kernel_site import kernel
from tests.netns.test_packet_traffic import *  # noqa: F403


@pytest.fixture
async def balancer(site: Site) -> AsyncIterator[Balancer]:
    """Give the test the kernel datapath on the balancer's host, in the place of the packet datapath."""
    async with kernel(site.lb) as found:
        yield found
