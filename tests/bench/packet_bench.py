"""The packet datapath: frames a second, TCP through it, its core alone, and the two kinds of receive ring.

Rounds are interleaved as in `proxy_bench`. Where packets are counted, the load and the subject have a processor each,
and the load sends more than any subject forwards but where the kernel routes, which it does in the sender's own time.
Numbers of flows come one after the other, so that no subject has more flows in its table than are said.
"""

import asyncio
import re
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import core_bench
import loads
import packet_peers
from control_bench import Figure
from loads import Load, Sample, cpu_s
from packet_peers import ASYNCLB, DIRECT, KERNEL, LOOP, PACKETS, PYTHON, SOURCE
from peers import Arena, Subject
from proxy_bench import Plan

from asynclb.lab import Host, Lab, LabError

FLOWS = (1, 1_000, 100_000)
FORWARDERS = (LOOP, KERNEL, ASYNCLB, PYTHON)
TCP_SUBJECTS = (DIRECT, KERNEL, ASYNCLB)
RINGS = ("v2", "v3")
KEYS = ("packets", "packet-tcp", "packet-latency", "packet-rings", "core")

_SETTLE_S = 0.4  # until the load has started and its flows are in the tables
_SECONDS = 2.0
_ASKED = 2_000

TCP_LOADS: dict[str, tuple[str, str, Load]] = {
    "packet-tcp": ("requests, 64 kept-alive connections", "1/s", loads.requests),
    "packet-connections": ("new connections, one request each", "1/s", loads.connections),
    "packet-upload": ("bulk TCP, one stream, client to member", "Gbit/s", loads.upload),
    "packet-download": ("bulk TCP, one stream, member to client", "Gbit/s", loads.download),
    "packet-latency": ("latency, one request at a time", "us", loads.latency),
}


@dataclass(slots=True)
class PacketResults:
    """Every sample in the order of the rounds.

    `packets` by (flows, subject), `offered` likewise; `tcp` by (load, subject); `rings` by (what, version).
    """

    packets: dict[tuple[int, str], list[Sample]] = field(default_factory=dict)
    offered: dict[tuple[int, str], list[float]] = field(default_factory=dict)
    tcp: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    rings: dict[tuple[str, str], list[float]] = field(default_factory=dict)


async def run(plan: Plan, keys: Collection[str], say: Callable[[str], None]) -> PacketResults:
    """Build the arena, take what `keys` name and tear down.

    Cancel: the lab is removed; nothing stays behind.
    Raises: HostError -> not root, or a program is missing; LabError -> something does not work as it should.
    """
    results = PacketResults()
    async with Lab("bench-packet") as lab:
        arena = await packet_peers.build(lab)
        say("frames pass the packet datapath")
        if wanted := _tcp_loads(keys):
            await _tcp(arena, plan, wanted, results, say)
        if "packets" in keys:
            await _packets(arena, plan, results, say)
        if "packet-rings" in keys:
            await _rings(lab, arena, plan, results, say)
    return results


def _tcp_loads(keys: Collection[str]) -> list[str]:
    latency = ["packet-latency"] if "packet-latency" in keys else []
    return ([name for name in TCP_LOADS if name != "packet-latency"] if "packet-tcp" in keys else []) + latency


async def _tcp(
    arena: Arena, plan: Plan, wanted: Collection[str], results: PacketResults, say: Callable[[str], None]
) -> None:
    for number in range(plan.rounds):
        for key in wanted:
            for name in _turned(TCP_SUBJECTS, number):
                sample = await TCP_LOADS[key][2](arena, arena.subjects[name], _SECONDS * plan.scale)
                results.tcp.setdefault((key, name), []).append(sample)
                await packet_peers.settle()
            values = (f"{name} {results.tcp[key, name][-1].value:,.4g}" for name in TCP_SUBJECTS)
            say(f"round {number + 1} of {plan.rounds}: {key} ({TCP_LOADS[key][1]}): {', '.join(values)}")


def _turned(names: tuple[str, ...], number: int) -> tuple[str, ...]:
    """Return the names, beginning with another one in each round."""
    turn = number % len(names)
    return names[turn:] + names[:turn]


