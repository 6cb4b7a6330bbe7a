"""TCP through the transparent proxy, between real hosts: who the member sees, and who is passed over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from asynclb.lab import PATIENCE_S, VIP4, Lab, Site
from asynclb.lab.namespace import ip_batch
from asynclb.lab.topology import LB_BACK4, LB_BACK6, LB_FRONT4, LB_FRONT6, ON_LINK_VIP4, ON_LINK_VIP6
from asynclb.model import ProxyProtocol
from asynclb.net.drop import Drop
from tests.netns.balancer import Balancer, balancer
from tests.netns.proxy_site import BACKEND_PORT, BOTH, VIPS, Capture, Members, address_of, greet, rule, served_meanwhile
from tests.unit.proxy.wire import Listener, connect, expect_refusal
from tests.unit.proxy.world import local, member, row


@pytest.fixture
async def proxy(site: Site) -> AsyncIterator[Balancer]:
    """Give the test a proxy on the balancer's host."""
    async with balancer(site.lb) as found:
        yield found


@BOTH
async def test_the_member_sees_the_client(site: Site, proxy: Balancer, version: int) -> None:
    """A client is joined to a member that sees the client's own address and port; the client sees the VIP."""
    await proxy.apply(rule(site, version))
    with Members(site, version) as members:
        for host in site.clients:
            async with members.joined(host, VIPS[version]) as (client, accepted):
                assert accepted.peer == client.name
                assert accepted.peer[0] == address_of(host, version)
                assert accepted.name[1] == BACKEND_PORT
                assert client.peer == (VIPS[version], 80)
                await greet(client, accepted)
    await proxy.until_idle()
    found = (await proxy.counters()).rules["web"]
    assert (found.bytes_in, found.bytes_out, found.new_flows, found.syn) == (10, 14, 2, 2)


async def test_both_families_at_once(site: Site, proxy: Balancer) -> None:
    """A rule for each family; an IPv6 member that fails its probe is passed over for IPv6 only."""
    await proxy.apply(rule(site, 4), rule(site, 6, name="web6"), down=["be1", "be2"])
    for version in (4, 6):
        with Members(site, version) as members:
            async with members.joined(site.clients[0], VIPS[version]) as (client, accepted):
                assert accepted.name[0] == address_of(site.members[2], version)
                await greet(client, accepted)


@BOTH
async def test_one_client_port_to_two_frontends_of_one_member(site: Site, proxy: Balancer, version: int) -> None:
    """Both connections work: the first keeps the client's port towards the member, the second its address only."""
    only = [member("be1", address_of(site.members[0], version))]
    first, second = (row(VIPS[version], port, only, BACKEND_PORT, name=f"web-{port}") for port in (80, 81))
    await proxy.apply(first, second)
    source = (address_of(site.clients[0], version), 40001)
    with Members(site, version) as members:
        async with (
            members.joined(site.clients[0], VIPS[version], 80, source=source) as (one, one_accepted),
            members.joined(site.clients[0], VIPS[version], 81, source=source) as (two, two_accepted),
        ):
            assert one_accepted.peer == source
            assert two_accepted.peer[0] == source[0]
            assert two_accepted.peer[1] != source[1]
            await greet(one, one_accepted)
            await greet(two, two_accepted)


@pytest.mark.parametrize("first", ["client", "member"])
async def test_a_client_port_that_is_used_again_at_once(site: Site, proxy: Balancer, first: str) -> None:
    """A client that connects again and again from one port is served each time, whoever closed before."""
    await proxy.apply(rule(site))
    source = (address_of(site.clients[0]), 40002)
    with Members(site) as members:
        for _ in range(10):
            async with members.joined(site.clients[0], VIP4, source=source) as (client, accepted):
                assert accepted.peer[0] == source[0]
                await greet(client, accepted)
                if first == "client":
                    client.reset()
                    await accepted.expect_reset()
                else:
                    accepted.fin()
                    await client.expect_fin()


async def test_two_vips_with_the_same_port_lead_to_different_ports(site: Site, proxy: Balancer) -> None:
    """The same port on two VIPs is two frontends, each with its own backend port."""
    await proxy.apply(rule(site), rule(site, address="203.0.113.11", name="other", backend_port=8081))
    with Members(site) as web, Members(site, port=8081) as other:
        for vip, members in ((VIP4, web), ("203.0.113.11", other)):
            async with members.joined(site.clients[0], vip) as (client, accepted):
                await greet(client, accepted)
        assert not web.waiting()
        assert not other.waiting()


