"""How rules are carried, as the log, the status and the metrics call it."""

from asynclb.lab import Site
from tests.netns.balancer import balancer
from tests.netns.packet_site import packets, rule


async def test_the_mode_is_that_of_the_rule(site: Site) -> None:
    """With every privilege the proxy keeps the client's address for a rule that asks for it, and for no other."""
    async with balancer(site.lb) as proxy:
        modes = await proxy.ask(lambda driver: [driver.proxy.mode(rule(site, transparent=t)) for t in (True, False)])
        assert modes == ["transparent", "sockets"]
    async with packets(site.lb) as packet:
        assert await packet.ask(lambda driver: driver.proxy.mode(rule(site))) == "rings"
