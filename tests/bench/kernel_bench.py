"""The kernel datapath: connections through it, one packet's cost, latency, new flows, and how soon a change holds.

Rounds are interleaved as in `proxy_bench`: every measure is taken of every subject in each round, and each round
begins with another subject.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import kernel_changes
import kernel_packets
import kernel_peers
import loads
import packet_peers
from kernel_changes import Changes
from kernel_packets import Packets
from kernel_peers import SUBJECTS, AbsentError
from loads import Load, Sample
from peers import Arena
from proxy_bench import Plan

KEYS = ("kernel", "kernel-latency", "kernel-packet", "kernel-flows", "kernel-changes")
_SECONDS = 2.0

WHOLE_PATH: dict[str, tuple[str, str, Load]] = {
    "requests": ("requests, 64 kept-alive connections", "1/s", kernel_peers.many_requests),
    "connections": ("new connections, one request each", "1/s", loads.connections),
    "upload": ("bulk TCP, one stream, client to member", "Gbit/s", loads.upload),
    "download": ("bulk TCP, one stream, member to client", "Gbit/s", loads.download),
}
LATENCY: dict[str, tuple[str, str, Load]] = {"latency": ("latency, one request at a time", "us", loads.latency)}


@dataclass(slots=True)
class KernelResults:
    """Every sample in the order of the rounds; `tcp` by (load, subject). `absent` says why there is nothing."""

    absent: str = ""
    tcp: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    packets: Packets = field(default_factory=Packets)
    changes: Changes = field(default_factory=Changes)


async def run(plan: Plan, keys: Collection[str], say: Callable[[str], None]) -> KernelResults:
    """Take what `keys` name, each part in a lab of its own.

    Cancel: the lab is removed; nothing stays behind.
    Raises: HostError -> not root, or a program is missing; LabError -> something does not work as it should.
    """
    results = KernelResults()
    wanted = (WHOLE_PATH if "kernel" in keys else {}) | (LATENCY if "kernel-latency" in keys else {})
    try:
        if wanted:
            await _tcp(plan, wanted, results, say)
        if {"kernel-packet", "kernel-flows"} & set(keys):
            await kernel_packets.run(plan, keys, results.packets, say)
        if "kernel-changes" in keys:
            await kernel_changes.run(plan, results.changes, say)
    except AbsentError as error:
        results.absent = str(error)
        say(f"no kernel datapath here: {error}")
    return results


async def _tcp(
    plan: Plan, wanted: dict[str, tuple[str, str, Load]], results: KernelResults, say: Callable[[str], None]
) -> None:
    async with kernel_peers.kernel_lab("bench-kernel") as lab:
        arena = await kernel_peers.build(lab)
        say("connections pass the kernel datapath")
        for number in range(plan.rounds):
            for key, (_, unit, load) in wanted.items():
                await _round(arena, plan, number, key, load, results)
                values = (f"{name} {results.tcp[key, name][-1].value:,.4g}" for name in SUBJECTS)
                say(f"round {number + 1} of {plan.rounds}: {key} ({unit}): {', '.join(values)}")


async def _round(arena: Arena, plan: Plan, number: int, key: str, load: Load, results: KernelResults) -> None:
    turn = number % len(SUBJECTS)
    for name in SUBJECTS[turn:] + SUBJECTS[:turn]:
        sample = await load(arena, arena.subjects[name], _SECONDS * plan.scale)
        results.tcp.setdefault((key, name), []).append(sample)
        await packet_peers.settle()
