"""Datapaths that tell a test of their flows, as the flow log is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from asynclb.datapath.lifetimes import Describe, Lifetime, Listeners
from asynclb.datapath.packet import PacketDatapath
from asynclb.datapath.proxy import ProxyDatapath
from asynclb.lab import PATIENCE_S, Site
from tests.netns.balancer import Balancer, balancer
from tests.netns.kernel_site import kernel_kind, needs_kernel

KINDS: dict[str, Callable[..., Any]] = {
    "proxy": ProxyDatapath,
    "packet": PacketDatapath,
    "workers": partial(PacketDatapath, workers=2),
    "kernel": kernel_kind(),
}


@dataclass
class Log:
    """What was told so far. Owner: a test."""

    flows: list[Lifetime] = field(default_factory=list)

    def tell(self, _count: int, describe: Describe) -> None:
        """Keep the words."""
        self.flows += describe()

    def ends(self, client: str) -> list[Lifetime]:
        """Return the ends of a client's flows that were told so far."""
        return [flow for flow in self.flows if flow.end and flow.client == client]

    async def end(self, client: str) -> Lifetime:
        """Return the end of a client's flow, which is told once."""
        async with asyncio.timeout(PATIENCE_S):
            while not (found := self.ends(client)):
                await asyncio.sleep(0.05)
        assert len(found) == 1
        return found[0]

    async def start(self, client: str) -> Lifetime:
        """Return the first start of a client's flow."""
        async with asyncio.timeout(PATIENCE_S):
            while not (found := [flow for flow in self.flows if flow.end is None and flow.client == client]):
                await asyncio.sleep(0.05)
        return found[0]


@asynccontextmanager
async def told(site: Site, kind: str) -> AsyncIterator[tuple[Balancer, Log]]:
    """Run a datapath that tells a log of its flows."""
    if kind == "kernel":
        needs_kernel()
    log = Log()
    async with balancer(site.lb, KINDS[kind]) as found:
        await found.ask(lambda driver: driver.proxy.tell_flows(Listeners(log.tell, log.tell)))
        yield found, log
