"""The packet datapath and its host: who answers for a VIP, and that everything else on the host works as before."""

import asyncio
import ipaddress
import re
from collections.abc import AsyncIterator, Collection
from contextlib import ExitStack

import pytest

from asynclb.datapath.frames import announce, neighbours
from asynclb.datapath.frames.limits import CLASH_CODE, MAX_INTERFACES
from asynclb.datapath.packet.ruleset import TABLE
from asynclb.errors import ApplyError
from asynclb.events import Event
from asynclb.lab import PATIENCE_S, VIP4, Host, Site
from asynclb.lab.namespace import ip_batch
from asynclb.lab.topology import LB_FRONT4, LB_FRONT6, ON_LINK_VIP4, ON_LINK_VIP6
from asynclb.net.address import Address
from asynclb.net.drop import Drop
from asynclb.tables.row import Row
from tests.netns.balancer import Balancer
from tests.netns.packet_site import (
    BACKEND_PORT,
    VIPS,
    Frames,
    UdpMembers,
    address_of,
    ask,
    ha_rule,
    packets,
    rule,
    udp_rule,
)
from tests.netns.proxy_site import BOTH, Members, greet, serves
from tests.unit.proxy.wire import Listener, connect


@pytest.fixture
async def balancer(site: Site) -> AsyncIterator[Balancer]:
    """Give the test the packet datapath on the balancer's host."""
    async with packets(site.lb) as found:
        yield found


@BOTH
async def test_a_vip_in_the_clients_own_network(site: Site, balancer: Balancer, version: int) -> None:
    """ARP and neighbour discovery find the balancer for an on-link VIP, and everybody was told at the start."""
    vip = {4: ON_LINK_VIP4, 6: ON_LINK_VIP6}[version]
    with Frames(site.clients[1]) as frames:
        await balancer.apply(rule(site, version, address=vip))
        with Members(site, version) as members:
            async with members.joined(site.clients[0], vip) as (client, accepted):
                assert accepted.peer == client.name
                await greet(client, accepted)
                await site.clients[0].check_output("ip", f"-{version}", "neigh", "flush", "to", vip)
                await greet(client, accepted)
        link = await site.lb.check_output("cat", "/sys/class/net/front/address")
        told = announce.announcement(ipaddress.ip_address(vip), bytes.fromhex(link.strip().replace(":", "")))
        assert told in frames.received()


@BOTH
async def test_what_no_rule_names_is_silent(site: Site, balancer: Balancer, version: int) -> None:
    """Other ports of a VIP get no answer, though the host serves them, and are counted; its own addresses answer."""
    own = {4: LB_FRONT4, 6: LB_FRONT6}[version]
    await balancer.apply(rule(site, version))
    with Listener("::", 22, host=site.lb) as ssh:
        (await connect(own, 22, host=site.clients[0])).close()
        assert ssh.waiting()
        for port in (22, 443):
            with pytest.raises(TimeoutError):
                await connect(VIPS[version], port, host=site.clients[0], wait_s=0.2)
        assert not ssh.waiting()
    assert (await balancer.counters()).drops[Drop.NO_RULE] >= 2


@BOTH
async def test_fragments_of_answers_come_from_the_vip_only(site: Site, balancer: Balancer, version: int) -> None:
    """The host does not forward later fragments beside the datapath, from the member's own address."""
    await balancer.apply(udp_rule(site, version))
    with (
        UdpMembers(site, version),
        site.clients[0].udp(VIPS[version], 53) as sock,
        Frames(site.clients[0]) as frames,
    ):
        for _ in range(3):
            await ask(sock, bytes(4_000))
        packed = {ipaddress.ip_address(address_of(host, version)).packed for host in site.members}
        at = {4: slice(26, 30), 6: slice(22, 38)}[version]
        kind = {4: b"\x08\x00", 6: b"\x86\xdd"}[version]
        assert [frame for frame in frames.received() if frame[12:14] == kind and frame[at] in packed] == []


@BOTH
async def test_a_frontend_on_the_hosts_own_address(site: Site, balancer: Balancer, version: int) -> None:
    """It takes its port only: ssh answers, a closed port refuses, and a member reaches the frontend as well."""
    own = {4: LB_FRONT4, 6: LB_FRONT6}[version]
    await balancer.apply(rule(site, version, address=own))
    with Listener("::", 22, host=site.lb) as ssh, Members(site, version) as members:
        (await connect(own, 22, host=site.clients[0])).close()
        assert ssh.waiting()
        with pytest.raises(ConnectionRefusedError):
            await connect(own, 443, host=site.clients[0])
        for host in (site.clients[0], *[site.members[0]] * 8):
            async with members.joined(host, own) as (client, accepted):
                await greet(client, accepted)


