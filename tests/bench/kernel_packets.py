"""What one packet costs in the kernel: the programs' own time, beside that of a floor which parses and redirects.

    client 10.1.N.10 ---- 10.1.N.1 router N 10.2.N.1 ---- 10.2.N.11 to .20 member

A router for each program: the floor, and asynclb with one UDP rule (`nat`, `floating`) or one for HA ports (`routed`).
Every processor sends (`kernel_load`), and carries what it sends through the program to the member, where it ends. The
time is the kernel's own count for each program, so it holds what a run costs among everything else that a packet
takes: caches are used by others in between, also by the asynclb process of this router, while those of the others
stand still. Most of what a packet of many flows costs is one wait for memory, and in a virtual machine others use the
same caches and memory: so each round tells how long such a wait was (`memory_wait.c`). `tc` has GRO at the router's
interface, or the load could not get there; `xdp` has no offloads, as a card.
"""

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import kernel_bpf
import kernel_load
import kernel_peers
from kernel_load import Cost, Load
from packet_peers import received
from peers import Subject, compile_program
from proxy_bench import Plan

from asynclb.datapath.core.layout import CONSTANTS
from asynclb.lab import Host, Lab, LabError
from asynclb.lab.process import wait_until

HOOKS = ("tc", "xdp")
FLOOR: Final = "floor"
DELIVERIES = ("nat", "floating", "routed")
PROGRAMS = (FLOOR, *DELIVERIES)
FLOWS = (1, 1_000, 100_000, 1_000_000)
FLOW_MAPS: Final = ("flows4", "rests4", "marks4")
WAIT_MB = 64
"""The lines of a million flows."""

_SECONDS = 0.5
_NEW = 2**31  # more flows than are ever sent, so every frame is the first of one
_NEARLY_ALL = 0.95
_MEMBERS = 10

_CONFIG = """\
version: 1
datapath: kernel
hash_seed: "8c1f0c6e5f0b4a7d"
shutdown_drain: 0s
interfaces: {{client: {{attach: {hook}}}, member: {{attach: {hook}}}}}
frontends:
  bench: {{address: {address}, allow: [0.0.0.0/0]{frontend}}}
backend_pools:
  bench: {{members: [{members}]}}
rules:
  - {{name: bench, frontend: bench, backend_pool: bench, {rule}}}
"""

_UDP = f"protocol: udp, frontend_port: {kernel_load.PORT}"
_RULES = {
    "nat": ("", _UDP),
    "floating": ("", f"{_UDP}, floating_ip: true"),
    "routed": (", interface: client, routed: true", "protocol: all, frontend_port: 0, backend_port: 0"),
}


@dataclass(slots=True)
class Packets:
    """Every sample in the order of the rounds.

    `costs` by (hook, flows, program); `new` by hook, frames that are each the first of a flow; `counted` are the new
    flows of those, as asynclb counts them, to the frames. Units: `memory` bytes of the flow table's maps, by hook;
    `waits` nanoseconds for a line of memory, in the rounds with the most flows.
    """

    costs: dict[tuple[str, int, str], list[Cost]] = field(default_factory=dict)
    new: dict[str, list[Cost]] = field(default_factory=dict)
    counted: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Lane:
    """A router with its program, and where the load is sent to. Owner: the task that built it."""

    subject: Subject
    member: Host
    hook: str
    program: kernel_bpf.Program

    @property
    def router(self) -> Host:
        """The host in between."""
        return self.subject.router

    @property
    def arrived(self) -> int:
        """How many frames have come to the member."""
        return received(self.member, self.router.name)


async def run(plan: Plan, keys: Collection[str], results: Packets, say: Callable[[str], None]) -> None:
    """Take both hooks in turn, each in a lab of its own.

    Cancel: the lab is removed; nothing stays behind.
    Raises: AbsentError -> there is no kernel datapath here; LabError -> something does not work as it should.
    """
    for hook in HOOKS:
        async with kernel_peers.kernel_lab(f"bench-{hook}", offload=hook == "tc") as lab:
            lanes, load = await _build(lab, hook)
            with kernel_bpf.statistics():
                if "kernel-packet" in keys:
                    memory_wait = lab.entry.directory / "memory_wait"
                    await compile_program("memory_wait.c", memory_wait)
                    await _packets(lanes, load, plan, results, memory_wait, say)
                if "kernel-flows" in keys:
                    await _new_flows(lanes["nat"], load, plan, results, say)


