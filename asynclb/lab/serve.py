"""The demo's lab, kept running for somebody to look at: `asynclb demo --serve`.

Two clients make a steady load, and once in a while a member dies and comes back, so that there is something to see. The
status page of the balancer in the lab is reached from this host through a relay.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from asynclb.lab.lab import Lab
from asynclb.lab.load import HttpLoad, Rate
from asynclb.lab.relay import relayed
from asynclb.lab.screen import Screen
from asynclb.lab.stage import ADMIN_PORT, VIP_PORT, Stage
from asynclb.lab.tools import require_tools
from asynclb.lab.topology import STANDARD, VIP4

WEIGHTS = {"be1": 1, "be2": 1, "be3": 2}
VICTIM = "be2"
WELL_S = 45.0  # between two failures: long enough to look at a page on which all is well
ILL_S = 15.0
ROUND_S = 30.0  # a load keeps an account of each request; a fresh one is made this often, and memory stays small


async def serve(*, out: TextIO | None = None) -> None:
    """Run the lab until SIGINT or SIGTERM, and print where its page is.

    Cancel: the lab is removed; nothing stays behind.
    Raises: HostError -> not root, or a program is missing. LabError -> the balancer does not get ready.
    """
    require_tools("nginx", "ss")
    screen = Screen(out or sys.stdout)
    with _stopped_by(signal.SIGINT, signal.SIGTERM) as stop:
        async with Lab("serve") as lab:
            stage = Stage(await STANDARD.build(lab), WEIGHTS)
            for name in WEIGHTS:
                await stage.start_member(name)
            await stage.start_balancer()
            await stage.until(lambda state: state.ready and set(state.health.values()) == {"up"}, "all members are up")
            async with relayed(stage.site.lb, ADMIN_PORT, wanted=ADMIN_PORT) as port:
                _tell(screen, port)
                await _play(stage, screen, stop)


def _tell(screen: Screen, port: int) -> None:
    screen.blank()
    screen.note(f"{VICTIM} is killed every {WELL_S:.0f} s and comes back after {ILL_S:.0f} s. Ctrl-C removes the lab.")
    screen.note(f"From another machine: ssh -L {port}:127.0.0.1:{port} THIS-HOST")
    screen.verdict(f"status page: http://127.0.0.1:{port}/", good=True)


async def _play(stage: Stage, screen: Screen, stop: asyncio.Event) -> None:
    """Make load and trouble until told to stop."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_load(stage, number)) for number in range(len(stage.site.clients))]
        running.append(tasks.create_task(_trouble(stage, screen)))
        await stop.wait()
        for task in running:
            task.cancel()


async def _load(stage: Stage, number: int) -> None:
    """Make the load of one client, in rounds."""
    while True:
        load = HttpLoad(stage.site.clients[number], VIP4, VIP_PORT, Rate(kept_hz=10.0, short_hz=8.0))
        stop = asyncio.Event()
        handle = asyncio.get_running_loop().call_later(ROUND_S, stop.set)
        try:
            await load.run(stop)
        finally:
            handle.cancel()


async def _trouble(stage: Stage, screen: Screen) -> None:
    """Kill a member and start it again, over and over."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(WELL_S)
        await stage.kill_member(VICTIM)
        screen.event(time.monotonic() - began, f"{VICTIM} is killed")
        await asyncio.sleep(ILL_S)
        await stage.start_member(VICTIM)
        screen.event(time.monotonic() - began, f"{VICTIM} is started again")


@contextmanager
def _stopped_by(*numbers: signal.Signals) -> Iterator[asyncio.Event]:
    """Set an event when one of the signals comes."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
