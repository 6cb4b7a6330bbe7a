"""When the proxy says nothing, and when it says that a connection is over: seen on the wire by who it concerns."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack

import pytest

from asynclb.events import Event
from asynclb.lab import PATIENCE_S, VIP4, Host, Site
from asynclb.net.drop import Drop
from tests.netns.balancer import Balancer, balancer
from tests.netns.proxy_site import BACKEND_PORT, BOTH, VIPS, Capture, Members, address_of, rule
from tests.unit.proxy.wire import connect
from tests.unit.proxy.world import member, pool, row


@pytest.fixture
async def proxy(site: Site) -> AsyncIterator[Balancer]:
    """Give the test a proxy on the balancer's host."""
    async with balancer(site.lb) as found:
        yield found


async def hears_nothing(host: Host, vip: str, capture: Capture) -> bool:
    """Return whether a client that connects gets no packet of any kind."""
    capture.received()
    with pytest.raises(TimeoutError):
        await connect(vip, 80, host=host, wait_s=0.4)
    return capture.received() == []


@BOTH
async def test_without_an_eligible_member_nothing_is_heard(site: Site, proxy: Balancer, version: int) -> None:
    """No SYN-ACK, no reset, no ICMP; what is open goes on; the next SYN after a member is back is answered."""
    names = [host.name for host in site.members]
    await proxy.apply(rule(site, version))
    with Members(site, version) as members, Capture(site.clients[1]) as capture:
        async with members.joined(site.clients[0], VIPS[version]) as (client, accepted):
            await proxy.apply(rule(site, version), down=names)
            assert await hears_nothing(site.clients[1], VIPS[version], capture)
            await client.send(b"still")
            assert await accepted.exactly(5) == b"still"
            await accepted.send(b"here")
            assert await client.exactly(4) == b"here"
            assert (await proxy.counters()).drops[Drop.NO_ELIGIBLE_MEMBER] >= 1
            waiting = asyncio.create_task(connect(VIPS[version], 80, host=site.clients[1]))
            await asyncio.sleep(0.1)
            await proxy.apply(rule(site, version), down=names[1:])
            with await waiting, await members.accept() as late:
                assert late.name[0] == address_of(site.members[0], version)


@BOTH
async def test_who_is_not_allowed_hears_nothing(site: Site, proxy: Balancer, version: int) -> None:
    """One client is allowed and served, the other one meets silence, and a frontend that allows nobody meets all."""
    allowed = [address_of(site.clients[0], version)]
    await proxy.apply(rule(site, version, allow=allowed))
    with Members(site, version) as members, Capture(site.clients[1]) as capture:
        async with members.joined(site.clients[0], VIPS[version]) as (client, _):
            assert await hears_nothing(site.clients[1], VIPS[version], capture)
            assert (await proxy.counters()).drops[Drop.SOURCE_NOT_ALLOWED] >= 1
            await proxy.apply(rule(site, version, allow=[]))
            assert await hears_nothing(site.clients[1], VIPS[version], capture)
            assert await client.is_quiet()
        await proxy.apply(rule(site, version))
        async with members.joined(site.clients[1], VIPS[version]):
            pass
        assert not members.waiting()


async def test_a_long_allow_list_replaces_a_long_allow_list(site: Site, proxy: Balancer) -> None:
    """A thousand prefixes give way to a thousand others, and each list is in force from then on."""
    others = [f"172.{n // 128}.{n % 128 * 2}.0/24" for n in range(999)]
    more = [f"11.{n // 128}.{n % 128 * 2}.0/24" for n in range(999)]
    with Members(site) as members, Capture(site.clients[1]) as capture:
        for prefixes, in_force in ((others, True), (more, False), (others, True)):
            await proxy.apply(rule(site, allow=[*prefixes, address_of(site.clients[0 if in_force else 1])]))
            host = site.clients[0 if in_force else 1]
            async with members.joined(host, VIP4):
                pass
            if in_force:
                assert await hears_nothing(site.clients[1], VIP4, capture)