async def _build(lab: Lab, hook: str) -> tuple[dict[str, Lane], Load]:
    client, member = lab.host("client"), lab.host("member")
    subjects = {name: _subject(lab, client, member, number, name) for number, name in enumerate(PROGRAMS)}
    await lab.up()
    programs = await kernel_load.compile_programs(lab.entry.directory / "programs.o")
    lanes = {}
    for name, subject in subjects.items():
        await kernel_load.attach(member, subject.router.name, hook, programs, f"{hook}/drop")
        if hook == "tc":
            await subject.router.check_output("ethtool", "-K", client.name, "gro", "on")
        program = await (_floor(lab, subject, hook) if name == FLOOR else _balancer(subject, hook))
        lanes[name] = Lane(subject, member, hook, program)
    load = await Load.start(client, programs)
    for lane in lanes.values():
        await _see_through(lane, load)
    return lanes, load


def _subject(lab: Lab, client: Host, member: Host, number: int, name: str) -> Subject:
    router = lab.host(f"r{number}", forwarding=True)
    lab.link(client, f"10.1.{number}.10/24", router, f"10.1.{number}.1/24")
    members = " ".join(f"10.2.{number}.{last}/24" for last in range(11, 11 + _MEMBERS))
    lab.link(router, f"10.2.{number}.1/24", member, members)
    member.route(f"10.1.{number}.0/24", via=f"10.2.{number}.1")
    target = "198.51.100.1" if name == "routed" else f"203.0.113.{number}"
    return Subject(name, router, f"10.1.{number}.10", target)


async def _floor(lab: Lab, subject: Subject, hook: str) -> kernel_bpf.Program:
    egress, _ = await kernel_load.link_of(subject.router, "member")
    programs = await kernel_load.compile_programs(lab.entry.directory / "floor.o", egress)
    await kernel_load.attach(subject.router, "client", hook, programs, hook)
    return await kernel_load.attached(subject.router, "client", f"floor_{hook}")


async def _balancer(subject: Subject, hook: str) -> kernel_bpf.Program:
    number = subject.client_address.split(".")[2]
    frontend, rule = _RULES[subject.name]
    members = ", ".join(f"{{name: m{last}, address: 10.2.{number}.{last}}}" for last in range(11, 11 + _MEMBERS))
    address = f"10.1.{number}.4" if subject.name == "routed" else subject.target
    config = _CONFIG.format(hook=hook, address=address, frontend=frontend, members=members, rule=rule)
    await kernel_peers.start_kernel(subject, config)
    return await kernel_load.attached(subject.router, "client", f"asynclb_{hook}")


async def _see_through(lane: Lane, load: Load) -> None:
    """Send single frames until one comes through: the first ones ask for the members' link addresses.

    Raises: LabError -> none does within some seconds.
    """
    await _aim(lane, load, 1)
    before = lane.arrived

    def arrives() -> bool:
        load.burst(1)
        return lane.arrived > before + 3  # not ARP or neighbour discovery

    await wait_until(arrives, f"{lane.subject.name} ({lane.hook}): a frame comes through")


async def _aim(lane: Lane, load: Load, flows: int, *, by_chance: bool = False) -> None:
    _, link = await kernel_load.link_of(lane.router, "client")
    await load.aim(lane.router.name, link, lane.subject.target, flows, by_chance=by_chance)


