"""What is compared: asynclb, HAProxy and nginx as transparent balancers, and no balancer at all.

    client 10.1.N.10 ---- 10.1.N.1 router N 10.2.N.1 ---- 10.2.N.11 member

Every subject has a router, two cables and a VIP (203.0.113.N) to itself, so none pays for another's routes and packet
filter; client, member and their programs are the same ones for all. Router 0 has no balancer: it forwards, and what
passes it is the limit of this machine. Each balancer runs as one process with one thread for traffic, checks its member
every 5 s where it can, and keeps the client's address, which `verify` sees in the member's answers.
"""

import asyncio
import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import asynclb
from asynclb.datapath.nft import Nftables
from asynclb.errors import HostError
from asynclb.lab import Host, Lab, LabError, Process

WEB, BULK, BULK_SPLICED, UDP = 8080, 5201, 5202, 5300
"""Ports, the same at the VIP and at the member (but `BULK_SPLICED`, which leads to `BULK`)."""

DIRECT, ASYNCLB, HAPROXY, NGINX = "direct", "asynclb", "HAProxy", "nginx"
SUBJECTS = (DIRECT, ASYNCLB, HAPROXY, NGINX)

_PATIENCE_S = 15.0  # until a balancer's first check has found its member up

WIDE_PORTS: Mapping[str, str | int] = {
    "net.ipv4.ip_local_port_range": "1024 65535",  # new connections use up ports by the ten thousand
    "net.ipv4.tcp_tw_reuse": 1,  # and closed ones are used again after a second instead of a minute
}

_ASYNCLB = """\
version: 1
datapath: proxy
hash_seed: "8c1f0c6e5f0b4a7d"
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
"""

_HAPROXY = """\
global
    nbthread 1
    maxconn {connections}
defaults
    mode tcp
    timeout connect 3s
    timeout client 4m
    timeout server 4m
    source 0.0.0.0 usesrc client
listen web
    bind {vip}:{web} transparent
    server member {member}:{web} check inter 5s
listen bulk
    bind {vip}:{bulk} transparent
    server member {member}:{bulk}
listen bulk_spliced
    bind {vip}:{bulk_spliced} transparent
    option splice-auto
    server member {member}:{bulk}
"""

_NGINX = """\
{stream_module}
daemon off;
master_process off;
user root;
pid {directory}/nginx-balancer.pid;
error_log stderr warn;
worker_rlimit_nofile {descriptors};
events {{ worker_connections {descriptors}; }}
stream {{
    proxy_bind $remote_addr transparent;
    proxy_connect_timeout 3s;
    proxy_timeout 4m;
    server {{ listen {vip}:{web} backlog=4096; proxy_pass {member}:{web}; }}
    server {{ listen {vip}:{bulk}; proxy_pass {member}:{bulk}; }}
    server {{ listen {vip}:{udp} udp; proxy_pass {member}:{udp}; }}
}}
"""

_MEMBER = """\
daemon off;
master_process off;
user root;
pid {directory}/nginx-member.pid;
error_log stderr warn;
worker_rlimit_nofile 32768;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    default_type text/plain;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    server {{
        listen {web} backlog=4096;
        location = / {{ return 200 "ok\\n"; }}
        location = /who {{ return 200 "$remote_addr $remote_port\\n"; }}
    }}
}}
"""

_TPROXY_NFT = """\
table inet bench {
  chain prerouting {
    type filter hook prerouting priority mangle; policy accept;
    meta l4proto { tcp, udp } socket transparent 1 meta mark set 1 accept
  }
}
"""
"""What transparent HAProxy and nginx need around them. Source: Documentation/networking/tproxy.rst."""


@dataclass(slots=True)
class Subject:
    """One column of the tables. Owner: the arena."""

    name: str
    router: Host
    client_address: str
    target: str
    """Where clients send to: the VIP, or the member itself."""
    process: Process | None = None


@dataclass(slots=True)
class Arena:
    """The hosts, the member's programs, and the subjects by name. Owner: the task that entered the lab."""

    client: Host
    member: Host
    subjects: dict[str, Subject]
    udp_program: Path
    packet_program: Path | None = None

    @property
    def balancers(self) -> list[Subject]:
        """The subjects that are processes."""
        return [subject for subject in self.subjects.values() if subject.process is not None]


async def build(lab: Lab) -> Arena:
    """Set up the hosts, start the member's servers and every balancer, and see that all do what they should.

    Raises: LabError -> a program does not start, or a member does not see the client's address.
    """
    client, member = lab.host("client"), lab.host("member")
    subjects = {name: subject(lab, client, member, number, name) for number, name in enumerate(SUBJECTS)}
    arena = Arena(client, member, subjects, await bring_up(lab, member))
    await start_asynclb(subjects[ASYNCLB], proxy_config(subjects[ASYNCLB]))
    await start_haproxy(subjects[HAPROXY], _HAPROXY.format(**_words(subjects[HAPROXY])))
    await _start_nginx(subjects[NGINX])
    for subject in subjects.values():
        await verify(arena, subject)
    return arena


def subject(lab: Lab, client: Host, member: Host, number: int, name: str) -> Subject:
    router = lab.host(f"lb-{name.lower()}", forwarding=True)
    lab.link(client, f"10.1.{number}.10/24", router, f"10.1.{number}.1/24")
    lab.link(router, f"10.2.{number}.1/24", member, f"10.2.{number}.11/24")
    member.route(f"10.1.{number}.0/24", via=f"10.2.{number}.1")
    target = f"10.2.{number}.11" if name == DIRECT else f"203.0.113.{number}"
    client.route(f"{target}/32", via=f"10.1.{number}.1")
    if name in (HAPROXY, NGINX):  # asynclb sets itself up
        prepare_tproxy(router, target)
    return Subject(name, router, f"10.1.{number}.10", target)