@BOTH
@pytest.mark.parametrize("ports", ["one", "all"])
async def test_probes_of_the_host_reach_members(site: Site, balancer: Balancer, version: int, ports: str) -> None:
    """The host's own connections to a member's port and address are not the datapath's."""
    await balancer.apply({"one": rule, "all": ha_rule}[ports](site, version))
    with Listener(address_of(site.members[0], version), BACKEND_PORT, host=site.members[0]) as listener:
        client = await connect(address_of(site.members[0], version), BACKEND_PORT, host=site.lb)
        with client, await listener.accept() as accepted:
            await greet(client, accepted)
    await site.lb.check_output("ping", "-c", "1", "-W", "5", address_of(site.members[0], version))


@BOTH
@pytest.mark.parametrize("ports", ["one", "all"])
async def test_members_addressed_directly(site: Site, balancer: Balancer, version: int, ports: str) -> None:
    """A client reaches a member by its own address through the host as a router, also while it uses the VIP."""
    found = {"one": (rule(site, version), udp_rule(site, version, backend_port=5353)), "all": (ha_rule(site, version),)}
    port = {"one": 80, "all": BACKEND_PORT}[ports]
    await balancer.apply(*found[ports])
    target, client_host = site.members[0], site.clients[0]
    with Members(site, version) as members, ExitStack() as stack:
        direct = stack.enter_context(await connect(address_of(target, version), BACKEND_PORT, host=client_host))
        accepted = stack.enter_context(await members.accept())
        await greet(direct, accepted)
        async with members.joined(client_host, VIPS[version], port) as (client, other):
            await greet(client, other)
        await balancer.apply(*found[ports][:1], down=["be3"])  # what was seen of connections survives a change
        await accepted.send(b"still there")
        assert await direct.exactly(11) == b"still there"
    with UdpMembers(site, version, port=5353), client_host.udp(address_of(target, version), 5353) as sock:
        assert (await ask(sock))[0] == target.name
    await client_host.check_output("ping", "-c", "1", "-W", "5", address_of(target, version))


@BOTH
async def test_what_members_begin_themselves(site: Site, balancer: Balancer, version: int) -> None:
    """A member behind an HA-ports rule opens connections, sends datagrams and pings by way of the host."""
    await balancer.apply(ha_rule(site, version))
    target, origin = address_of(site.clients[0], version), site.members[1]
    with Listener(target, 8443, host=site.clients[0]) as listener:
        client = await connect(target, 8443, host=origin)
        with client, await listener.accept() as accepted:
            assert accepted.peer == client.name
            await greet(client, accepted)
    server = await site.clients[0].udp_server(5300, "whoami")
    with origin.udp(target, 5300) as sock:
        assert (await ask(sock))[1:] == sock.getsockname()[:2]
    await server.kill()
    await origin.check_output("ping", "-c", "1", "-W", "5", target)


@pytest.mark.parametrize("answers", ["tcp", "udp", "icmp"])
async def test_a_client_hears_of_the_vip_only(site: Site, balancer: Balancer, answers: str) -> None:
    """Nothing that belongs to a rule's flow reaches the client from the member's own address."""
    await balancer.apply(ha_rule(site))
    with Frames(site.clients[0]) as frames, Members(site) as members, UdpMembers(site):
        match answers:
            case "tcp":
                async with members.joined(site.clients[0], VIP4, BACKEND_PORT) as (client, accepted):
                    await greet(client, accepted)
            case "udp":
                with site.clients[0].udp(VIP4, BACKEND_PORT) as sock:
                    await ask(sock, bytes(4_000))
            case _:
                await site.clients[0].check_output("ping", "-c", "2", "-i", "0.05", "-W", "5", VIP4)
        await asyncio.sleep(0.05)
        sources = {str(ipaddress.IPv4Address(frame[26:30])) for frame in frames.received() if frame[12:14] == b"\x08\0"}
    assert sources == {VIP4}