async def _packets(
    lanes: dict[str, Lane], load: Load, plan: Plan, results: Packets, memory_wait: Path, say: Callable[[str], None]
) -> None:
    hook = lanes[FLOOR].hook
    for flows in FLOWS:
        for lane in lanes.values():  # the flows are made, and their code and tables are in the caches
            await _aim(lane, load, flows)
            await load.run(0.0, frames=max(flows, 100_000))
        for number in range(plan.rounds):
            if flows == FLOWS[-1]:
                results.waits.append(await _wait(memory_wait))
                say(f"round {number + 1} of {plan.rounds}: {results.waits[-1]:.0f} ns for a line of memory")
            turn = number % len(PROGRAMS)
            for name in PROGRAMS[turn:] + PROGRAMS[:turn]:
                await _aim(lanes[name], load, flows, by_chance=True)
                with _alone(lanes, name):
                    cost = await _cost(lanes[name], load, _SECONDS * plan.scale)
                results.costs.setdefault((hook, flows, name), []).append(cost)
            last = {name: results.costs[hook, flows, name][-1] for name in PROGRAMS}
            values = ", ".join(f"{name} {cost.ns:.0f} ({cost.rate / 1e6:.2f} M/s)" for name, cost in last.items())
            say(f"round {number + 1} of {plan.rounds}: {hook}, ns a packet, {flows:,} flows: {values}")


async def _wait(memory_wait: Path) -> float:
    """Return the nanoseconds that a processor waits for a line of memory. Raises: CalledProcessError."""
    done = await asyncio.to_thread(
        subprocess.run, (memory_wait, str(WAIT_MB)), capture_output=True, text=True, check=True
    )
    return float(done.stdout)


@contextmanager
def _alone(lanes: dict[str, Lane], name: str) -> Iterator[None]:
    """Let the processes of the other lanes stand still for the length of a block: a host has but one asynclb.

    Each would go through a million flows of its own meanwhile, through the caches that all of them share.
    """
    subjects = [lane.subject for lane in lanes.values() if lane.subject.name != name]
    others = [subject.process for subject in subjects if subject.process is not None]
    try:
        for process in others:
            process.signal(signal.SIGSTOP)
        yield
    finally:
        for process in others:
            process.signal(signal.SIGCONT)


async def _cost(lane: Lane, load: Load, seconds: float) -> Cost:
    """Send for that long and return what the program's runs took.

    Raises: LabError -> it let too many frames go astray, so it is not forwarding that was measured.
    """
    runs, arrived, begun_s = lane.program.runs(), lane.arrived, time.perf_counter()
    sent = await load.run(seconds)
    took_s = time.perf_counter() - begun_s
    runs, arrived = lane.program.runs().since(runs), lane.arrived - arrived
    if arrived < sent * _NEARLY_ALL:
        lost = f"of {sent} frames {runs.count} met the program and {arrived} came through"
        raise LabError(f"{lane.subject.name} ({lane.hook}): {lost}")
    return Cost(runs, runs.count / took_s)


async def _new_flows(lane: Lane, load: Load, plan: Plan, results: Packets, say: Callable[[str], None]) -> None:
    """Send frames that are each the first of a flow, until the table is full and beyond."""
    await _aim(lane, load, _NEW)
    for number in range(plan.rounds + 1):
        before = await _counted(lane.router)
        cost = await _cost(lane, load, _SECONDS * plan.scale)
        if number == 0:
            continue
        counted = (await _counted(lane.router) - before) / cost.runs.count
        results.new.setdefault(lane.hook, []).append(cost)
        results.counted.setdefault(lane.hook, []).append(counted)
        say(
            f"round {number} of {plan.rounds}: {lane.hook}, new flows: {cost.ns:.0f} ns each, {cost.rate / 1e6:.2f} "
            f"M/s, {counted:.1%} of them counted"
        )
    maps = lane.program.maps()
    called = maps[f"tails_{lane.hook}"].read(CONSTANTS["TAIL_ANY"])  # a program's number, as one reads such maps
    maps |= kernel_bpf.Program(int.from_bytes(called[:4], sys.byteorder)).maps()
    results.memory[lane.hook] = sum(maps[name].memory for name in FLOW_MAPS)


async def _counted(router: Host) -> int:
    """Return how many new flows asynclb has counted."""
    async with router.connection("127.0.0.1", 9180) as (reader, writer):
        writer.write(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        text = (await reader.read(-1)).decode()
    found = re.search(r'^asynclb_rule_new_flows_total\{rule="bench"\} ([\d.e+]+)$', text, re.MULTILINE)
    if found is None:
        raise LabError(f"{router}: no new flows in the metrics:\n{text}")
    return int(float(found[1]))