@BOTH
async def test_a_vip_in_the_clients_own_network_is_answered_for(site: Site, proxy: Balancer, version: int) -> None:
    """ARP and neighbour discovery find the balancer for an on-link VIP, as long as a rule or an open flow needs it."""
    vip = {4: ON_LINK_VIP4, 6: ON_LINK_VIP6}[version]
    found = rule(site, version, address=vip)
    await proxy.apply(found)
    forget = ("ip", f"-{version}", "neigh", "flush", "to", vip)
    with Members(site, version) as members:
        async with members.joined(site.clients[0], vip) as (client, accepted):
            await greet(client, accepted)
            await proxy.apply()
            await site.clients[0].check_output(*forget)
            await greet(client, accepted)
        await proxy.until_idle()
    async with asyncio.timeout(PATIENCE_S):  # the watch over the host lets the VIP go when the flow is over
        while vip in await site.lb.check_output("ip", "route", "show", "table", "all"):
            await asyncio.sleep(0.1)


@BOTH
async def test_other_ports_of_a_vip_are_silent(site: Site, proxy: Balancer, version: int) -> None:
    """What no rule names is dropped without an answer and counted, though the host itself serves that port."""
    own = {4: LB_FRONT4, 6: LB_FRONT6}[version]
    await proxy.apply(rule(site, version))
    with Listener("::", 22, host=site.lb) as ssh, Capture(site.clients[0]) as capture:
        (await connect(own, 22, host=site.clients[0])).close()
        assert ssh.waiting()
        capture.received()
        for port in (22, 443):
            with pytest.raises(TimeoutError):
                await connect(VIPS[version], port, host=site.clients[0], wait_s=0.3)
        with site.clients[0].udp(VIPS[version], 53) as udp:
            udp.send(b"anybody?")
            await asyncio.sleep(0.1)
        assert [text for text in capture.received() if VIPS[version] in text or "icmp" in text] == []
        assert not ssh.waiting()
    await proxy.until_dropped(Drop.NO_RULE)


async def test_an_address_of_the_host_keeps_its_other_services(site: Site, proxy: Balancer) -> None:
    """A frontend on the host's own address takes its port only: ssh answers, and a closed port refuses."""
    await proxy.apply(rule(site, address=LB_FRONT4))
    with Listener("0.0.0.0", 22, host=site.lb) as ssh, Members(site) as members:
        async with members.joined(site.clients[0], LB_FRONT4) as (client, accepted):
            assert accepted.peer == client.name
            await greet(client, accepted)
        (await connect(LB_FRONT4, 22, host=site.clients[0])).close()
        assert ssh.waiting()
        with pytest.raises(ConnectionRefusedError):
            await connect(LB_FRONT4, 443, host=site.clients[0])


async def test_a_client_on_the_balancers_own_host(site: Site, proxy: Balancer) -> None:
    """A program on the balancer's host reaches a VIP that the host does not own, and a frontend on its loopback."""
    await proxy.apply(rule(site), rule(site, address=local(7), name="loopback", port=81))
    with Members(site) as members:
        async with members.joined(site.lb, VIP4) as (client, accepted):
            await greet(client, accepted)
    with Listener("127.0.0.1", 8082, host=site.lb) as listener, Listener(local(7), 82, host=site.lb) as own:
        await proxy.apply(row(local(7), 81, [member("self", "127.0.0.1")], 8082))
        with await connect(local(7), 81, host=site.lb) as client, await listener.accept() as accepted:
            await greet(client, accepted)
        (await connect(local(7), 82, host=site.lb)).close()
        assert own.waiting()


@BOTH
async def test_a_member_reaches_its_own_vip(site: Site, proxy: Balancer, version: int) -> None:
    """Every connection of a member to the VIP works, those that lead back to itself and those to its neighbours."""
    await proxy.apply(rule(site, version, connect_timeout_s=10))
    with Members(site, version) as members, ExitStack() as stack:
        for client, accepted in await members.join_each(stack, site.members[0], VIPS[version]):
            await greet(client, accepted)