def prepare_tproxy(router: Host, target: str) -> None:
    """Declare what a transparent proxy needs of its host; its marks come with it."""
    router.address("lo", f"{target}/32")
    router.plan += ["rule add fwmark 1 lookup 100", "route add local default dev lo table 100"]


async def compile_program(name: str, output: Path) -> None:
    """Compile a program of this folder with the compiler of this host, or with the one that asynclb's build uses.

    Raises: HostError -> there is neither.
    """
    source = Path(__file__).with_name(name)
    for compiler in (["cc"], [sys.executable, "-m", "ziglang", "cc"]):
        words = [*compiler, "-O2", "-Wall", "-Wextra", "-o", str(output), str(source)]
        try:
            child = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE)
        except FileNotFoundError:
            continue
        _, said = await child.communicate()
        if child.returncode == 0:
            return
    raise HostError(f"{name} needs a C compiler: `pip install ziglang`, or apt-get install gcc\n{said.decode()}")


async def bring_up(lab: Lab, *members: Host) -> Path:
    """Let the hosts use all of their ports, start the members' servers, and return the program that loads UDP."""
    for host in lab.hosts.values():
        for key, value in WIDE_PORTS.items():
            host.sysctl(key, value)
    await lab.up()
    program = lab.entry.directory / "udp_load"
    await compile_program("udp_load.c", program)
    for member in members:
        await start_member(member, program)
    return program


async def start_member(member: Host, udp_program: Path) -> None:
    """Start the servers that every subject leads to: HTTP, bulk TCP, UDP."""
    config = member.write("nginx.conf", _MEMBER.format(directory=member.directory, web=WEB))
    web = await member.run("nginx", "-c", config, "-e", "stderr", name="web")
    await member.wait_listening(web, WEB)
    await member.iperf3(BULK)
    await member.wait_listening(await member.run(udp_program, "echo", str(UDP)), UDP, "udp")


def proxy_config(subject: Subject) -> str:
    """Return what asynclb is configured with: the proxy, for every load."""
    return _ASYNCLB.format(**_words(subject))


async def start_asynclb(subject: Subject, config_text: str, checkout: Path | None = None) -> None:
    """Start asynclb with a configuration in the subject's router, and return when it serves.

    It is that of another checkout if one is given.
    """
    config = subject.router.write("asynclb.yaml", config_text)
    where = str(checkout or Path(asynclb.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": where, "PYTHONSAFEPATH": "1"}  # and not where this process was started
    words = (sys.executable, "-m", "asynclb", "run", config)
    subject.process = await subject.router.run(*words, name="asynclb", env=environment)
    await subject.process.wait_for_log('"event": "started"')


async def start_haproxy(subject: Subject, config_text: str) -> None:
    """Start HAProxy with a configuration in the subject's router, and return when it serves."""
    _set_up_tproxy(subject.router)
    config = subject.router.write("haproxy.cfg", config_text)
    subject.process = await subject.router.run("haproxy", "-db", "-f", config)
    await subject.router.wait_listening(subject.process, WEB)


async def _start_nginx(subject: Subject) -> None:
    _set_up_tproxy(subject.router)
    config = subject.router.write("nginx.conf", _NGINX.format(**_words(subject)))
    subject.process = await subject.router.run("nginx", "-c", config, "-e", "stderr")
    await subject.router.wait_listening(subject.process, WEB)


def _set_up_tproxy(router: Host) -> None:
    with router.entered():
        Nftables().run(_TPROXY_NFT)


def _words(subject: Subject) -> dict[str, str | int]:
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    number = subject.client_address.split(".")[2]
    return {
        "vip": subject.target,
        "member": f"10.2.{number}.11",
        "web": WEB,
        "bulk": BULK,
        "bulk_spliced": BULK_SPLICED,
        "udp": UDP,
        "connections": max_connections(),
        "descriptors": 2 * max_connections(),
        "directory": str(subject.router.directory),
        "stream_module": f"load_module {module};" if module.exists() else "",  # else it is built in, or nginx says so
    }


def max_connections() -> int:
    """Return how many connections each balancer is set up for.

    HAProxy opens two descriptors for each, half a one for splicing, and refuses to start if its limit allows less.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(8000, (limit - 100) // 3)


async def verify(arena: Arena, subject: Subject) -> None:
    """See that requests through the subject are answered, and that the member sees the client's own address.

    Raises: LabError -> it is not so within some seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE_S
    kinds = {"tcp": _who_tcp} if subject.name == HAPROXY else {"tcp": _who_tcp, "udp": _who_udp}  # HAProxy has no UDP
    for kind, ask in kinds.items():
        while True:
            try:
                seen = await asyncio.wait_for(ask(arena, subject), 1.0)
                break
            except (OSError, TimeoutError, ValueError) as error:
                if loop.time() > deadline:
                    tail = subject.process.tail() if subject.process else ""
                    raise LabError(f"{subject.name}: no {kind} answer from the member: {error!r}\n{tail}") from error
                await asyncio.sleep(0.1)
        if seen != subject.client_address:
            raise LabError(f"{subject.name}: over {kind} the member sees {seen}, not {subject.client_address}")


async def _who_tcp(arena: Arena, subject: Subject) -> str:
    async with arena.client.connection(subject.target, WEB) as (reader, writer):
        writer.write(b"GET /who HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        answer = await reader.read(-1)
    address, _port = answer.partition(b"\r\n\r\n")[2].decode().split()
    return address


async def _who_udp(arena: Arena, subject: Subject) -> str:
    with arena.client.udp(subject.target, UDP) as sock:
        sock.send(b"who")
        answer = await asyncio.get_running_loop().sock_recv(sock, 100)
    address, _port = answer.decode().split()
    return address
