"""What packets go through: the packet datapath, what limits it, and what it is compared with.

    client 10.1.N.10 ---- 10.1.N.1 router N 10.2.N.1 ---- 10.2.N.11 member

As in `peers`: a router, two cables and a VIP (203.0.113.N) for each subject, client and member shared by all.

    direct          router 0 forwards, and clients send to the member itself
    bare loop       swaps the link addresses and sends on; no lookup, no state: the limit of packet sockets
    kernel DNAT     the kernel routes, nftables translates, conntrack remembers; in the time of whoever sends
    asynclb         `datapath: packet`
    Python lookup   its rings with the decision in plain Python

Frames of the load end at the member's interface, where they are counted and dropped.
"""

import asyncio
import os
import sys
from pathlib import Path

import peers
from peers import ASYNCLB, BULK, DIRECT, UDP, WEB, Arena, Subject

import asynclb
from asynclb.datapath.nft import Nftables
from asynclb.lab import Host, Lab, LabError, Process

LOOP, KERNEL, PYTHON = "bare loop", "kernel DNAT", "Python lookup"
SUBJECTS = (DIRECT, LOOP, KERNEL, ASYNCLB, PYTHON)

PACKETS = 9
"""The UDP port of the load."""
SOURCE = "11.0.0.0"
"""The first address that the load comes from."""

_ASYNCLB = """\
version: 1
datapath: packet
hash_seed: "8c1f0c6e5f0b4a7d"
shutdown_drain: 0s
frontends:
  bench: {{address: {vip}, allow: [0.0.0.0/0]}}
backend_pools:
  bench: {{members: [{{name: member, address: {member}}}]}}
probes:
  web: {{protocol: tcp, port: {web}, interval: 5s}}
rules:
  - {{name: web, frontend: bench, protocol: tcp, frontend_port: {web}, backend_pool: bench, probe: web}}
  - {{name: bulk, frontend: bench, protocol: tcp, frontend_port: {bulk}, backend_pool: bench, probe: web}}
  - {{name: udp, frontend: bench, protocol: udp, frontend_port: {udp}, backend_pool: bench, probe: web}}
  - {{name: packets, frontend: bench, protocol: udp, frontend_port: {packets}, backend_pool: bench, probe: web}}
"""

_DNAT_NFT = """\
table ip bench {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr {vip} dnat to {member}
  }}
}}
"""

_DROP_NFT = """\
table netdev bench {{
  chain ingress {{
    type filter hook ingress devices = {{ {devices} }} priority 0; policy accept;
    udp dport {packets} counter drop
  }}
}}
"""


async def build(lab: Lab) -> Arena:
    """Set up the hosts, start the member's servers and every subject, and see that they do what they should.

    Raises: LabError -> a program does not start, or a member does not see the client's address.
    """
    client, member = lab.host("client"), lab.host("member")
    subjects = {name: _subject(lab, client, member, number, name) for number, name in enumerate(SUBJECTS)}
    udp_load, packet_load = await peers.bring_up(lab), lab.entry.directory / "packet_load"
    await peers.compile_program("packet_load.c", packet_load)
    drop_load(member, *(subject.router.name for subject in subjects.values()))
    await peers.start_member(member, udp_load)
    await peers.start_asynclb(subjects[ASYNCLB], _ASYNCLB.format(**_words(subjects[ASYNCLB])))
    with subjects[KERNEL].router.entered():
        Nftables().run(_DNAT_NFT.format(**_words(subjects[KERNEL])))
    for name in (LOOP, PYTHON):
        drop_load(subjects[name].router, client.name, member.name)
    words = ("loop", "v2", client.name, member.name)
    subjects[LOOP].process = await start_receiver(subjects[LOOP].router, packet_load, *words)
    await _start_python(subjects[PYTHON])
    arena = Arena(client, member, subjects, udp_load, packet_load)
    for name in (DIRECT, KERNEL, ASYNCLB):
        await peers.verify(arena, subjects[name])
    return arena


def _subject(lab: Lab, client: Host, member: Host, number: int, name: str) -> Subject:
    router = lab.host(f"r{number}", forwarding=name not in (LOOP, PYTHON))
    lab.link(client, f"10.1.{number}.10/24", router, f"10.1.{number}.1/24")
    lab.link(router, f"10.2.{number}.1/24", member, f"10.2.{number}.11/24")
    member.route(f"10.1.{number}.0/24", via=f"10.2.{number}.1")
    target = f"10.2.{number}.11" if name == DIRECT else f"203.0.113.{number}"
    client.route(f"{target}/32", via=f"10.1.{number}.1")
    return Subject(name, router, f"10.1.{number}.10", target)


def _words(subject: Subject) -> dict[str, str | int]:
    number = subject.client_address.split(".")[2]
    ports = {"web": WEB, "bulk": BULK, "udp": UDP, "packets": PACKETS}
    return {"vip": subject.target, "member": f"10.2.{number}.11", **ports}


def drop_load(host: Host, *devices: str) -> None:
    """Keep the load from the host's stack, as the packet datapath's guard does, behind the packet sockets."""
    with host.entered():
        Nftables().run(_DROP_NFT.format(devices=", ".join(f'"{device}"' for device in devices), packets=PACKETS))


async def start_receiver(host: Host, program: Path, *words: str) -> Process:
    """Start `packet_load` with these words, which make it receive, and return when it hears."""
    before = _heard(host)
    process = await host.run(program, *words)
    await process.ready(lambda: _heard(host) > before, "listens on a packet socket")
    return process


def _heard(host: Host) -> int:
    """Return how many packet sockets of a host are bound. Source: net/packet/af_packet.c, packet_seq_show."""
    with host.entered():
        lines = Path("/proc/thread-self/net/packet").read_text().splitlines()[1:]
    return sum(line.split()[5] == "1" for line in lines)


async def _start_python(subject: Subject) -> None:
    words = _words(subject)
    script = Path(__file__).with_name("packet_python.py")
    environment = os.environ | {"PYTHONPATH": str(Path(asynclb.__file__).parents[1])}
    argv = (sys.executable, script, str(words["vip"]), str(words["member"]), str(PACKETS))
    await subject.router.check_output("ping", "-c", "1", "-W", "2", str(words["member"]))  # it knows the neighbour then
    subject.process = await subject.router.run(*argv, env=environment)
    await subject.process.wait_for_log("ready")


async def link_of(host: Host, device: str) -> str:
    """Return the link address of an interface."""
    text = await host.check_output("ip", "-brief", "link", "show", "dev", device)
    return text.split()[2]


def pinned(process: Process | None, cpu: int) -> None:
    """Keep a program on one processor, when there are two."""
    cpus = sorted(os.sched_getaffinity(0))
    if process is None or len(cpus) < 2:
        return
    try:
        os.sched_setaffinity(process.pid, {cpus[cpu]})
    except ProcessLookupError as error:
        raise LabError(f"{process} has ended\n{process.tail()}") from error


def received(host: Host, device: str) -> int:
    """Return how many frames an interface has received. Source: net/core/net-procfs.c."""
    with host.entered():
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    found = next(line.partition(":")[2].split() for line in lines if line.partition(":")[0].strip() == device)
    return int(found[1])


async def settle() -> None:
    """Let the last packets of one load get out of the next one's way."""
    await asyncio.sleep(0.05)
