"""The main job on this machine: real clients, real members, one that dies and comes back, a weight that changes.

Two clients send HTTP to one address; `asynclb run` spreads the connections over three nginx members by weight, keeping
the clients' addresses; all of them are real processes in namespaces of a lab. A member is killed and started again, the
configuration is rewritten under load, and at the end every claim is checked against the members' own access logs and
the clients' own records. The exit code is 0 only if every check holds.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TextIO

from asynclb.lab.lab import Lab
from asynclb.lab.load import HttpLoad
from asynclb.lab.process import Process
from asynclb.lab.screen import MemberView, Screen
from asynclb.lab.stage import VIP_PORT, Stage
from asynclb.lab.tools import find_tool, require_tools
from asynclb.lab.topology import STANDARD, VIP4, client_addresses
from asynclb.lab.verify import (
    Check,
    Kill,
    Phase,
    check_clients,
    check_failures,
    check_placement,
    check_shares,
    check_wrk,
    connections_on,
)
from asynclb.lab.wrk import open_ports, parse_wrk, start_wrk

FIRST_WEIGHTS = {"be1": 1, "be2": 1, "be3": 2}
NEW_WEIGHTS = {"be1": 4, "be2": 1, "be3": 1}
VICTIM = "be2"
WRK_CONNECTIONS = 8  # for each client: enough to keep two processors busy, few enough that probes keep their time
SETTLE_S = 0.5  # between a change and the phase that is measured: connections that were begun before it are through


async def demo(*, fast: bool = False, out: TextIO | None = None) -> int:
    """Run the demo and return its exit code: 0 if every check holds. `fast` takes 15 s instead of 30 s.

    Cancel: the lab is removed; nothing stays behind.
    Raises: HostError -> not root, or a program is missing. LabError -> the balancer does not get ready.
    """
    require_tools("nginx", "ss")
    screen = Screen(out or sys.stdout)
    with _cancelled_by(signal.SIGTERM):
        async with Lab("demo") as lab:
            stage = Stage(await STANDARD.build(lab), FIRST_WEIGHTS)
            checks = await Demo(stage, screen, steady_s=2.5 if fast else 6.0).play()
    failed = sum(not check.holds for check in checks)
    screen.blank()
    screen.verdict(
        f"{failed} of {len(checks)} checks FAILED" if failed else f"all {len(checks)} checks hold", good=not failed
    )
    return 1 if failed else 0


@contextmanager
def _cancelled_by(number: signal.Signals) -> Iterator[None]:
    """Let a signal cancel this task, as Ctrl-C does, so that the lab is removed in order."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is None:
        raise RuntimeError("the demo runs as a task")
    loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(number)


@dataclass(slots=True)
class _Seen:
    """The members' access logs at one moment, to make rates of. Units: `at_s` monotonic seconds."""

    at_s: float
    requests: int
    started: dict[str, int] = field(default_factory=dict)