async def test_members_that_do_not_answer_are_passed_over(site: Site, proxy: Balancer) -> None:
    """One member's link is down, another one refuses: every client is served by the third, with its own address."""
    ip_batch(["link set dev back down"], namespace=site.members[1].namespace)
    await proxy.apply(rule(site, connect_timeout_s=0.4))
    with Listener(address_of(site.members[2]), BACKEND_PORT, host=site.members[2]) as listener:

        async def visit() -> None:
            with await connect(VIP4, 80, host=site.clients[0]) as client:
                await client.send(b"early")
                assert await client.exactly(5) == b"early"

        async def serve() -> None:
            with await listener.accept() as accepted:
                assert accepted.peer[0] == address_of(site.clients[0])
                await accepted.send(await accepted.exactly(5))
                await accepted.rest()

        await asyncio.gather(*(visit() for _ in range(20)), *(serve() for _ in range(20)))
    await expect_refusal(VIP4, 80, host=site.clients[0])
    assert (await proxy.counters()).drops[Drop.MEMBERS_UNREACHABLE] == 1


async def test_bulk_arrives_unchanged(site: Site, proxy: Balancer) -> None:
    """Thirty megabytes through real links arrive as they were sent, with the end after them."""
    await proxy.apply(rule(site))
    block = bytes(range(256)) * 4096
    with Members(site) as members:
        async with members.joined(site.clients[0], VIP4) as (client, accepted):

            async def send() -> None:
                for _ in range(30):
                    await client.send(block)
                client.fin()

            sending = asyncio.create_task(send())
            for _ in range(30):
                assert await accepted.exactly(len(block)) == block
            await accepted.expect_fin()
            await sending


async def test_a_member_that_is_replaced_while_clients_come(site: Site, proxy: Balancer) -> None:
    """While two generations without a common member take turns, every client is served by one or the other."""
    one = row(VIP4, 80, [member("a", address_of(site.members[0]))], BACKEND_PORT)
    two = row(VIP4, 80, [member("b", address_of(site.members[1]))], BACKEND_PORT)
    await proxy.apply(one)
    seen = await served_meanwhile(site, lambda number: proxy.apply(one if number % 2 else two))
    assert seen == {address_of(host) for host in site.members[:2]}


@BOTH
async def test_nginx_understands_the_proxy_header(lab: Lab, site: Site, proxy: Balancer, version: int) -> None:
    """nginx with `proxy_protocol` reports the client's address and port from the header, without transparency."""
    del lab
    server = site.members[0]
    listen = {4: "8090", 6: "[::]:8090 ipv6only=on"}[version]
    config = server.write(
        "proxy.conf",
        "daemon off;\nmaster_process off;\nuser root;\nerror_log stderr warn;\n"
        f"pid {server.directory}/{server.name}-header.pid;\nevents {{ }}\n"
        "http { access_log off; "
        + "".join(
            f"{name}_temp_path {server.directory}/{server.name}-{name}; "
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + f"server {{ listen {listen} proxy_protocol; location / {{ return 200 "
        '"$proxy_protocol_addr $proxy_protocol_port $remote_addr\\n"; } } }\n',
    )
    process = await server.run("nginx", "-c", config, "-e", "stderr")
    await server.wait_listening(process, 8090)
    only = [member("be1", address_of(server, version))]
    await proxy.apply(row(VIPS[version], 80, only, 8090, transparent=False, proxy_protocol=ProxyProtocol.V2))
    with await connect(VIPS[version], 80, host=site.clients[0]) as client:
        address, port = client.name
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        body = (await client.rest()).decode().splitlines()[-1]
    assert body == f"{address} {port} { {4: LB_BACK4, 6: LB_BACK6}[version] }"


async def test_the_dump_of_flows_names_both_ends(site: Site, proxy: Balancer) -> None:
    """An open flow is shown with the client's own name and the member's."""
    await proxy.apply(rule(site))
    with Members(site) as members:
        async with members.joined(site.clients[0], VIP4) as (client, accepted):
            await greet(client, accepted)
            (flow,) = await proxy.flows()
            assert flow.client == f"{client.name[0]}:{client.name[1]}"
            assert flow.target == f"{accepted.name[0]}:{accepted.name[1]}"
            assert (flow.bytes_in, flow.bytes_out) == (5, 7)
