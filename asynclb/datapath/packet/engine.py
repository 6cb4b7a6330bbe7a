"""An engine: a core with its ports in an event loop. It moves frames and decides nothing.

There is one in the process itself, or one in each worker. What it shall have is `Present`; what it is told is the
`Change` from what it has. A change is prepared, where it may fail, and then committed, which cannot.
"""

import asyncio
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from asynclb.datapath.core.core import Core, Going, Staged
from asynclb.datapath.core.parting import HUSH_S, Ending
from asynclb.datapath.core.values import MAX_MEMBERS, MAX_NEXT_HOPS, MAX_RULES, NextHop, Reset
from asynclb.datapath.frames.surroundings import Link
from asynclb.datapath.packet.hostroute import HOST, HostRoute
from asynclb.datapath.packet.ports import Outlet, Port
from asynclb.datapath.packet.sockets import LinkSockets

MAX_FLOWS = 1_000_000

_SWEEP_S = 0.02
_SWEEP_BUCKETS = 512  # a full table of 111,112 buckets is seen once in 4.5 s; one call takes well under 1 ms
_PART_BUCKETS = 2_048  # twice a full table in 2.2 s; a bucket that is looked at only costs 100 ns


@dataclass(frozen=True, slots=True)
class Opened:
    """An interface for one engine, with its two sockets there."""

    link: Link
    receiver: socket.socket
    sender: socket.socket
    own: bool = False
    """Whether the engine closes the sockets when it is through with them."""


@dataclass(frozen=True, slots=True)
class Present:
    """What every engine shall have. `hops` are by number; those that are not there are unresolved."""

    image: bytes = b""
    hops: Mapping[int, NextHop] = field(default_factory=dict)
    links: Mapping[int, LinkSockets] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """From what an engine has to what it shall have. `image` is None where it stays.

    `hops` come with the commit: they change at any time, also between the two. `closed` are interfaces by number; they
    are closed before others are opened, as one may come back at once as another one.
    """

    image: bytes | None = None
    hops: Mapping[int, NextHop | None] = field(default_factory=dict)
    closed: tuple[int, ...] = ()
    opened: tuple[Opened, ...] = ()


def change(before: Present, after: Present, number: int) -> Change:
    """Return what the engine of this number has to be told."""
    gone = {index for index, sockets in before.links.items() if after.links.get(index) is not sockets}
    new = [sockets for index, sockets in after.links.items() if before.links.get(index) is not sockets]
    return Change(
        image=None if before.image is after.image else after.image,
        closed=tuple(sorted(gone)),
        opened=tuple(Opened(s.link, s.receivers[number], s.senders[number]) for s in new),
    )


def changed_hops(before: Mapping[int, NextHop], after: Mapping[int, NextHop]) -> Mapping[int, NextHop | None]:
    """Return the next hops that are others than before; None is one that is not resolved any more."""
    return {number: after.get(number) for number in {*before, *after} if before.get(number) != after.get(number)}


@dataclass(frozen=True, slots=True)
class _Prepared:
    change: Change
    image: Staged | None
    ports: tuple[Port, ...]


def _port(opened: Opened) -> Port:
    return Port(opened.link, opened.receiver, opened.sender, own=opened.own)


class Engine:
    """Owner: the datapath, or a worker. `shared` is a memory file's descriptor, for flows that outlive the process."""

    def __init__(self, flows: int = MAX_FLOWS, shared: int | None = None) -> None:
        self.core = Core(
            flows, max_rules=MAX_RULES, max_members=MAX_MEMBERS, max_next_hops=MAX_NEXT_HOPS, shared=shared
        )
        self._loop = asyncio.get_running_loop()
        self._ports: dict[int, Port] = {}
        self._host = HostRoute(self.core)
        self._outlets: dict[int, Outlet] = {HOST: self._host}
        self._prepared: _Prepared | None = None
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    def prepare(self, wanted: Change) -> None:
        """Take in the image and map the rings. Raises: OSError, ValueError -> nothing has changed."""
        self.abandon()
        image = None if wanted.image is None else self.core.stage(wanted.image)
        ports: list[Port] = []
        try:
            for opened in wanted.opened:
                ports.append(_port(opened))  # noqa: PERF401  those that were made are closed if one fails
        except BaseException:
            for port in ports:
                port.close()
            raise
        self._prepared = _Prepared(wanted, image, tuple(ports))

    def commit(self, hops: Mapping[int, NextHop | None]) -> None:
        """Do what was prepared: frames from here on meet the new image, and these next hops."""
        prepared, self._prepared = self._prepared, None
        if prepared is None:
            return
        if prepared.image is not None:
            self.core.publish(prepared.image)
        self.set_hops(hops)
        for index in prepared.change.closed:
            self._detach(index)
        for port in prepared.ports:
            port.attach(self.core)
            self._ports[port.link.index] = port
            self._outlets[port.link.index] = port.egress
            self._loop.add_reader(port.fileno(), self._serve, port)

    def abandon(self) -> None:
        """Give up what was prepared and not committed."""
        prepared, self._prepared = self._prepared, None
        for port in prepared.ports if prepared is not None else ():
            port.close()

    def set_hops(self, hops: Mapping[int, NextHop | None]) -> None:
        """Replace next hops in place."""
        for number, hop in hops.items():
            self.core.set_next_hop(number, hop)

    async def part(self, ending: Ending) -> None:
        """Silence connections that end, and when all is quiet tell both ends and remove what ends.

        Cancel: some have ended; it can be done again.
        """
        going = Going(ending.flows, ending.members, max_members=MAX_MEMBERS)
        for last in (False, True):
            cursor: int | None = 0
            while cursor is not None:
                resets, cursor = self.core.part(going, cursor, _PART_BUCKETS, last=last)
                self._tell(resets)
                await asyncio.sleep(_SWEEP_S)
            await asyncio.sleep(0 if last else HUSH_S)

    def close(self) -> None:
        """Let go of everything."""
        self._sweeper.cancel()
        self.abandon()
        for index in tuple(self._ports):
            self._detach(index)
        self._host.close(self.core)
        self.core.close()

    def _detach(self, index: int) -> None:
        port = self._ports.pop(index)
        del self._outlets[index]
        self._loop.remove_reader(port.fileno())
        port.close()

    def _serve(self, port: Port) -> None:
        """Take a batch off a ring. The loop calls again while the ring is readable."""
        port.serve(self.core, self._outlets, time.monotonic_ns())

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
        swept = self.core.sweep(time.monotonic_ns(), _SWEEP_BUCKETS)
        self._tell(swept.resets)

    def _tell(self, resets: Iterable[Reset]) -> None:
        for reset in resets:
            for index, frame in reset.frames:
                port = self._ports.get(index)
                if port is not None:
                    port.send(frame)