async def _packets(arena: Arena, plan: Plan, results: PacketResults, say: Callable[[str], None]) -> None:
    for name in FORWARDERS:
        packet_peers.pinned(arena.subjects[name].process, 1)
    for flows in FLOWS:
        for number in range(-1, plan.rounds):  # the first one makes the flows and does not count
            for name in _turned(FORWARDERS, number):
                sample, offered = await forwarded(arena, arena.subjects[name], flows, _SECONDS * plan.scale)
                if number >= 0:
                    results.packets.setdefault((flows, name), []).append(sample)
                    results.offered.setdefault((flows, name), []).append(offered)
            if number >= 0:
                values = (f"{name} {results.packets[flows, name][-1].value:,.0f}" for name in FORWARDERS)
                say(f"round {number + 1} of {plan.rounds}: packets/s, {flows:,} flows: {', '.join(values)}")


async def forwarded(arena: Arena, subject: Subject, flows: int, seconds: float) -> tuple[Sample, float]:
    """Return packets a second that reach the member, and how many were sent a second."""
    router, client = subject.router.name, arena.client
    link = await packet_peers.link_of(subject.router, client.name)
    lasting = seconds + 2 * _SETTLE_S
    words = ("send", router, link, SOURCE, subject.target, str(PACKETS), str(flows), f"{lasting:g}")
    load = await client.run(_program(arena), *words)
    packet_peers.pinned(load, 0)
    await asyncio.sleep(_SETTLE_S)
    loop = asyncio.get_running_loop()
    begun_s, before, spent_s = loop.time(), packet_peers.received(arena.member, router), cpu_s(subject)
    await asyncio.sleep(seconds)
    took_s = loop.time() - begun_s
    count, spent_s = packet_peers.received(arena.member, router) - before, cpu_s(subject) - spent_s
    if await load.wait(timeout_s=lasting + 10) != 0 or not count:
        raise LabError(f"{subject.name}: {count} frames of {flows} flows came through\n{load.tail()}")
    await packet_peers.settle()
    return Sample(count / took_s, count, spent_s), _figure(load.stdout, r"sent (\d+)") / lasting


def _program(arena: Arena) -> Path:
    if arena.packet_program is None:
        raise LabError("the arena has no packet_load")
    return arena.packet_program


def _figure(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise LabError(f"packet_load printed {text!r}")
    return float(found[1])


async def _rings(lab: Lab, arena: Arena, plan: Plan, results: PacketResults, say: Callable[[str], None]) -> None:
    """Measure a ring of each version alone: how much it takes in, and how long a lone frame stays in it."""
    host = lab.host("rings")
    lab.link(arena.client, "10.3.0.10/24", host, "10.3.0.1/24")
    await lab.up()
    packet_peers.drop_load(host, arena.client.name)
    for number in range(plan.rounds):
        for version in _turned(RINGS, number):
            frames = await _taken(arena, host, version, _SECONDS * plan.scale)
            results.rings.setdefault(("frames", version), []).append(frames)
            results.rings.setdefault(("latency", version), []).append(await _answered(arena, host, version))
        values = (f"{what} {version} {values[-1]:,.4g}" for (what, version), values in results.rings.items())
        say(f"round {number + 1} of {plan.rounds}: rings: {', '.join(values)}")


async def _taken(arena: Arena, host: Host, version: str, seconds: float) -> float:
    """Return frames a second that a program that does nothing else takes off its ring."""
    program, link = _program(arena), await packet_peers.link_of(host, arena.client.name)
    taker = await packet_peers.start_receiver(host, program, "count", version, arena.client.name)
    load = await arena.client.run(
        program, "send", host.name, link, SOURCE, "10.3.0.1", str(PACKETS), "1000", f"{seconds:g}"
    )
    packet_peers.pinned(taker, 1)
    packet_peers.pinned(load, 0)
    await load.wait(timeout_s=seconds + 10)
    taker.signal(signal.SIGINT)
    await taker.wait()
    return _figure(taker.stdout, r"frames (\d+)") / seconds


async def _answered(arena: Arena, host: Host, version: str) -> float:
    """Return the median time in us from a lone frame to its return by a loop in the next host."""
    program, link = _program(arena), await packet_peers.link_of(host, arena.client.name)
    loop = await packet_peers.start_receiver(host, program, "loop", version, arena.client.name, arena.client.name)
    asked = _ASKED if version == "v2" else _ASKED // 10  # one takes milliseconds there
    text = await arena.client.check_output(program, "ask", host.name, link, str(asked))
    await loop.kill()
    return _figure(text, r"median_us ([\d.]+)")


def core(*, quick: bool) -> list[Figure]:
    """Measure the core alone, and the longest operations on its flow table."""
    return core_bench.figures(100_000 if quick else 300_000)
