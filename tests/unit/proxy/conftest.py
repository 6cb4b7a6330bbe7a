"""Fixtures: a proxy without privileges on loopback addresses, and a connection through it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import pytest

from asynclb.datapath.base import Counters
from asynclb.datapath.proxy import ProxyDatapath
from tests.unit.proxy.privileges import without_network_privileges
from tests.unit.proxy.wire import Listener, Wire, connect, free_port, until
from tests.unit.proxy.world import TICK_S, Clock, Driver, local, member, row

VIP = local(1)


@pytest.fixture
def clock() -> Clock:
    """Give the test the clock of its proxy."""
    return Clock()


@pytest.fixture
async def driver(clock: Clock) -> AsyncIterator[Driver]:
    """Give the test an open proxy that may not speak with clients' addresses, with no rules yet."""
    with without_network_privileges():
        driver = Driver(partial(ProxyDatapath, clock=clock, tick_s=TICK_S))
        await driver.proxy.open()
        try:
            transparent = row(VIP, 80, [member("a", "127.0.0.1")], 80)
            assert driver.proxy.mode(transparent) == "sockets"
            yield driver
        finally:
            await driver.proxy.close(0)


@dataclass
class Joined:
    """A client and a member that a proxy has joined, and the proxy."""

    driver: Driver
    client: Wire
    member: Wire

    def counters(self) -> Counters:
        """Return the proxy's counters."""
        return self.driver.proxy.counters()

    async def over(self) -> None:
        """Return when the proxy has no flow left."""
        await until(lambda: self.counters().flows == 0, "the flow is over")


@pytest.fixture
async def joined(driver: Driver) -> AsyncIterator[Joined]:
    """Give the test one open connection through the proxy."""
    with Listener(local(2)) as listener:
        port = free_port(VIP)
        await driver.apply(row(VIP, port, [member("be1", local(2))], listener.port, transparent=False))
        with await connect(VIP, port) as client, await listener.accept() as accepted:
            yield Joined(driver, client, accepted)
