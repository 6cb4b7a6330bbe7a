"""A worker: one engine in a process of its own, started with CHANNEL MEMORY FLOWS as arguments.

Laws:
  1. It does what it is told over the channel, answers each order, and ends at once when the channel ends: a worker
     whose datapath is gone must not forward beside the next one.
  2. Signals are for the process that decides; those that a terminal or a service manager sends to all are ignored here.
  3. Flows and counters are in the memory file: who comes after this worker goes on with them.
"""

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

import uvloop

from asynclb.datapath.packet.engine import Engine
from asynclb.datapath.packet.orders import Order, Told, answer_to, hear

_EXIT_BUG = 70  # EX_SOFTWARE, as everywhere in asynclb

HELLO = 0
"""The serial of the answer that nobody asked for: the worker is ready."""


class Worker:
    """Owner: the process."""

    def __init__(self, channel: socket.socket, engine: Engine) -> None:
        self._channel = channel
        self._engine = engine
        self._ended = asyncio.Event()
        self._partings: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until the channel ends."""
        loop = asyncio.get_running_loop()
        self._channel.setblocking(False)
        loop.add_reader(self._channel.fileno(), self._hear)
        answer_to(self._channel, HELLO)
        await self._ended.wait()
        loop.remove_reader(self._channel.fileno())
        for parting in self._partings:
            parting.cancel()
        self._engine.close()

    def _hear(self) -> None:
        """Carry out one order."""
        try:
            told = hear(self._channel)
            if told is not None and told.order is Order.PART:
                self._partings.add(asyncio.create_task(self._part(told)))
                return
            if told is not None:
                answer_to(self._channel, told.serial, self._do(told))
                return
        except BlockingIOError:
            return
        except OSError:  # the channel ended in the midst
            pass
        self._ended.set()

    def _do(self, told: Told) -> str:
        match told.order:
            case Order.PREPARE:
                try:
                    self._engine.prepare(told.change)
                except (OSError, ValueError) as error:
                    return str(error)
            case Order.COMMIT:
                self._engine.commit(told.change.hops)
            case Order.ABANDON:
                self._engine.abandon()
            case Order.HOPS:
                self._engine.set_hops(told.change.hops)
        return ""

    async def _part(self, told: Told) -> None:
        """Answer when it is done: the one order that takes time."""
        await self._engine.part(told.ending)
        with suppress(OSError):  # the channel ends, and that is seen where it is read
            answer_to(self._channel, told.serial)


def _give_up(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End at once after an error of ours: the next worker begins anew, and the datapath tells."""
    loop.default_exception_handler(context)
    os._exit(_EXIT_BUG)


async def _serve(channel: int, memory: int, flows: int) -> None:
    asyncio.get_running_loop().set_exception_handler(_give_up)
    with socket.socket(fileno=channel) as sock:
        await Worker(sock, Engine(flows, memory)).run()


def main() -> None:
    """Run a worker with the descriptors that the command line names."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    channel, memory, flows = map(int, sys.argv[1:4])
    with suppress(BrokenPipeError), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(channel, memory, flows))