@BOTH
async def test_an_idle_connection_is_reset_on_the_wire(site: Site, proxy: Balancer, version: int) -> None:
    """With `tcp_reset` both the client and the member get a reset when the timeout is over."""
    await proxy.apply(rule(site, version, idle_timeout_s=0.6, tcp_reset=True))
    with Members(site, version) as members, Capture(site.clients[0]) as at_client:
        async with members.joined(site.clients[0], VIPS[version]) as (client, accepted):
            await asyncio.gather(client.expect_reset(), accepted.expect_reset())
        assert any("R" in text.split()[-1] for text in at_client.received(port=80))


async def test_an_idle_connection_is_forgotten_without_a_word(site: Site, proxy: Balancer) -> None:
    """Without `tcp_reset` neither end hears anything when the timeout is over."""
    await proxy.apply(rule(site, idle_timeout_s=0.6))
    with ExitStack() as stack:
        members = stack.enter_context(Members(site))
        captures = [stack.enter_context(Capture(host)) for host in (site.clients[0], *site.members)]
        async with members.joined(site.clients[0], VIP4) as (client, accepted):
            await client.send(b"x")
            assert await accepted.exactly(1) == b"x"
            await proxy.until_idle()
            assert await client.is_quiet()
            assert await accepted.is_quiet()
            assert [ends(capture.received()) for capture in captures] == [[], [], [], []]


def ends(packets: Iterable[str]) -> list[str]:
    """Return the packets that end a connection."""
    return [text for text in packets if set(text.split()[-1]) & {"F", "R"} and " tcp " in text]


async def test_a_client_that_says_nothing_is_ended(site: Site, proxy: Balancer) -> None:
    """A client that connects and is silent, and a member that accepts and is silent, cost the idle timeout only."""
    await proxy.apply(rule(site, idle_timeout_s=0.6, tcp_reset=True))
    with Members(site):
        clients = [await connect(VIP4, 80, host=site.clients[0]) for _ in range(20)]
        await asyncio.gather(*(client.expect_reset() for client in clients))
        for client in clients:
            client.close()
    await proxy.until_idle()


async def test_a_removed_rule_is_silent_at_once(site: Site, proxy: Balancer) -> None:
    """Between a rule and its absence a client meets one or the other, and never a refusal."""
    found, other = rule(site), rule(site, name="other", port=81)
    outcomes: Counter[str] = Counter()
    done = False

    async def visit() -> None:
        while not done:
            try:
                (await connect(VIP4, 80, host=site.clients[0], wait_s=0.1)).close()
                outcomes["served"] += 1
            except TimeoutError:
                outcomes["silence"] += 1

    with Members(site):
        await proxy.apply(other)
        visitors = [asyncio.create_task(visit()) for _ in range(8)]
        async with asyncio.timeout(PATIENCE_S):
            while min(outcomes["served"], outcomes["silence"]) < 20:
                for rows in ((found, other), (other,)):
                    await proxy.apply(*rows)
                    await asyncio.sleep(0.1)
        done = True
        await asyncio.gather(*visitors)


async def test_a_removed_rule_resets_both_ends_after_its_drain(site: Site, proxy: Balancer) -> None:
    """The flow of a removed rule goes on between its ends for the drain period, and both get a reset after it."""
    draining = pool([member("be1", address_of(site.members[0]))], drain_s=1)
    await proxy.apply(row(VIP4, 80, draining, BACKEND_PORT))
    with Members(site) as members:
        async with members.joined(site.clients[0], VIP4) as (client, accepted):
            await proxy.apply()
            await client.send(b"still")
            assert await accepted.exactly(5) == b"still"
            await accepted.send(b"here")
            assert await client.exactly(4) == b"here"
            await asyncio.gather(client.expect_reset(), accepted.expect_reset())
    assert len(proxy.events.of(Event.CONNECTIONS_RESET)) == 1
