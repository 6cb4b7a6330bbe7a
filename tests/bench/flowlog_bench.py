"""What the flow log costs: the proxy with new connections, one request each, with the log and without.

Two balancers alike but for the log take turns: in each round both have the load once, and the next round begins with
the other one. The processor time for a connection has all of the log in it: the loop's part and the thread's.
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import loads
import peers
from control_bench import Figure
from loads import Sample
from peers import Arena, Subject
from proxy_bench import Plan

from asynclb.lab import Lab, LabError

KEY = "flowlog"
_SECONDS = 4.0
_SETTLE_S = 3.0  # until the rate is what the load makes it
_PLAIN, _LOGGED = "no log", "flow log"


async def run(plan: Plan, say: Callable[[str], None]) -> list[Figure]:
    """Build the lab, measure, and tear down. Raises: HostError, LabError -> as `proxy_bench.run`."""
    async with Lab("benchlog") as lab:
        client, member = lab.host("client"), lab.host("member")
        subjects = [
            peers.subject(lab, client, member, 1, _PLAIN.replace(" ", "-")),
            peers.subject(lab, client, member, 2, _LOGGED.replace(" ", "-")),
        ]
        for host in lab.hosts.values():
            for key, value in peers.WIDE_PORTS.items():
                host.sysctl(key, value)
        await lab.up()
        program = lab.entry.directory / "udp_load"
        await peers.compile_program("udp_load.c", program)
        await peers.start_member(member, program)
        log = lab.entry.directory / "flows.jsonl"
        for subject, more in zip(subjects, ("", f"flow_log: {{path: {log}}}\n"), strict=True):
            await peers.start_asynclb(subject, peers.proxy_config(subject) + more)
        arena = Arena(client, member, {subject.name: subject for subject in subjects}, program)
        for subject in subjects:
            await peers.verify(arena, subject)
            await loads.connections(arena, subject, _SETTLE_S)
        return _figures(await _rounds(arena, subjects, plan, say), _last_sample(log))


async def _rounds(
    arena: Arena, subjects: list[Subject], plan: Plan, say: Callable[[str], None]
) -> list[tuple[Sample, Sample]]:
    found = []
    for number in range(plan.rounds):
        taken = {}
        for subject in subjects if number % 2 else reversed(subjects):
            taken[subject.name] = await loads.connections(arena, subject, _SECONDS * plan.scale)
        plain, logged = (taken[subject.name] for subject in subjects)
        say(f"round {number + 1} of {plan.rounds}: flow log: {plain.value:,.0f}/s without, {logged.value:,.0f}/s with")
        found.append((plain, logged))
    return found


def _last_sample(log: Path) -> int:
    lines = log.read_text().splitlines()
    if not lines:
        raise LabError(f"{log} has no line after all those connections")
    return int(json.loads(lines[-1])["sample"])


def _figures(rounds: list[tuple[Sample, Sample]], sample: int) -> list[Figure]:
    cost = statistics.median((two.cpu_s / two.work) / (one.cpu_s / one.work) * 100 - 100 for one, two in rounds)
    speed = statistics.median(two.value / one.value * 100 - 100 for one, two in rounds)
    each_us = statistics.median(one.cpu_s / one.work for one, _ in rounds) * 1e6
    return [
        Figure(
            f"flow log: processor time for a new connection of {each_us:.0f} us, one of {sample} told", cost, "%", 1.0
        ),
        Figure("flow log: new connections a second, beside those without it", speed, "%"),
    ]
