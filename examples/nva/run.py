"""Run the firewalls example in a lab: `sudo .venv/bin/python examples/nva/run.py`. Exit code 0 if every check holds."""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress

import judge
from hub import APPLIANCES, FRONTEND, IPERF_PORT, SERVICE_PORT, Dropped, FlowKey, Hub, addresses
from traffic import KINDS, PERIOD_S, NewFlows, Traffic, mixed_flows, services

from asynclb.errors import HostError
from asynclb.lab import Lab, LabError, require_tools
from asynclb.lab.screen import MemberView, Screen
from asynclb.lab.verify import Check

DEAD = "nva2"
INTERVAL_S, THRESHOLD = 0.5, 2  # as in asynclb.yaml
BOUND_S = (
    INTERVAL_S * (THRESHOLD + 1) + 0.5
)  # a check may just have begun, the last one is waited for; then tables change
STEADY_S = 3 * PERIOD_S
SHORT_CONNECTIONS = 400


class Example:
    """One performance. Owner: the task that plays it."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._screen = Screen(sys.stdout)
        self._traffic = Traffic(list(mixed_flows(hub)))
        self._checks: list[Check] = []
        self._start_s = time.monotonic()

    async def play(self) -> list[Check]:
        """Play every scene and return what was verified."""
        hub, screen = self._hub, self._screen
        screen.title("asynclb: three firewalls between two spokes, one rule, every protocol")
        screen.note("host1 -- gw1 --> asynclb 10.0.0.4 --> nva1 | nva2 | nva3 --> gw2 -- host2")
        screen.note("and back the same way, over IPv4 and IPv6; a firewall drops what it saw no beginning of")
        counts = ", ".join(f"{kind} {2 * count}" for kind, count in KINDS.items())
        screen.note(f"{len(self._traffic.flows):,} flows at once, each asks once a second: {counts}")
        screen.note("columns: probe's state, and share of the packets of the last second")
        screen.blank()
        answerers = services(hub)
        try:
            await self._control()
            for host in hub.hosts:
                await host.tcp_server(SERVICE_PORT)
            balancer = await hub.start_balancer()
            await balancer.wait_for_log('"event": "started"')
            await self._until_up()
            await self._scenes()
            code = await balancer.stop()
        finally:
            self._traffic.close()
            for service in answerers:
                service.close()
        left = await hub.lb.check_output("nft", "list", "tables")
        found = f"exit code {code}; left behind: {left.strip() or 'nothing'}"
        self._checks.append(Check("it stopped in order", code == 0 and not left, found))
        screen.blank()
        screen.title("verified: firewalls' connection tracking, and the ends of every flow")
        screen.summary(self._checks)
        return self._checks

    async def _control(self) -> None:
        """Show that these firewalls do not forgive: without the balancer, there by one and back by another."""
        hub, sample = self._hub, self._traffic.flows[::20]
        servers = [await host.tcp_server(SERVICE_PORT) for host in hub.hosts]
        await hub.lead(APPLIANCES["nva1"], APPLIANCES["nva2"])
        answered = await Traffic(sample).try_once(patience_s=0.5)
        dropped = [count.invalid + count.refused for count in (await hub.dropped()).values()]
        for server in servers:
            await server.kill()  # with it go connections that it would go on confirming to clients that have given up
        await hub.lead(FRONTEND, FRONTEND)
        await hub.forget()
        self._event(f"no balancer, there by nva1, back by nva2: {answered} of {len(sample)} flows answered")
        found = f"{answered} of {len(sample)} flows answered; firewalls dropped {sum(dropped)} packets"
        self._checks.append(Check("asymmetry would show: without symmetry nothing gets through", not answered, found))

    async def _scenes(self) -> None:
        """Let things happen and judge each."""
        await self._traffic.open()
        self._event(f"{len(self._traffic.flows):,} flows are open, and each was answered")
        self._screen.header(dict.fromkeys(APPLIANCES, 1))
        async with _task(self._traffic.run()), _task(self._watch()):
            home = await self._steady()
            await self._bulk()
            await self._failure(home)

    async def _steady(self) -> dict[FlowKey, str]:
        """Let the flows run, and see that all is well."""
        before = await self._hub.tracked()
        await asyncio.sleep(STEADY_S)
        placement = judge.placed(before, await self._hub.tracked())
        keys, home = self._keys(), judge.homes(placement)
        traffic = self._traffic
        self._checks += [
            judge.check_answers(traffic.answered, traffic.losses, traffic.repeated),
            judge.check_symmetry(keys, placement),
            judge.check_shares(keys, home),
        ]
        return {key: home[key] for key in keys if key in home}

    async def _bulk(self) -> None:
        """Short connections beside the flows, then a bulk transfer."""
        host1, host2 = self._hub.hosts
        room = asyncio.Semaphore(20)
        failures: Counter[str] = Counter()

        async def one(number: int) -> None:
            spoke = number % 2
            host, address = (host1, host2)[spoke], random.choice(addresses(2 - spoke, random.choice((4, 6))))
            async with room:
                try:
                    async with asyncio.timeout(5), host.connection(address, SERVICE_PORT) as (reader, writer):
                        writer.write(b"short")
                        writer.write_eof()
                        if await reader.read(-1) != b"short":
                            failures["a wrong answer"] += 1
                except OSError as error:
                    failures[f"{type(error).__name__} {error}"] += 1

        start_s = time.monotonic()
        await asyncio.gather(*(one(number) for number in range(SHORT_CONNECTIONS)))
        took_s = time.monotonic() - start_s
        self._event(f"{SHORT_CONNECTIONS} short connections in {took_s:.1f} s")
        found = f"{failures.total()} failed {dict(failures) if failures else ''}; {took_s:.1f} s"
        self._checks.append(Check(f"{SHORT_CONNECTIONS} short connections", not failures, found.strip()))

        await host2.iperf3(IPERF_PORT)
        words = ("-c", addresses(2, 4)[0], "-p", str(IPERF_PORT), "-P", "4", "-t", "2", "--json")
        report = json.loads(await host1.check_output("iperf3", *words))["end"]
        rate, repeated = report["sum_received"]["bits_per_second"], report["sum_sent"]["retransmits"]
        self._event(f"iperf3, 4 connections: {rate / 1e9:.2f} Gbit/s, {repeated} segments sent again")
        self._checks.append(Check("a bulk transfer passes", rate > 0, f"{rate / 1e9:.2f} Gbit/s on 4 connections"))
        self._checks.append(judge.check_dropped(await self._hub.dropped(), "while three firewalls lived"))

    async def _failure(self, home: dict[FlowKey, str]) -> None:
        """Unplug a firewall, let flows begin all the while, and plug it in again."""
        hub, traffic = self._hub, self._traffic
        newcomers = NewFlows(hub)
        async with _task(newcomers.run()):
            await asyncio.sleep(1)
            known = len(traffic.losses)
            cut_s = time.monotonic()
            await hub.power(DEAD, "down")
            self._event(f"{DEAD} is unplugged")
            await self._until(f"{DEAD} is down", lambda health: health.get(DEAD) == "down")
            self._event(f"the probe says {DEAD} is down, {time.monotonic() - cut_s:.2f} s later")
            await asyncio.sleep(max(0.0, cut_s + BOUND_S + 1.5 - time.monotonic()))
            before = await hub.tracked()
            await asyncio.sleep(1.5 * PERIOD_S)
            during = judge.homes(judge.placed(before, await hub.tracked()))
            await hub.power(DEAD, "up")
            self._event(f"{DEAD} is plugged in again")
            await self._until_up()
            self._event(f"the probe says {DEAD} is up")
            back_s = time.monotonic()
            await asyncio.sleep(3 * PERIOD_S)  # the last broken flows are begun anew meanwhile
        dropped, before = await hub.dropped(), await hub.tracked()
        await asyncio.sleep(2 * PERIOD_S)
        after = await hub.tracked()
        placement = judge.placed(before, after)
        finally_home = judge.homes(placement)
        fresh = [one.key for one in newcomers.tries if one.at_s > back_s and one.answered]
        losses = traffic.losses[known:]
        self._checks += [
            judge.check_survivors(losses, home, DEAD),
            judge.check_unmoved(home, during, DEAD, "when it died"),
            judge.check_unmoved(home, finally_home, DEAD, "when it came back"),
            judge.check_new_flows(newcomers.tries, cut_s, BOUND_S),
            judge.check_shares(fresh, judge.homes(judge.placed({name: {} for name in after}, after))),
            judge.check_reopened(self._keys(), placement, _less(await hub.dropped(), dropped)),
        ]

    def _keys(self) -> list[FlowKey]:
        return [flow.key for flow in self._traffic.flows if flow.key is not None]

    async def _until_up(self) -> None:
        await self._until("all firewalls are up", lambda health: set(health.values()) == {"up"})

    async def _until(self, what: str, condition: Callable[[Mapping[str, str]], bool]) -> None:
        """Wait until the condition holds for what new flows meet. Raises: LabError -> it takes more than 10 s."""
        deadline = time.monotonic() + 10
        while True:
            with suppress(OSError):
                state = await self._hub.state()
                if state.applied and condition(state.health):
                    return
            if time.monotonic() > deadline:
                raise LabError(f"{what}: not within 10 s")
            await asyncio.sleep(0.02)

    async def _watch(self) -> None:
        """Write one line a second."""
        seen, answered = self._hub.packets(), 0
        while True:
            await asyncio.sleep(1)
            now, state = self._hub.packets(), await self._hub.state()
            fresh = {name: now[name] - seen[name] for name in now}
            views = [
                MemberView(state.health[name], count / max(sum(fresh.values()), 1)) for name, count in fresh.items()
            ]
            total = self._traffic.answered.total()
            self._screen.row(time.monotonic() - self._start_s, total - answered, views)
            seen, answered = now, total

    def _event(self, text: str) -> None:
        self._screen.event(time.monotonic() - self._start_s, text)


def _less(now: dict[str, Dropped], then: dict[str, Dropped]) -> dict[str, Dropped]:
    return {
        name: Dropped(now[name].invalid - then[name].invalid, now[name].refused - then[name].refused) for name in now
    }


@asynccontextmanager
async def _task(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Do something beside a block, and stop it when the block ends; what goes wrong in it ends the block."""
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(work)
            yield
            task.cancel()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def main() -> int:
    """Set up the lab, play, tear down. Returns the exit code."""
    require_tools("nft", "iperf3")
    async with Lab("nva example") as lab:
        example = Example(await Hub.build(lab))
        checks = await example.play()
    failed = sum(not check.holds for check in checks)
    print(f"\n{failed} of {len(checks)} checks FAILED" if failed else f"\nall {len(checks)} checks hold")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except HostError as error:
        sys.exit(f"{error}")
