"""`asynclb doctor --member`: what is wrong with a member is found, and mended by exactly the printed command."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from asynclb.doctor import Finding, Level, Role, examine_member
from asynclb.lab import PATIENCE_S, VIP4, VIP6, Host, Lab, LabError, Site

ROOT = Path(__file__).parents[2]
PORT = 8080
FLOATING4 = Role(ip_address(VIP4), floating=True, port=PORT)
FLOATING6 = Role(ip_address(VIP6), floating=True, port=PORT)
TRANSLATED = Role(ip_address(VIP4), floating=False, port=PORT)
WELL4 = (
    "sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2",
    f"ip addr add {VIP4}/32 dev lo",
)
WELL6 = (f"ip addr add {VIP6}/128 dev lo nodad",)


@asynccontextmanager
async def member_of(lab: Lab, *commands: str) -> AsyncIterator[Host]:
    """Give the test a member with a server, after these commands."""
    host, router = lab.host("member"), lab.host("router")
    lab.link(host, "10.0.2.11/24 2001:db8:2::11/64", router, "10.0.2.1/24 2001:db8:2::1/64")
    for gateway in ("10.0.2.1", "2001:db8:2::1"):
        host.route("default", via=gateway)
    await lab.up()
    await host.tcp_server(PORT)
    await shell(host, *commands)
    yield host


async def shell(host: Host, *commands: str) -> None:
    """Carry out commands as a person would at the member's prompt, who is root already."""
    for command in commands:
        await host.check_output("bash", "-ec", 'sudo() { "$@"; }; ' + command)


async def bad(host: Host, role: Role) -> list[Finding]:
    """Return what is wrong with the member."""
    return [one for one in await everything(host, role) if one.level is not Level.OK]


async def everything(host: Host, role: Role) -> list[Finding]:
    """Return what is said of the member."""

    def look() -> list[Finding]:
        with host.entered():
            return list(examine_member(role))

    return await asyncio.to_thread(look)


@pytest.mark.parametrize(
    ("role", "commands"), [(FLOATING4, WELL4), (FLOATING6, WELL6), (TRANSLATED, ())], ids=["v4", "v6", "translated"]
)
async def test_a_member_as_it_should_be(lab: Lab, role: Role, commands: tuple[str, ...]) -> None:
    """Nothing is found where nothing is wrong."""
    async with member_of(lab, *commands) as host:
        assert await bad(host, role) == []


ON_ETHERNET = f"ip addr del {VIP4}/32 dev lo; ip addr add {VIP4}/24 dev router"
ON_ETHERNET6 = f"ip addr del {VIP6}/128 dev lo; ip addr add {VIP6}/64 dev router nodad"
DUPLICATE = (
    "sysctl -qw net.ipv6.conf.router.accept_dad=1 net.ipv6.conf.all.accept_dad=1 net.ipv6.conf.router.dad_transmits=30"
)


@pytest.mark.parametrize(
    ("role", "wrong", "subject", "word"),
    [
        (FLOATING4, "sysctl -qw net.ipv4.conf.all.arp_ignore=0", "router", "arp_ignore=0"),
        (FLOATING4, "sysctl -qw net.ipv4.conf.all.arp_announce=1", "router", "arp_announce=1"),
        (FLOATING4, "sysctl -qw net.ipv4.conf.all.rp_filter=1", "router", "strict reverse path"),
        (FLOATING4, f"ip addr del {VIP4}/32 dev lo", f"VIP {VIP4}", "not on this host"),
        (FLOATING4, ON_ETHERNET, f"VIP {VIP4}", "answers ARP"),
        (FLOATING4, f"ip addr add {VIP4}/24 dev router", f"VIP {VIP4}", "answers ARP"),
        (FLOATING4, f"ip addr del {VIP4}/32 dev lo; ip addr add {VIP4}/24 dev lo", f"VIP {VIP4}", "whole network"),
        (FLOATING4, "ip link set dev router mtu 1400", "router", "MTU 1400"),
        (FLOATING6, f"ip addr del {VIP6}/128 dev lo", f"VIP {VIP6}", "not on this host"),
        (FLOATING6, ON_ETHERNET6, f"VIP {VIP6}", "answers neighbour discovery"),
        (FLOATING6, f"{DUPLICATE}; {ON_ETHERNET6.removesuffix(' nodad')}", f"VIP {VIP6}", "neighbour discovery"),
        (FLOATING6, "ip link set dev router mtu 1300", "router", "MTU 1300"),
        (TRANSLATED, f"ip addr add {VIP4}/32 dev lo", f"VIP {VIP4}", "stay here"),
        (TRANSLATED, "sysctl -qw net.ipv4.conf.router.rp_filter=1", "router", "strict reverse path"),
    ],
    ids=lambda value: value if isinstance(value, str) and "=" in value else None,
)
async def test_each_fault_is_mended_by_its_command(lab: Lab, role: Role, wrong: str, subject: str, word: str) -> None:
    """One wrong setting is one finding, and nothing is found after its command was carried out."""
    well = {4: WELL4, 6: WELL6}[role.vip.version] if role.floating else ()
    async with member_of(lab, *well, wrong) as host:
        (found,) = await bad(host, role)
        assert found.subject == subject
        assert word in found.found
        await shell(host, found.mend)
        assert await bad(host, role) == []