async def test_an_interface_that_vanishes_and_comes_back(site: Site, balancer: Balancer) -> None:
    """Without its interface the datapath lives on, and serves again as soon as there is a new one of that name."""
    await balancer.apply(rule(site))
    with Members(site) as members:
        async with members.joined(site.clients[0], VIP4) as (client, accepted):
            await greet(client, accepted)
        ip_batch(["link set dev back down"], namespace=site.lb.namespace)
        await asyncio.sleep(0.1)
        ip_batch(["link set dev back up"], namespace=site.lb.namespace)
        async with members.joined(site.clients[0], VIP4) as (client, accepted):
            await greet(client, accepted)
    ip_batch(_pair("extra", "other"), namespace=site.lb.namespace)
    await _until_guarded(site, "extra", present=True)
    ip_batch(["link del dev extra"], namespace=site.lb.namespace)
    await _until_guarded(site, "extra", present=False)
    ip_batch(_pair("extra", "other"), namespace=site.lb.namespace)
    await _until_guarded(site, "extra", present=True)
    assert balancer.events.of(Event.DATAPATH_FAILED) == []


async def test_an_interface_that_is_down_for_a_moment(site: Site, balancer: Balancer) -> None:
    """When it is up again before anybody has looked, frames still come by it, and nothing spins."""
    await balancer.apply(rule(site))
    with Members(site) as members:
        for device in ("front", "back"):
            ip_batch([f"link set dev {device} down", f"link set dev {device} up"], namespace=site.lb.namespace)
            async with members.joined(site.clients[0], VIP4) as (client, accepted):
                await greet(client, accepted)


