"""How soon a change holds in the kernel: a reload that gives a member another address, and a probe that fails.

    client 10.1.0.10 ---- 10.1.0.1 router 10.2.0.1 ---- 10.2.0.11 member, which owns all of 10.4.0.0/22

New flows come all the time, some 100,000 a second, and a program at the member's interface keeps when the first and the
last one came for each address. So a change is timed by frames: from the change of the file (and SIGHUP), or from the
probe's verdict in the event log, to the first burst of new flows of which none went where it should not. Bursts are
0.3 ms or so apart.
"""

import asyncio
import json
import re
import signal
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import kernel_load
import kernel_peers
from kernel_bpf import Map
from kernel_load import Load
from peers import Subject
from proxy_bench import Plan

from asynclb.datapath.nft import Nftables
from asynclb.lab import Host, Lab, LabError, Process
from asynclb.lab.process import wait_until

MEMBERS = 1_000
_MANY, _PAIR = 9, 10  # the rules' ports
_FAILING, _STEADY = 1001, 1002  # addresses in 10.4.0.0/22 by their number
_CHANGING = range(1003, 1024)  # one after the other: what comes back at once would wait until its flows have ended
_WEIGHT = 100  # of the member that changes, to see it in a twelfth of the flows
_PROBE = 8080
_FLOWS = 2**31
_BURST, _PAUSE_S = 20, 0.0002
_BEFORE_S = 0.3
_AFTER_S = 0.5  # nothing may come later than this
_TIMES = 3  # changes in a round
_SEEN = struct.Struct("=QQQ")  # struct seen in kernel_programs.c

_CONFIG = """\
version: 1
datapath: kernel
hash_seed: "8c1f0c6e5f0b4a7d"
shutdown_drain: 0s
frontends:
  bench: {{address: 203.0.113.1, allow: [0.0.0.0/0]}}
backend_pools:
  many:
    members:
      - {{name: changes, address: {changes}, weight: {weight}}}
{others}
  pair:
    members:
      - {{name: failing, address: {failing}}}
      - {{name: steady, address: {steady}}}
probes:
  quick: {{protocol: tcp, port: {probe}, interval: 50ms, flap_damping: false}}
rules:
  - {{name: many, frontend: bench, protocol: udp, frontend_port: {many}, backend_pool: many}}
  - {{name: pair, frontend: bench, protocol: udp, frontend_port: {pair}, backend_pool: pair, probe: quick}}
"""

_REFUSE = """\
table ip bench {{
  chain input {{
    type filter hook input priority 0; policy accept;
    ip daddr {failing} tcp dport {probe} reject with tcp reset
  }}
}}
"""


@dataclass(slots=True)
class Changes:
    """Milliseconds, in the order in which they were taken."""

    reload: list[float] = field(default_factory=list)
    probe: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Seen:
    """What has come for one address. Units: CLOCK_MONOTONIC nanoseconds."""

    first_ns: int
    last_ns: int
    frames: int


@dataclass(slots=True)
class Stage:
    """The hosts, and what runs on them. Owner: the task that built it."""

    subject: Subject
    member: Host
    load: Load
    clock: Map
    config: Path
    changes: int = 0
    """How often the member has got another address."""
    streams: int = 0
    """How many there have been: the flows of each come from a network of their own, so that none is known already."""

    @property
    def process(self) -> Process:
        """The balancer. Raises: LabError -> it has ended."""
        process = self.subject.process
        if process is None or process.returncode is not None:
            raise LabError(f"asynclb has ended\n{process.tail() if process else ''}")
        return process

    def seen(self, number: int) -> Seen:
        """Return what has come for an address since `forget`."""
        return Seen(*_SEEN.unpack(self.clock.read(number)))

    def forget(self, number: int) -> None:
        """Begin anew with an address."""
        self.clock.write(bytes(_SEEN.size), key=number)

    def events(self, name: str) -> list[dict[str, str]]:
        """Return the events of that name so far."""
        return [json.loads(line) for line in self.process.stdout.splitlines() if f'"event": "{name}"' in line]


async def run(plan: Plan, results: Changes, say: Callable[[str], None]) -> None:
    """Build the stage, make the changes and tear down.

    Cancel: the lab is removed; nothing stays behind.
    Raises: AbsentError -> there is no kernel datapath here; LabError -> a change did not come about.
    """
    async with kernel_peers.kernel_lab("bench-changes") as lab:
        stage = await _build(lab)
        for number in range(plan.rounds):
            results.reload += [await _reloaded(stage) for _ in range(_TIMES)]
            results.probe += [await _failed(stage) for _ in range(_TIMES)]
            values = (f"{name} {max(each[-_TIMES:]):.1f}" for name, each in _named(results))
            say(f"round {number + 1} of {plan.rounds}: ms until no new flow goes wrong, at most: {', '.join(values)}")


def _named(results: Changes) -> tuple[tuple[str, list[float]], ...]:
    return ("reload", results.reload), ("failed probe", results.probe)


