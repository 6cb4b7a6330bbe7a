"""Run the media-upload example in a lab: `sudo .venv/bin/python examples/media-upload/run.py`. Exit 0 if all holds."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from asynclb.errors import HostError
from asynclb.lab import VIP4, VIP6, Host, Lab, Process, Site
from asynclb.lab.topology import Topology

HERE = Path(__file__).resolve().parent
SPREAD_VIP = "203.0.113.20"
CONTROL, MEDIA = 8000, 9000
CLIENTS, UPLOADS, DATAGRAMS = 8, 5, 4
ANSWER_S = 5.0


@asynccontextmanager
async def control(client: Host, vip: str, word: str) -> AsyncIterator[str]:
    """Open a control connection for the length of a block; yield who took it."""
    async with asyncio.timeout(ANSWER_S), client.connection(vip, CONTROL) as (reader, writer):
        writer.write(f"{word}\n".encode())
        yield (await reader.readline()).decode().split()[0]


async def media(client: Host, vip: str, word: str) -> str:
    """Send one datagram of an upload from a port of its own; return who took it, and whether it knew the upload."""
    with client.udp(vip, MEDIA) as sock:
        sock.send(f"{word} a piece of the film".encode())
        async with asyncio.timeout(ANSWER_S):
            return (await asyncio.get_running_loop().sock_recv(sock, 2048)).decode().strip()


async def upload(client: Host, vip: str, word: str) -> tuple[str, Counter[str]]:
    """Upload once; return who had the control connection and what was said to each datagram."""
    async with control(client, vip, word) as member:
        return member, Counter([await media(client, vip, word) for _ in range(DATAGRAMS)])


async def uploads(site: Site, vip: str) -> tuple[dict[str, set[str]], Counter[str]]:
    """Let every client upload a few times; return each client's members, and what was said: `got` or `unknown`."""
    members: dict[str, set[str]] = {client.name: set() for client in site.clients}
    said: Counter[str] = Counter()
    for client in site.clients:
        for number in range(UPLOADS):
            member, answers = await upload(client, vip, f"{client.name}-{number}")
            members[client.name].add(member)
            said.update(answer.split()[1] for answer in answers.elements())
    return members, said


async def members_up(client: Host) -> None:
    """Wait until every frontend takes uploads: a frontend without a member answers nothing."""
    for vip in (VIP4, VIP6, SPREAD_VIP):
        async with asyncio.timeout(20):
            while True:
                try:
                    async with asyncio.timeout(1), control(client, vip, "hello"):
                        break
                except (OSError, TimeoutError):
                    await asyncio.sleep(0.1)


async def play(site: Site, processes: dict[str, Process]) -> None:
    """Upload with and without affinity, and after a member has died."""
    await members_up(site.clients[0])
    total = CLIENTS * UPLOADS * DATAGRAMS
    for vip in (VIP4, VIP6):
        members, said = await uploads(site, vip)
        print(f"{vip:<16} source_ip   {said['got']:>3} of {total} datagrams met their upload")
        assert said == {"got": total}
        assert all(len(taken) == 1 for taken in members.values()), "a client has one member, for all its uploads"
        assert len(set.union(*members.values())) > 1, "clients are spread over the members"
    _, said = await uploads(site, SPREAD_VIP)
    print(f"{SPREAD_VIP:<16} five_tuple  {said['got']:>3} of {total} datagrams met their upload")
    assert 0 < said["got"] < total, "each flow goes its own way"

    before, _ = await uploads(site, VIP4)
    await processes["be1"].kill()
    await asyncio.sleep(3)  # two probes, half a second apart, and a little
    after, said = await uploads(site, VIP4)
    print(f"{VIP4:<16} be1 killed  {said['got']:>3} of {total} datagrams met their upload")
    assert said == {"got": total}
    stayed = [name for name in before if before[name] != {"be1"}]
    assert all(after[name] == before[name] for name in stayed), "who had another member keeps it"


async def main() -> None:
    """Set up the lab, play, tear down."""
    async with Lab("media-upload example") as lab:
        site = await Topology(clients=CLIENTS, members=3).build(lab)
        processes = {}
        for host in site.members:
            processes[host.name] = await host.run(sys.executable, "-I", "-S", HERE / "member.py", host.name)
            await host.wait_listening(processes[host.name], CONTROL)
        async with site.lb.balancer((HERE / "asynclb.yaml").read_text()):
            await play(site, processes)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except HostError as error:
        sys.exit(f"{error}")
    print("as expected")