async def test_a_loopback_without_ipv6(lab: Lab) -> None:
    """Where the loopback takes no IPv6 addresses that comes first, and both commands make the member whole."""
    async with member_of(lab, "sysctl -qw net.ipv6.conf.lo.disable_ipv6=1") as host:
        first, second = await bad(host, FLOATING6)
        assert (first.subject, second.subject) == ("disable_ipv6", f"VIP {VIP6}")
        await shell(host, first.mend, second.mend)
        assert await bad(host, FLOATING6) == []


async def test_who_listens(lab: Lab) -> None:
    """A service on another address or family does not count; one on the VIP, or on all addresses, does."""
    async with member_of(lab, *WELL4) as host:
        role = Role(FLOATING4.vip, floating=True, port=81)
        (found,) = await bad(host, role)
        assert found.found == f"nobody listens on {VIP4}"
        await shell(host, found.mend)
        script = "import socket, sys, time; s = socket.create_server((sys.argv[1], 81)); time.sleep(60)"
        process = await host.run(sys.executable, "-c", script, "10.0.2.11")
        await host.wait_listening(process, 81)
        (found,) = await bad(host, role)
        assert found.found == f"nobody listens on {VIP4}, only on tcp 10.0.2.11"
        await host.wait_listening(await host.run(sys.executable, "-c", script, VIP4), 81)
        await wait_well(host, role)
        assert await bad(host, Role(TRANSLATED.vip, floating=True)) == []


async def wait_well(host: Host, role: Role) -> None:
    """Wait until nothing is wrong: a server takes a moment to listen."""
    async with asyncio.timeout(PATIENCE_S):
        while await bad(host, role):
            await asyncio.sleep(0.05)


async def test_no_way_back(lab: Lab) -> None:
    """A member that answers nobody but its neighbours is told of, with who is to be its router."""
    async with member_of(lab, *WELL4, "ip route del default") as host:
        (found,) = await bad(host, FLOATING4)
        assert (found.subject, "via ROUTER" in found.mend) == ("way back", True)
        await shell(host, found.mend.replace("ROUTER", "10.0.2.1"))
        assert await bad(host, FLOATING4) == []


async def test_the_way_back_of_another_port(lab: Lab) -> None:
    """Where the rule changes the port, the way back is by the balancer, and with none it is the one to be added."""
    role = Role(FLOATING4.vip, floating=True, port=PORT, asked=PORT + 1)
    async with member_of(lab, *WELL4) as host:
        found = {one.subject: one.found for one in await everything(host, role)}
        assert f"this must be the balancer, which makes port {PORT} of answers {PORT + 1} again" in found["way back"]
        same = {one.subject: one.found for one in await everything(host, replace(role, asked=PORT))}
        assert same["way back"].startswith("straight to clients")
        await shell(host, "ip route del default")
        (missing,) = await bad(host, role)
        assert "via BALANCER" in missing.mend


async def doctor(host: Host, *words: str) -> tuple[int, str]:
    """Run the command on a host."""
    process = await host.run(
        *(sys.executable, "-m", "asynclb", "doctor", *words), env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    return await process.wait(), process.stdout


async def test_a_bare_member_becomes_one_that_serves(site: Site) -> None:
    """Direct server return on a fresh member: what is printed, carried out in order, makes clients happy."""
    client, member, lb = site.clients[0], site.members[0], site.lb
    await member.nginx()
    await shell(
        lb, f"ip route add {VIP4}/32 via 10.0.2.11"
    )  # what a floating rule does: the VIP stays, the link changes
    ask = ("curl", "-sS", "-m", "2", f"http://{VIP4}:{PORT}/")
    with pytest.raises(LabError):
        await client.check_output(*ask)
    code, text = await doctor(member, "--member", f"{VIP4}:{PORT}", "--floating", "--json")
    findings = json.loads(text)
    assert code == 1
    for finding in findings:
        await shell(member, *filter(None, [finding["mend"]]))
    code, text = await doctor(member, "--member", f"{VIP4}:{PORT}", "--floating")
    assert code == 0, text
    assert text.startswith("all well: ")
    assert await client.check_output(*ask) == "be1\n"
    await shell(lb, f"ip route del {VIP4}/32")
    asked = await lb.run("bash", "-c", f"ip route add {VIP4}/32 dev back; ping -c 1 -W 1 {VIP4}; ip neigh show {VIP4}")
    await asked.wait()
    assert "lladdr" not in asked.stdout  # nobody says that the VIP is here