class Demo:
    """One performance. Owner: the task that plays it."""

    def __init__(self, stage: Stage, screen: Screen, *, steady_s: float) -> None:
        self._stage = stage
        self._screen = screen
        self._steady_s = steady_s
        self._loads = [HttpLoad(client, VIP4, VIP_PORT) for client in stage.site.clients]
        self._wrk: list[Process] = []
        self._phases: list[Phase] = []
        self._checks: list[Check] = []
        self._start_s = time.monotonic()

    async def play(self) -> list[Check]:
        """Play every scene and return what was verified."""
        await self._set_up()
        try:
            kill = await self._perform()
        except ExceptionGroup as group:  # what failed first ended the rest; that is what the operator should read
            raise group.exceptions[0] from group
        await self._finish(kill)
        self._screen.blank()
        self._screen.title("verified: members' access logs, clients' records, tables computed again")
        self._screen.summary(self._checks)
        return self._checks

    async def _perform(self) -> Kill:
        """Play the scenes while the load runs."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for load in self._loads:
                tasks.create_task(load.run(stop))
            watch = tasks.create_task(self._watch())
            kill = await self._scenes()
            stop.set()
            watch.cancel()
        return kill

    async def _set_up(self) -> None:
        """Start members and balancer, and say what stands there."""
        stage, screen = self._stage, self._screen
        screen.title("asynclb demo: one address, two clients, three members, all on this machine")
        for name in FIRST_WEIGHTS:
            await stage.start_member(name)
        await stage.start_balancer()
        state = await stage.until(lambda state: state.ready and _all_up(state.health), "all members are up")
        clients = ", ".join(client_addresses(number)[0] for number, _ in enumerate(stage.site.clients, start=1))
        screen.note(f"clients {clients}  ->  {VIP4}:{VIP_PORT}  ->  members {', '.join(stage.hosts)}")
        screen.note(
            f"datapath {state.datapath}; load: {'wrk and ' if find_tool('wrk') else ''}clients that account for it"
        )
        screen.note("columns: health, and share of the new connections of the last second")
        screen.blank()
        screen.header(stage.weights)
        self._start_s = time.monotonic()

    async def _scenes(self) -> Kill:
        """Let things happen, and note the steady phases between them."""
        stage = self._stage
        if find_tool("wrk"):
            await self._start_wrk()
        else:
            self._event("wrk is not installed (apt-get install wrk): the demo's own clients make the load")
        await self._steady("three members", stage.weights)

        kill = await self._kill()
        state = await stage.until(lambda state: state.health[VICTIM] == "down", f"{VICTIM} is down")
        if not state.datapath.startswith("proxy"):
            kill = replace(kill, known_s=time.time())
        self._event(f"the probe says {VICTIM} is down")
        await self._steady(f"without {VICTIM}", {name: w for name, w in stage.weights.items() if name != VICTIM})

        await stage.start_member(VICTIM)
        self._event(f"{VICTIM} is started again")
        await stage.until(lambda state: _all_up(state.health), f"{VICTIM} is up")
        self._event(f"the probe says {VICTIM} is up")
        await self._steady(f"{VICTIM} is back", stage.weights)

        await self._reload()
        await self._steady("new weights", stage.weights)
        return kill

    async def _start_wrk(self) -> None:
        """Start wrk on both clients; it is told to stop when the scenes are over."""
        for client in self._stage.site.clients:
            url = f"http://{VIP4}:{VIP_PORT}/"
            self._wrk.append(await start_wrk(client, url, connections=WRK_CONNECTIONS, duration_s=600))

    async def _steady(self, name: str, weights: Mapping[str, int]) -> None:
        """Let the load run while nothing changes, and note the phase."""
        tables = self._stage.tables(weights)
        await asyncio.sleep(SETTLE_S)
        start_s = time.time()
        await asyncio.sleep(self._steady_s)
        self._phases.append(Phase(name, start_s, time.time(), dict(weights), tables))

    async def _kill(self) -> Kill:
        """Kill the victim and note whose connections it had."""
        stage = self._stage
        tables = stage.tables(stage.weights)
        ends = [
            (client_addresses(number)[0], port)
            for number, client in enumerate(stage.site.clients, start=1)
            for port in await open_ports(client, "wrk", VIP4)
        ]
        await stage.kill_member(VICTIM)
        at_s = time.time()
        self._event(f"{VICTIM} is killed (kill -9)")
        return Kill(VICTIM, at_s, tables, connections_on(tables, VICTIM, ends, VIP4, VIP_PORT))

    async def _reload(self) -> None:
        """Rewrite the configuration and wait until the balancer has found it by itself."""
        stage = self._stage
        before = await stage.until(lambda _: True, "the API answers")
        stage.rewrite_config(NEW_WEIGHTS)
        self._event("the configuration file is rewritten: weights " + _listed(NEW_WEIGHTS))
        after = await stage.until(lambda state: state.reload[2] > before.generation, "a new generation is active")
        result, trigger, generation = after.reload
        self._event(f"generation {generation} is active ({result}, found by {trigger})")
        self._screen.header(stage.weights)
        holds = (result, trigger) == ("applied", "watch") and generation > before.generation
        found = f"generation {before.generation} -> {generation}, {result}, trigger {trigger}"
        self._checks.append(Check("a changed file became active by itself", holds, found))

    async def _finish(self, kill: Kill) -> None:
        """Stop everything in order and check what was claimed."""
        stage = self._stage
        for process in self._wrk:
            process.signal(signal.SIGINT)
        results = [parse_wrk(process.stdout) for process in self._wrk if await process.wait() == 0]
        code = await stage.balancer.stop()
        stage.read_logs()
        self._event(f"asynclb has stopped with exit code {code}")
        answers = [answer for load in self._loads for answer in load.answers]
        failures = [failure for load in self._loads for failure in load.failures]
        clients = [client_addresses(number)[0] for number, _ in enumerate(stage.site.clients, start=1)]
        self._checks[:0] = [
            check_clients(stage.logs, clients),
            *(check_shares(phase, stage.logs) for phase in self._phases),
            check_placement(self._phases, answers, VIP4, VIP_PORT),
            check_failures(kill, len(answers) + len(failures), failures, VIP4, VIP_PORT),
        ]
        if results:
            self._checks.append(check_wrk(kill, results))
        left = await self._leftovers()
        found = f"exit code {code}; left behind: {', '.join(left) or 'nothing'}"
        self._checks.append(Check("it stopped in order", code == 0 and not left, found))

    async def _leftovers(self) -> list[str]:
        """Return the routing rules and nftables tables that are still on the balancer's host."""
        lb = self._stage.site.lb
        rules = (await lb.check_output("ip", "rule", "show")).splitlines()
        left = [rule for rule in rules if not rule.endswith(("lookup local", "lookup main", "lookup default"))]
        if find_tool("nft"):
            left += (await lb.check_output("nft", "list", "tables")).splitlines()
        return left

    async def _watch(self) -> None:
        """Write one line a second until cancelled."""
        seen = self._look()
        while True:
            await asyncio.sleep(1 - (time.monotonic() - self._start_s) % 1)
            now, state = self._look(), await self._stage.state()
            fresh = {name: now.started[name] - seen.started[name] for name in now.started}
            total = max(sum(fresh.values()), 1)
            health = state.health if state else {}
            views = [MemberView(health.get(name, "?"), count / total) for name, count in fresh.items()]
            elapsed_s = now.at_s - self._start_s
            self._screen.row(elapsed_s, (now.requests - seen.requests) / (now.at_s - seen.at_s), views)
            seen = now

    def _look(self) -> _Seen:
        self._stage.read_logs()
        logs = self._stage.logs
        requests = sum(log.clients.total() for log in logs.values())
        return _Seen(time.monotonic(), requests, {name: len(log.started) for name, log in logs.items()})

    def _event(self, text: str) -> None:
        self._screen.event(time.monotonic() - self._start_s, text)


def _all_up(health: Mapping[str, str]) -> bool:
    return bool(health) and all(state == "up" for state in health.values())


def _listed(weights: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {weight}" for name, weight in weights.items())
