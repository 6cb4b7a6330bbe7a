"""What connections go through: the kernel datapath, and what its users could pick instead.

                                    +-- 10.2.N.11 member a
    client 10.1.N.10 ---- router N -+
                                    +-- 10.3.N.11 member b

As in `peers`: a router, three cables and a VIP (203.0.113.N) for each subject, client and members shared by all.

    direct      router 0 forwards, and clients send to the members themselves, half of them to each
    nft DNAT    the kernel routes, nftables picks a member at random, conntrack remembers
    HAProxy     both members in turn, over as many threads as there are processors
    asynclb     `datapath: kernel`

Bulk streams have a pool of one member, because iperf3's two connections belong together.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

import loads
import peers
from loads import Sample
from packet_peers import received
from peers import ASYNCLB, BULK, DIRECT, HAPROXY, UDP, WEB, Arena, Subject

from asynclb.datapath.kernel.bpffs import find_bpffs
from asynclb.datapath.kernel.leftovers import remove_dead
from asynclb.datapath.kernel.pins import HOME, Pins, namespace_cookie
from asynclb.datapath.nft import Nftables
from asynclb.errors import HostError
from asynclb.lab import Host, Lab, LabError
from asynclb.native.libbpf import Libbpf, LibbpfMissingError

DNAT: Final = "nft DNAT"
SUBJECTS = (DIRECT, DNAT, HAPROXY, ASYNCLB)
MEMBERS = ("a", "b")

_CONNECTIONS = 64
_NO_DATAPATH = re.compile(r"\(kernel: ([^\n]*).*\) \[NO_DATAPATH\]", re.DOTALL)
"""How asynclb refuses a rule whose datapath there is not."""

_ASYNCLB = """\
version: 1
datapath: kernel
hash_seed: "8c1f0c6e5f0b4a7d"
shutdown_drain: 0s
frontends:
  bench: {{address: {vip}, allow: [0.0.0.0/0]}}
backend_pools:
  both: {{members: [{{name: a, address: {a}}}, {{name: b, address: {b}}}]}}
  one: {{members: [{{name: a, address: {a}}}]}}
probes:
  web: {{protocol: tcp, port: {web}, interval: 5s}}
rules:
  - {{name: web, frontend: bench, protocol: tcp, frontend_port: {web}, backend_pool: both, probe: web}}
  - {{name: bulk, frontend: bench, protocol: tcp, frontend_port: {bulk}, backend_pool: one, probe: web}}
  - {{name: udp, frontend: bench, protocol: udp, frontend_port: {udp}, backend_pool: both, probe: web}}
"""

_DNAT = """\
table ip bench {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr {vip} tcp dport {web} dnat to numgen random mod 2 map {{ 0 : {a}, 1 : {b} }}
    ip daddr {vip} udp dport {udp} dnat to numgen random mod 2 map {{ 0 : {a}, 1 : {b} }}
    ip daddr {vip} tcp dport {bulk} dnat to {a}
  }}
}}
"""

_HAPROXY = """\
global
    maxconn {connections}
defaults
    mode tcp
    timeout connect 3s
    timeout client 4m
    timeout server 4m
    source 0.0.0.0 usesrc client
listen web
    bind {vip}:{web} transparent
    balance roundrobin
    server a {a}:{web} check inter 5s
    server b {b}:{web} check inter 5s
listen bulk
    bind {vip}:{bulk} transparent
    option splice-auto
    server a {a}:{bulk}
"""


class AbsentError(HostError):
    """This host cannot run the kernel datapath; the text says why."""


@dataclass(slots=True)
class Path:
    """A subject of this arena beside what `peers` knows of it: the members' addresses as it sees them."""

    subject: Subject
    a: str
    b: str

    def words(self) -> dict[str, str | int]:
        """Return what the configurations have gaps for."""
        ports = {"web": WEB, "bulk": BULK, "udp": UDP, "connections": peers.max_connections()}
        return {"vip": self.subject.target, "a": self.a, "b": self.b, **ports}