async def test_an_interface_that_vanishes_before_it_is_opened(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are served as if it had never been there, and nothing is said to have failed."""
    ip_batch(_pair("extra", "other"), namespace=site.lb.namespace)
    seen = neighbours.look_around

    def look_and_lose(wanted: Collection[Address], *known: neighbours.Surroundings | None) -> neighbours.Surroundings:
        found = seen(wanted, *known)
        if "extra" in {link.name for link in found.links.values()}:
            ip_batch(["link del dev extra"], namespace=site.lb.namespace)
        return found

    monkeypatch.setattr(neighbours, "look_around", look_and_lose)
    async with packets(site.lb) as balancer:
        await balancer.apply(rule(site))
        await serves(site)
        assert balancer.events.of(Event.DATAPATH_FAILED) == []


async def test_more_interfaces_than_there_is_room_for(site: Site) -> None:
    """The tables are refused with the number and the remedy; with fewer they are taken, and more do not end that."""
    pairs = [(f"a{number}", f"b{number}") for number in range(MAX_INTERFACES // 2)]
    ip_batch([line for pair in pairs for line in _pair(*pair)], namespace=site.lb.namespace)
    async with packets(site.lb) as balancer:
        with pytest.raises(ApplyError, match=f"{MAX_INTERFACES + 1} interfaces.* has room for {MAX_INTERFACES}; run"):
            await balancer.apply(rule(site))
        ip_batch(["link del dev a0"], namespace=site.lb.namespace)
        await _taken(balancer, rule(site))
        ip_batch(_pair("a0", "b0"), namespace=site.lb.namespace)
        async with asyncio.timeout(PATIENCE_S):
            while not balancer.events.of(Event.DATAPATH_FAILED):
                await asyncio.sleep(0.05)
        await serves(site)


async def _taken(balancer: Balancer, row: Row) -> None:
    """Apply a rule again and again, until the kernel's word of what has changed is heard."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await balancer.apply(row)
            except ApplyError:
                await asyncio.sleep(0.05)


def _pair(one: str, other: str) -> list[str]:
    return [f"link add dev {one} type veth peer name {other}", f"link set dev {one} up", f"link set dev {other} up"]


async def _until_guarded(site: Site, device: str, *, present: bool) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while bool(re.search(rf"devices = .*\b{device}\b", await _filter(site))) is not present:
            await asyncio.sleep(0.05)


async def _filter(site: Site) -> str:
    return await site.lb.check_output("nft", "list", "ruleset")


@BOTH
async def test_a_member_that_is_replaced(site: Site, balancer: Balancer, version: int) -> None:
    """When another machine with another link address takes a member's address over, traffic follows."""
    await balancer.apply(rule(site, version), down=["be2", "be3"])
    old, new = site.members[:2]
    address, bits = address_of(old, version), {4: 24, 6: 64}[version]
    await _served_by(site, old, version)
    ip_batch([f"addr del {address}/{bits} dev back"], namespace=old.namespace)
    ip_batch([f"addr add {address}/{bits} dev back{' nodad' if version == 6 else ''}"], namespace=new.namespace)
    link = (await new.check_output("cat", "/sys/class/net/back/address")).strip()
    ip_batch([f"neigh replace {address} lladdr {link} dev back nud reachable"], namespace=site.lb.namespace)
    await _served_by(site, new, version)


@BOTH
async def test_a_member_that_is_another_machine_and_does_not_say_so(
    site: Site, balancer: Balancer, version: int
) -> None:
    """Nobody probes it, and it never spoke: traffic follows once the kernel has asked again."""
    host, family = site.members[0], {4: "ipv4", 6: "ipv6"}[version]
    for name, value in {"delay_first_probe_time": 1, "retrans_time_ms": 50}.items():
        site.lb.sysctl(f"net.{family}.neigh.back.{name}", str(value))
    await balancer.apply(rule(site, version), down=["be2", "be3"])
    await _served_by(site, host, version)
    ip_batch(["link set dev back address 02:00:00:00:99:01"], namespace=host.namespace)
    ip_batch([f"neigh change {address_of(host, version)} dev back nud stale"], namespace=site.lb.namespace)
    async with asyncio.timeout(PATIENCE_S):
        while "02:00:00:00:99:01" not in await site.lb.check_output("ip", "neigh", "show", address_of(host, version)):
            await asyncio.sleep(0.2)
    await _served_by(site, host, version)


async def _served_by(site: Site, host: Host, version: int) -> None:
    with (
        Listener(address_of(site.members[0], version), BACKEND_PORT, host=host) as listener,
        await connect(VIPS[version], 80, host=site.clients[0]) as client,
        await listener.accept() as accepted,
    ):
        await greet(client, accepted)


async def test_closing_leaves_nothing(site: Site) -> None:
    """After `close` the host's filter, rules and sockets are what they were, and it can be opened again."""
    before = await _traces(site)
    for _ in range(2):
        async with packets(site.lb) as balancer:
            await balancer.apply(rule(site), ha_rule(site, 6))
            assert TABLE in await _traces(site)
        assert await _traces(site) == before


async def _traces(site: Site) -> str:
    commands = (
        ("nft", "list", "ruleset"),
        ("ip", "rule"),
        ("ip", "-6", "rule"),
        ("ip", "route", "show", "table", "all"),
    )
    found = [await site.lb.check_output(*command) for command in commands]
    return "\n".join((*found, await site.lb.check_output("cat", "/proc/net/packet")))


async def test_a_guard_that_was_left_behind(site: Site) -> None:
    """A killed instance's guard stays until there are tables, which replace it; without rules it is removed."""
    left = f"add table netdev {TABLE}; add set netdev {TABLE} old {{ type ipv4_addr; }}"
    for rows in ((rule(site),), ()):
        await site.lb.check_output("nft", left)
        async with packets(site.lb) as balancer:
            assert "set old" in await _filter(site)
            await balancer.apply(*rows)
            assert "set old" not in await _filter(site)
            assert (TABLE in await _filter(site)) == bool(rows)
            assert len(balancer.events.of(Event.LEFTOVERS_REMOVED)) == 1


async def test_what_a_killed_instance_saw_of_flows_is_kept(site: Site) -> None:
    """A connection of the host to a member, where the member speaks first, goes on under the next instance's guard."""
    origin = site.members[0]
    with Listener(address_of(origin), 8443, host=origin) as listener:
        async with packets(site.lb) as balancer:
            await balancer.apply(ha_rule(site))
            host = await connect(address_of(origin), 8443, host=site.lb)
            accepted = await listener.accept()
            left = await _filter(site)
        with host, accepted:
            await site.lb.check_output("nft", "-f", site.lb.write("left.nft", left))
            async with packets(site.lb) as balancer:
                await balancer.apply(ha_rule(site))
                await accepted.send(b"!")
                assert await host.exactly(1) == b"!"


async def test_two_instances_are_refused(site: Site, balancer: Balancer) -> None:
    """A second instance in the same network namespace is told so, and the first one goes on."""
    await balancer.apply(rule(site))
    async with packets(site.lb) as second:
        with pytest.raises(ApplyError, match="another asynclb uses the datapath `packet`"):
            await second.apply(rule(site, port=81))
    await serves(site)


async def test_two_rules_for_one_member_port_are_refused(site: Site, balancer: Balancer) -> None:
    """Replies to them could not be told apart; the refusal has a code, and nothing changes."""
    await balancer.apply(rule(site))
    with pytest.raises(ApplyError) as caught:
        await balancer.apply(rule(site), rule(site, port=81, name="other"))
    assert {problem.code for problem in caught.value.problems} == {CLASH_CODE}
    await serves(site)
