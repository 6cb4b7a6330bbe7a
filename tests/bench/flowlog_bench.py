"""What the flow log costs: one proxy with new connections, one request each, whose log is switched on and off.

    load  ===================================================
    log     off | on    on | off    off | on    on | off ...       a reload at each change
            (a pair)   (a pair)    (a pair)   (a pair)

Two processes differ by more than the log does, so there is one, under one load that never pauses, and what is compared
are windows of less than a second beside each other: a machine that becomes slower does so for both. The processor time
for a connection has all of the log in it: the loop's part and the thread's. The answer is the median of the pairs'
ratios, with the interval that has the true median in it 95 times of 100, whatever the noise is like.

Each window begins when what the reload took, and the batch of lines before it, is over. A log that is switched on
begins at its finest rate, so it is configured with the rate at which its budget has settled under this load.
"""

import asyncio
import json
import math
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import loads
import peers
from control_bench import Figure
from peers import Arena, Subject
from proxy_bench import Plan

from asynclb.lab import Host, Lab, LabError, Process

KEY = "flowlog"
_PAIRS = 12
"""For each of the plan's rounds."""
_WINDOW_S = 0.75  # three batches of lines
_REST_S = 0.35  # one batch and what a reload leaves behind
_FIND_RATE_S = 6.0


class Window(NamedTuple):
    """What happened in one. Units: seconds, of time and of the process's processor time."""

    connections: int
    took_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Middle:
    """A median of paired ratios, in percent, and what it lies between. Shape: `low` <= `value` <= `high`."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Middle":
        """Return it. Source: order statistics; as many of n values lie below the median as heads fall in n throws."""
        found = sorted(100 * ratio - 100 for ratio in ratios)
        outside = max(0, math.floor((len(found) - 1.96 * math.sqrt(len(found))) / 2))
        return cls(statistics.median(found), found[outside], found[-1 - outside])


class Switched:
    """A proxy whose flow log is switched by reloads, beside what counts its connections. Owner: one run."""

    def __init__(self, subject: Subject, member: Host) -> None:
        self._subject, self._member = subject, member
        self.log = subject.router.directory / "flows.jsonl"
        self._config = subject.router.write("asynclb.yaml", self._text(0))
        self._is_on = False
        self._reloads = 0

    async def start(self) -> None:
        """Run it without a log."""
        await peers.start_asynclb(self._subject, self._text(0))

    async def switch(self, sample: int) -> None:
        """Write one of so many flows from here on, or none if that is 0."""
        if self._is_on == bool(sample):
            return
        self._is_on = bool(sample)
        self._subject.router.write("asynclb.new", self._text(sample)).replace(self._config)
        process = self._process()
        process.signal(signal.SIGHUP)
        self._reloads += 1
        await process.ready(lambda: process.stdout.count('"config_loaded"') > self._reloads, "the reload")

    async def window(self) -> Window:
        """Return what happens in the next one."""
        before, began_s, spent_s = self._connections(), time.perf_counter(), self._cpu_s()
        await asyncio.sleep(_WINDOW_S)
        return Window(
            self._connections() - before,
            time.perf_counter() - began_s,
            self._cpu_s() - spent_s,
        )

    def last_sample(self) -> int:
        """Return the rate of the last line. Raises: LabError -> there is none."""
        lines = self.log.read_text().splitlines()
        if not lines:
            raise LabError(f"{self.log} has no line after all those connections")
        return int(json.loads(lines[-1])["sample"])

    def _text(self, sample: int) -> str:
        log = f"flow_log: {{path: {self.log}, sample: {sample}, max_size: 1MB, keep: 0}}\n" if sample else ""
        return peers.proxy_config(self._subject) + log

    def _process(self) -> Process:
        if self._subject.process is None:
            raise LabError(f"{self._subject.name} does not run")
        return self._subject.process

    def _cpu_s(self) -> float:
        """Return the processor time of the process and its threads, exactly. Source: clock_getcpuclockid(3)."""
        return time.clock_gettime((-self._process().pid - 1) << 3 | 2)

    def _connections(self) -> int:
        """Return how many connections the member has accepted so far. Source: RFC 4022, tcpPassiveOpens."""
        with self._member.entered():
            names, values = (
                line.split()
                for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()
                if line.startswith("Tcp:")
            )
        return int(values[names.index("PassiveOpens")])


async def run(plan: Plan, say: Callable[[str], None]) -> list[Figure]:
    """Build the lab, measure, and tear down. Raises: HostError, LabError -> as `proxy_bench.run`."""
    async with Lab("benchlog") as lab:
        client, member = lab.host("client"), lab.host("member")
        subject = peers.subject(lab, client, member, 1, "flow-log")
        program = await peers.bring_up(lab, member)
        proxy = Switched(subject, member)
        await proxy.start()
        arena = Arena(client, member, {subject.name: subject}, program)
        await peers.verify(arena, subject)
        pairs = _PAIRS * plan.rounds
        load = asyncio.create_task(loads.connections(arena, subject, _longest_s(pairs)))
        try:
            return await _measured(proxy, pairs, say)
        finally:
            load.cancel()
            with suppress(asyncio.CancelledError, LabError):
                await load


def _longest_s(pairs: int) -> float:
    """Return for how long the load must last at least: reloads take some time as well."""
    return 2 * _FIND_RATE_S + pairs * 2 * (_WINDOW_S + 2 * _REST_S)


async def _measured(proxy: Switched, pairs: int, say: Callable[[str], None]) -> list[Figure]:
    await proxy.switch(1)
    await asyncio.sleep(_FIND_RATE_S)
    sample = proxy.last_sample()
    await proxy.switch(0)
    found = []
    for number in range(pairs):
        taken = dict[bool, Window]()
        for is_on in (False, True) if number % 2 else (True, False):
            await proxy.switch(sample if is_on else 0)
            await asyncio.sleep(_REST_S)
            taken[is_on] = await proxy.window()
        found.append((taken[False], taken[True]))
        if not (number + 1) % _PAIRS:
            say(f"flow log: pair {number + 1} of {pairs}: {_words(_cost(found))}")
    return figures(found, sample)


def figures(pairs: Sequence[tuple[Window, Window]], sample: int) -> list[Figure]:
    """Return the lines of the table for pairs of windows without the log and with it."""
    cost, speed = _cost(pairs), Middle.of([_speed(on) / _speed(off) for off, on in pairs])
    each_us = 1e6 * statistics.median(off.cpu_s / off.connections for off, _ in pairs)
    what = f"flow log, one flow of {sample} told, {len(pairs)} pairs"
    return [
        Figure(
            f"{what}: processor time for a new connection of {each_us:.0f} us, {_words(cost)}", cost.value, "%", 1.0
        ),
        Figure(f"{what}: fewer new connections a second, {_words(speed, -1)}", -speed.value, "%", 1.0),
    ]


def _cost(pairs: Sequence[tuple[Window, Window]]) -> Middle:
    return Middle.of([(on.cpu_s / on.connections) / (off.cpu_s / off.connections) for off, on in pairs])


def _speed(window: Window) -> float:
    return window.connections / window.took_s


def _words(found: Middle, sign: int = 1) -> str:
    low, high = sorted((sign * found.low, sign * found.high))
    return f"between {low:+.1f} and {high:+.1f} %"
