"""A packet datapath that decides in Python: `python packet_python.py VIP MEMBER PORT`, run inside a router.

The rings, the batches and the event loop are those of asynclb; the decision is its oracle's. One UDP rule from VIP:PORT
to MEMBER:PORT. Runs until it is killed.
"""

import asyncio
import ctypes
import socket
import struct
import sys
import time
from ipaddress import ip_address
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from asynclb.datapath.core.layout import Verdict
from asynclb.datapath.core.oracle import Oracle
from asynclb.datapath.frames.neighbours import look_around
from asynclb.datapath.packet.ring import ReceiveRing, open_receiver, open_sender, send_one
from asynclb.net.flow import Protocol
from tests.unit.core.world import pool, row, world

_FRAMES, _BUDGET = 480, 64
_HEAD = struct.Struct("=IIIHH")  # status, length, snapped, mac, net of struct tpacket2_hdr


class PythonPort:
    """One interface: its ring, its sender, and the oracle in between. Owner: `main`."""

    def __init__(self, oracle: Oracle, name: str, index: int, senders: dict[int, socket.socket]) -> None:
        self._oracle, self._index, self._senders = oracle, index, senders
        self.ring = ReceiveRing(open_receiver(name, _FRAMES), index, _FRAMES)
        senders[index] = open_sender(name)

    def serve(self) -> None:
        """Take a batch off the ring, decide each frame and send what leaves."""
        now_ns = time.monotonic_ns()
        for _ in range(_BUDGET):
            frame = self._next()
            if frame is None:
                return
            result = self._oracle.process(frame, ifindex=self._index, now_ns=now_ns)
            if result.verdict is Verdict.TX:
                send_one(self._senders[result.ifindex], result.frame)

    def _next(self) -> bytes | None:
        record = self.ring.rx.record
        place = record.ring + record.head * record.frame_size
        status, _, snapped, mac, _ = _HEAD.unpack(ctypes.string_at(place, _HEAD.size))
        if not status & 1:
            return None
        frame = ctypes.string_at(place + mac, snapped)
        ctypes.c_uint32.from_address(place).value = 0
        record.head = (record.head + 1) % record.frame_count
        return frame


async def main(vip: str, member: str, port: int) -> None:
    """Serve."""
    address = ip_address(member)
    around = await asyncio.to_thread(look_around, frozenset({address}))
    site = world(row(pool("bench", member), vip, port, protocol=Protocol.UDP), local=frozenset(around.addresses))
    oracle = Oracle(site.tables, site.plan, {site.plan.next_hops[address]: around.hops[address]})
    senders: dict[int, socket.socket] = {}
    for link in around.links.values():
        served = PythonPort(oracle, link.name, link.index, senders)
        asyncio.get_running_loop().add_reader(served.ring.sock.fileno(), served.serve)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