@asynccontextmanager
async def kernel_lab(title: str, *, offload: bool = True) -> AsyncIterator[Lab]:
    """Enter a lab, end every balancer in order before the lab goes, and remove what killed benches left pinned."""
    await asyncio.to_thread(_remove_dead)
    async with Lab(title, offload=offload) as lab:
        try:
            yield lab
        finally:
            await asyncio.gather(*(each.stop() for each in lab.processes if each.name.endswith("-asynclb")))


def _remove_dead() -> None:
    """Remove the pins of namespaces that are gone, as every start of the kernel datapath does."""
    with suppress(LibbpfMissingError):  # so there are none
        bpf = Libbpf()
        remove_dead(bpf, Pins(bpf, find_bpffs(HOME), namespace_cookie()))


async def build(lab: Lab) -> Arena:
    """Set up the hosts, start the members' servers and every subject, and see that they do what they should.

    Raises: AbsentError -> there is no kernel datapath here; LabError -> something does not work as it should.
    """
    client = lab.host("client")
    members = [lab.host(name) for name in MEMBERS]
    paths = {name: _path(lab, client, members, number, name) for number, name in enumerate(SUBJECTS)}
    program = await peers.bring_up(lab, *members)
    await start_kernel(paths[ASYNCLB].subject, _ASYNCLB.format(**paths[ASYNCLB].words()))
    with paths[DNAT].subject.router.entered():
        Nftables().run(_DNAT.format(**paths[DNAT].words()))
    await peers.start_haproxy(paths[HAPROXY].subject, _HAPROXY.format(**paths[HAPROXY].words()))
    arena = Arena(client, members[0], {name: path.subject for name, path in paths.items()}, program)
    for subject in arena.subjects.values():
        await peers.verify(arena, subject)
        await _see_both(arena, subject, members)
    return arena


async def start_kernel(subject: Subject, config: str) -> None:
    """Start asynclb with a configuration that wants the kernel datapath.

    Raises: AbsentError -> it refuses the configuration, because this host or this version has no such datapath.
    """
    try:
        await peers.start_asynclb(subject, config)
    except LabError as error:
        said = subject.process.stdout + subject.process.stderr if subject.process else ""
        if refusal := _NO_DATAPATH.search(said):
            raise AbsentError(refusal[1]) from error
        raise


def _path(lab: Lab, client: Host, members: list[Host], number: int, name: str) -> Path:
    router = lab.host(f"r{number}", forwarding=True)
    lab.link(client, f"10.1.{number}.10/24", router, f"10.1.{number}.1/24")
    addresses = [f"10.{2 + place}.{number}.11" for place in range(len(members))]
    for place, (member, address) in enumerate(zip(members, addresses, strict=True)):
        lab.link(router, f"10.{2 + place}.{number}.1/24", member, f"{address}/24")
        member.route(f"10.1.{number}.0/24", via=f"10.{2 + place}.{number}.1")
    target = addresses[0] if name == DIRECT else f"203.0.113.{number}"
    for destination in addresses if name == DIRECT else [target]:
        client.route(f"{destination}/32", via=f"10.1.{number}.1")
    if name == HAPROXY:
        peers.prepare_tproxy(router, target)
    return Path(Subject(name, router, f"10.1.{number}.10", target), *addresses)


async def _see_both(arena: Arena, subject: Subject, members: list[Host]) -> None:
    """See that both members get their part of 64 connections.

    Raises: LabError -> one of them gets nothing.
    """
    before = [received(member, subject.router.name) for member in members]
    await many_requests(arena, subject, 1.0)
    shares = [received(member, subject.router.name) - base for member, base in zip(members, before, strict=True)]
    if min(shares) * 10 < max(shares):
        raise LabError(f"{subject.name}: the members got {shares} frames of 64 connections")


async def many_requests(arena: Arena, subject: Subject, seconds: float) -> Sample:
    """Requests per second over 64 kept-alive connections, of two programs with one thread and 32 of them each."""
    halves = [subject, subject]
    if subject.name == DIRECT:
        halves[1] = replace(subject, target=subject.target.replace("10.2.", "10.3.", 1))
    each = _CONNECTIONS // len(halves)
    samples = await asyncio.gather(*(loads.kept_alive(arena, half, seconds, each) for half in halves))
    return Sample(*(sum(getattr(sample, name) for sample in samples) for name in ("value", "work", "cpu_s", "failed")))
