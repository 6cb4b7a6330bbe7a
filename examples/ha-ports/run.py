"""Run the HA-ports example in a lab: `sudo .venv/bin/python examples/ha-ports/run.py`. Exit code 0 if all holds."""

import asyncio
import json
import re
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

from asynclb.errors import HostError
from asynclb.lab import STANDARD, Host, Lab, Process, Site
from asynclb.lab.topology import ON_LINK_VIP4, ON_LINK_VIP6

HERE = Path(__file__).resolve().parent
VIPS = (ON_LINK_VIP4, ON_LINK_VIP6)
FIRST, LAST = 20_000, 20_299  # 300 ports of TCP and 300 of UDP
CLOSED = 30_000
PROBE_PORT = 22
PINGS = 60
AT_ONCE = 50
ANSWER_S = 2.0

Ask = Callable[[Host, str, int], Awaitable[str]]
"""Ask a port of an address; return which member answered."""


def named(answer: bytes, port: int, own: tuple[str, int]) -> str:
    """Return the member's name out of its answer. It must have seen the very port and client that asked."""
    name, asked, address, client_port = answer.decode().split()
    assert (int(asked), address, int(client_port)) == (port, own[0], own[1]), f"{answer!r} to {own} on port {port}"
    return name


async def ask_tcp(client: Host, vip: str, port: int) -> str:
    """Ask on a connection of its own."""
    async with asyncio.timeout(ANSWER_S), client.connection(vip, port) as (reader, writer):
        return named(await reader.read(-1), port, writer.get_extra_info("sockname")[:2])


async def ask_udp(client: Host, vip: str, port: int) -> str:
    """Ask with one datagram."""
    with client.udp(vip, port) as sock:
        sock.send(b"who?")
        async with asyncio.timeout(ANSWER_S):
            return named(await asyncio.get_running_loop().sock_recv(sock, 2048), port, sock.getsockname()[:2])


async def ping(client: Host, vip: str, number: int) -> None:
    """Send one echo request with an id of its own, and wait for the answer from the same address."""
    v6 = ":" in vip
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    with client.open_socket(family, socket.SOCK_DGRAM, protocol) as sock:
        sock.setblocking(False)
        sock.connect((vip, 0))
        sock.send(struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 0, number) + b"anybody there?")
        async with asyncio.timeout(ANSWER_S):
            answer = await asyncio.get_running_loop().sock_recv(sock, 2048)
        assert answer[8:] == b"anybody there?"


def echoes(hosts: Iterable[Host]) -> list[int]:
    """Return how many echo requests each host's kernel has seen."""
    found = []
    for host in hosts:
        with host.entered():
            net = Path("/proc/thread-self/net")
            heads, values = (line.split() for line in (net / "snmp").read_text().splitlines() if line[:5] == "Icmp:")
            v6 = re.search(r"^Icmp6InEchos\s+(\d+)", (net / "snmp6").read_text(), re.MULTILINE)
        found.append(int(values[heads.index("InEchos")]) + int(v6.group(1) if v6 else 0))
    return found


async def all_ports(client: Host, vip: str, ask: Ask, ports: Iterable[int]) -> Counter[str]:
    """Ask every port, some at a time; return how many each member answered."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(port: int) -> str:
        async with room:
            return await ask(client, vip, port)

    return Counter(await asyncio.gather(*(one(port) for port in ports)))


async def members_up(lb: Host, names: set[str]) -> None:
    """Wait until these members, and no other, take new flows, over IPv4 and IPv6."""
    deadline = time.monotonic() + 20
    taking: dict[str, set[str]] = {}
    while taking != {"any4": names, "any6": names}:
        assert time.monotonic() < deadline, f"not {sorted(names)} take new flows, but {taking}"
        await asyncio.sleep(0.05)
        with suppress(OSError):
            async with lb.connection("127.0.0.1", 9180) as (reader, writer):
                writer.write(b"GET /api/v1/state HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                document = json.loads((await reader.read(-1)).partition(b"\r\n\r\n")[2])
            if all(path["generation"] == document["generation"] for path in document["datapaths"] if path["rules"]):
                taking = {
                    table["pool"]: {member["name"] for member in table["members"]} for table in document["tables"]
                }


def show(what: str, answers: Counter[str]) -> None:
    """Write one line: how many ports each member answered."""
    print(f"{what:<44} {answers.total():>4} answered: {dict(sorted(answers.items()))}")


async def play(site: Site, members: dict[str, Process]) -> None:
    """Ask every port, ping, ask a port that nobody listens on, and lose a member."""
    await members_up(site.lb, set(members))
    ports = range(FIRST, LAST + 1)
    for vip in VIPS:
        for client, ask, protocol in zip(site.clients, (ask_tcp, ask_udp), ("tcp", "udp"), strict=True):
            answers = await all_ports(client, vip, ask, ports)
            show(f"{protocol} {vip}, {len(ports)} ports", answers)
            assert answers.total() == len(ports)
            assert set(answers) == set(members)
            assert min(answers.values()) > len(ports) / 3 - 60, "a third each, within seven standard deviations"

        before, own = echoes(site.members), echoes([site.lb])
        await asyncio.gather(*(ping(site.clients[0], vip, number) for number in range(PINGS)))
        pinged = [now - then for now, then in zip(echoes(site.members), before, strict=True)]
        show(f"ping {vip}, {PINGS} ids", Counter(dict(zip(members, pinged, strict=True))))
        assert sum(pinged) == PINGS
        assert min(pinged) > 0
        assert echoes([site.lb]) == own, "members answer, not the balancer"

        refused = []
        for ask in (ask_tcp, ask_udp):
            with suppress(ConnectionRefusedError):  # a reset; and an ICMP error, which finds the flow that it is about
                await ask(site.clients[0], vip, CLOSED)
                refused.append(ask)
        assert not refused, "a member that does not listen says so"
        print(f"{f'port {CLOSED} of {vip}, which nobody serves':<44} refused at once, over tcp and udp")

    await members["be2"].kill()
    await members_up(site.lb, {"be1", "be3"})
    for vip in VIPS:
        answers = await all_ports(site.clients[0], vip, ask_tcp, ports)
        show(f"tcp {vip}, be2 was killed", answers)
        assert set(answers) == {"be1", "be3"}
        assert answers.total() == len(ports)


async def main() -> None:
    """Set up the lab, play, tear down."""
    async with Lab("ha-ports example") as lab:
        site = await STANDARD.build(lab)
        for client in site.clients:
            client.sysctl("net.ipv4.ping_group_range", "0 0")
        await lab.up()
        members = {}
        for host in site.members:
            words = (host.name, FIRST, LAST, PROBE_PORT)
            members[host.name] = await host.run(sys.executable, "-I", "-S", HERE / "member.py", *map(str, words))
            await host.wait_listening(members[host.name], PROBE_PORT)
        async with site.lb.balancer((HERE / "asynclb.yaml").read_text()):
            await play(site, members)
        print("every answer named the client's own address and port, and the port that was asked")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except HostError as error:
        sys.exit(f"{error}")
    print("as expected")