async def _build(lab: Lab) -> Stage:
    client, router, member = lab.host("client"), lab.host("router", forwarding=True), lab.host("member")
    lab.link(client, "10.1.0.10/24", router, "10.1.0.1/24")
    lab.link(router, "10.2.0.1/24", member, "10.2.0.11/24")
    member.route("10.1.0.0/24", via="10.2.0.1")
    member.route("local 10.4.0.0/22", dev="lo")
    router.route("10.4.0.0/22", via="10.2.0.11")
    await lab.up()
    programs = await kernel_load.compile_programs(lab.entry.directory / "programs.o")
    await kernel_load.attach(member, "router", "tc", programs, "tc/watch")
    clock = (await kernel_load.attached(member, "router", "watch_tc")).maps()["seen"]
    await router.check_output("ethtool", "-K", "client", "gro", "on")
    await member.tcp_server(_PROBE)
    subject = Subject("asynclb", router, "10.1.0.10", "203.0.113.1")
    await kernel_peers.start_kernel(subject, _config(_CHANGING[0]))
    return Stage(subject, member, await Load.start(client, programs), clock, router.directory / "router-asynclb.yaml")


def address(number: int) -> str:
    """Return an address of 10.4.0.0/22 by its number."""
    return f"10.4.{number // 256}.{number % 256}"


def _config(changes: int) -> str:
    others = "\n".join(f"      - {{name: m{number}, address: {address(number)}}}" for number in range(1, MEMBERS))
    ports = {"many": _MANY, "pair": _PAIR, "probe": _PROBE}
    pair = {"failing": address(_FAILING), "steady": address(_STEADY)}
    return _CONFIG.format(changes=address(changes), weight=_WEIGHT, others=others, **ports, **pair)


@asynccontextmanager
async def _flowing(stage: Stage, port: int, *numbers: int) -> AsyncIterator[list[int]]:
    """Send ever new flows to a rule for the length of a block, which begins when all these addresses get some.

    Yields the times of all bursts, which goes on growing.
    """
    _, link = await kernel_load.link_of(stage.subject.router, "client")
    first = f"11.{stage.streams % 256}.0.0"
    stage.streams += 1
    await stage.load.aim("router", link, stage.subject.target, _FLOWS, port, first)
    for number in numbers:
        stage.forget(number)
    bursts = list[int]()
    stopped = threading.Event()

    def stream() -> None:
        while not stopped.is_set():
            bursts.append(time.monotonic_ns())
            stage.load.burst(_BURST)
            time.sleep(_PAUSE_S)

    streaming = asyncio.create_task(asyncio.to_thread(stream))
    try:
        names = ", ".join(map(address, numbers))
        await wait_until(lambda: all(stage.seen(each).frames for each in numbers), f"new flows reach {names}")
        await asyncio.sleep(_BEFORE_S)
        yield bursts
    finally:
        stopped.set()
        await streaming


async def _reloaded(stage: Stage) -> float:
    """Give a member of 1,000 another address, and return the ms until no new flow goes to the old one."""
    old, new = (_CHANGING[(stage.changes + step) % len(_CHANGING)] for step in (0, 1))
    stage.changes += 1
    aside = stage.config.with_suffix(".new")
    aside.write_text(_config(new))
    async with _flowing(stage, _MANY, old) as bursts:
        stage.forget(new)
        begun_ns = time.monotonic_ns()
        aside.replace(stage.config)
        stage.process.signal(signal.SIGHUP)
        await wait_until(lambda: stage.seen(new).frames > 0, f"new flows reach {address(new)}")
        await asyncio.sleep(_AFTER_S)
    return _after(stage.seen(old), bursts, begun_ns)


async def _failed(stage: Stage) -> float:
    """Let a member refuse its probe, and return the ms from the verdict until no new flow goes there."""
    ups, downs = len(stage.events("member_up")), len(stage.events("member_down"))
    async with _flowing(stage, _PAIR, _FAILING, _STEADY) as bursts:
        with stage.member.entered():
            Nftables().run(_REFUSE.format(failing=address(_FAILING), probe=_PROBE))
        await wait_until(lambda: len(stage.events("member_down")) > downs, "the probe fails")
        await asyncio.sleep(_AFTER_S)
    verdict_ns = _monotonic_ns(stage.events("member_down")[downs]["timestamp"])
    with stage.member.entered():
        Nftables().run("delete table ip bench")
    await wait_until(lambda: len(stage.events("member_up")) > ups, "the probe succeeds")
    return _after(stage.seen(_FAILING), bursts, verdict_ns)


def _monotonic_ns(timestamp: str) -> int:
    """Return the time of an event, which has microseconds, by the other clock."""
    at_s = datetime.fromisoformat(re.sub("Z$", "+00:00", timestamp)).timestamp()
    return int(at_s * 1e9) - time.time_ns() + time.monotonic_ns()


def _after(seen: Seen, bursts: list[int], begun_ns: int) -> float:
    """Return the ms from the begin to the first burst of which nothing came there.

    So a load that had to wait for a processor is not taken for a change.

    Raises: LabError -> flows never stopped to come.
    """
    if bursts[-1] - seen.last_ns < _AFTER_S * 5e8:
        raise LabError(f"new flows still come {(seen.last_ns - begun_ns) / 1e6:.0f} ms after the change")
    return max(next(at for at in bursts if at > seen.last_ns) - begun_ns, 0) / 1e6
