"""The proxy beside HAProxy and nginx: which loads, how often, in which order, and what they came to.

Rounds are interleaved: in each round every measure is taken once of every subject, one right after the other, and
the next round begins with another subject. So what else the machine does falls on all alike.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import loads
import peers
from loads import Load, Memory, Sample
from peers import ASYNCLB, DIRECT, HAPROXY, NGINX, Arena

from asynclb.lab import Lab, LabError

SPLICED = "HAProxy, splice-auto"
"""A second column of HAProxy where it has two ways; the report keeps the better one."""

_WARM_UP_S = 0.5


@dataclass(frozen=True, slots=True)
class Goal:
    """What a measure is to reach: `asynclb / rival` at least or at most `bound`."""

    rival: str
    bound: float
    at_least: bool


@dataclass(frozen=True, slots=True)
class Measure:
    """A load, whom it is put on, and what its figures mean.

    Units: `seconds` of one run in the full mode; `cost_of` is how much work the processor time is given for.
    """

    key: str
    title: str
    unit: str
    loads: dict[str, Load]
    goal: Goal | None
    cost_of: tuple[float, str]
    seconds: float = 3.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. Units: `scale` of each run's seconds."""

    rounds: int
    scale: float
    idle_connections: int


FULL = Plan(rounds=5, scale=1.0, idle_connections=5000)
QUICK = Plan(rounds=2, scale=0.4, idle_connections=5000)


@dataclass(slots=True)
class Results:
    """Every sample, in the order of the rounds, by measure and subject; and the memory by subject."""

    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    idle_connections: int = 0


def _every(load: Load) -> dict[str, Load]:
    return dict.fromkeys(peers.SUBJECTS, load)


_REQUESTS = (1e5, "100,000 requests")
_GIGABYTE = (1.0, "GB")

MEASURES = (
    Measure(
        "requests", "requests, 64 kept-alive connections", "1/s",
        _every(loads.requests), Goal(HAPROXY, 0.9, at_least=True), _REQUESTS,
    ),
    Measure(
        "latency", "latency, one request at a time", "us",
        _every(loads.latency), Goal(HAPROXY, 1.5, at_least=False), _REQUESTS, seconds=2.0,
    ),
    Measure(
        "connections", "new connections, one request each", "1/s",
        _every(loads.connections), Goal(HAPROXY, 0.4, at_least=True), _REQUESTS,
    ),
    Measure(
        "upload", "bulk TCP, one stream, client to member", "Gbit/s",
        _every(loads.upload) | {SPLICED: loads.upload_spliced}, Goal(HAPROXY, 1.2, at_least=True),
        _GIGABYTE, seconds=2.0,
    ),
    Measure(
        "download", "bulk TCP, one stream, member to client", "Gbit/s",
        _every(loads.download) | {SPLICED: loads.download_spliced}, Goal(HAPROXY, 1.2, at_least=True),
        _GIGABYTE, seconds=2.0,
    ),
    Measure(
        "udp", "UDP questions and answers, 64 sessions", "1/s",
        dict.fromkeys((DIRECT, ASYNCLB, NGINX), loads.datagrams), Goal(NGINX, 0.6, at_least=True), _REQUESTS,
    ),
)  # fmt: skip


async def run(plan: Plan, keys: Iterable[str], say: Callable[[str], None]) -> Results:
    """Build the arena, take every measure that `keys` names ("memory" is one) and tear down.

    Cancel: the lab is removed; nothing stays behind.
    Raises: HostError -> not root, or a program is missing; LabError -> something does not work as it should.
    """
    wanted = set(keys)
    results = Results()
    async with Lab("bench") as lab:
        arena = await peers.build(lab)
        say("every balancer answers, and the member sees the clients' own addresses")
        for subject in arena.subjects.values():  # before anything is measured: code, buffers and caches are there
            await loads.requests(arena, subject, _WARM_UP_S)
        if "memory" in wanted:
            await _memory(arena, plan, results, say)
        measures = [measure for measure in MEASURES if measure.key in wanted]
        for number in range(plan.rounds):
            for measure in measures:
                await _once(arena, measure, plan, number, results)
                say(f"round {number + 1} of {plan.rounds}: {_line(measure, results)}")
    return results


async def _memory(arena: Arena, plan: Plan, results: Results, say: Callable[[str], None]) -> None:
    room = peers.max_connections() * 5 // 6 - 100  # a fifth more is opened, and the probes need some
    results.idle_connections = min(plan.idle_connections, room)
    for subject in arena.balancers:
        memory = await loads.idle_connections(arena, subject, results.idle_connections)
        results.memory[subject.name] = memory
        say(f"{results.idle_connections:,} idle connections: {subject.name} {memory.each:.1f} KiB each")


async def _once(arena: Arena, measure: Measure, plan: Plan, number: int, results: Results) -> None:
    """Take one measure of every subject, beginning with another one in each round."""
    names = list(measure.loads)
    turn = number % len(names)
    for name in names[turn:] + names[:turn]:
        subject = arena.subjects[HAPROXY if name == SPLICED else name]
        try:
            sample = await measure.loads[name](arena, subject, measure.seconds * plan.scale)
        except LabError as error:
            error.add_note(f"measure {measure.key}, subject {name}, round {number + 1}")
            raise
        results.samples.setdefault((measure.key, name), []).append(sample)
        await asyncio.sleep(0.05)  # the last packets of one load are not the next one's


def _line(measure: Measure, results: Results) -> str:
    values = (f"{name} {results.samples[measure.key, name][-1].value:,.4g}" for name in measure.loads)
    return f"{measure.key} ({measure.unit}): {', '.join(values)}"
