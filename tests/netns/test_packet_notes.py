"""The guard's notes of flows: made by the first frame, renewed while a flow lives, and not paid for by every frame."""

import asyncio
import json
import re
import socket
import time
from contextlib import ExitStack

from asynclb.datapath.core import NextHop, RxRing
from asynclb.datapath.packet.ring import Egress, open_sender
from asynclb.datapath.packet.ruleset import QUIET, SHOWN_MS, TABLE
from asynclb.lab import PATIENCE_S, Site
from asynclb.lab.namespace import ip_batch
from asynclb.net.flow import Protocol
from tests.netns.packet_site import VIPS, address_of, ha_rule, packets
from tests.netns.proxy_site import BOTH
from tests.unit.core.test_rings import FRAME_SIZE, FRAMES, Rings
from tests.unit.core.world import CLIENTS, MEMBERS_OURS, SECOND, member_link, pool, row, udp, world

PORT, SHOWN_S = 5353, SHOWN_MS / 1000


@BOTH
async def test_a_note_lives_as_long_as_its_flow(site: Site, version: int) -> None:
    """It is there when the member has the first datagram; those after it change nothing, but one in five seconds."""
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    async with packets(site.lb) as balancer:
        await balancer.apply(ha_rule(site, version))
        with ExitStack() as stack:
            sinks = [stack.enter_context(host.open_socket(family, socket.SOCK_DGRAM)) for host in site.members]
            for host, sink in zip(site.members, sinks, strict=True):
                sink.setblocking(False)
                sink.bind((address_of(host, version), PORT))
            client = stack.enter_context(site.clients[0].udp(VIPS[version], PORT))
            client.send(b"?")
            await _arrival(sinks)
            begun_s, (timeout_s, left_s) = time.monotonic(), await _note(site, version)
            assert left_s >= timeout_s - 1
            while time.monotonic() < begun_s + SHOWN_S - 1:
                client.send(b"?")
                await asyncio.sleep(0.1)
            assert (await _note(site, version))[1] <= timeout_s - SHOWN_S + 2
            while time.monotonic() < begun_s + SHOWN_S + 1:
                client.send(b"?")
                await asyncio.sleep(0.1)
            assert (await _note(site, version))[1] >= timeout_s - 3


async def _arrival(sinks: list[socket.socket]) -> None:
    loop = asyncio.get_running_loop()
    waiting = [asyncio.create_task(loop.sock_recv(sink, 16)) for sink in sinks]
    done, rest = await asyncio.wait(waiting, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    assert done


async def _note(site: Site, version: int) -> tuple[int, int]:
    """Return for how many seconds the only note of a flow was made, and how many are left."""
    text = await site.lb.check_output("nft", "-j", "list", "set", "netdev", TABLE, f"taken{version}")
    (found,) = (item["set"]["elem"] for item in json.loads(text)["nftables"] if "set" in item)
    (note,) = (item["elem"] for item in found)
    return note["timeout"], note["expires"]


async def test_a_frame_that_was_not_sent_is_not_noted(site: Site) -> None:
    """While the interface is down nothing passes the guard; the next frame is shown, the one after it quiet."""
    watch = f"""table netdev watch {{
      chain out {{
        type filter hook egress device "back" priority 0;
        udp dport {PORT} meta mark & {QUIET:#x} == 0 counter
      }}
    }}"""
    await site.lb.check_output("nft", watch)
    rings, core = Rings(), world(row(pool("web", "10.1.0.11"), "203.0.113.10", 53, PORT, protocol=Protocol.UDP)).core()
    with site.lb.entered():
        index = socket.if_nametoindex("back")
        sock = open_sender("back")
    egress = Egress(sock, index, FRAMES)
    core.set_next_hop(0, NextHop(index, member_link(0), MEMBERS_OURS))
    egress.attach(core)
    rx = RxRing(rings.rx, ifindex=CLIENTS, frame_size=FRAME_SIZE, frame_count=FRAMES)
    seen = []
    for state in ("down", "up", "up"):
        ip_batch([f"link set dev back {state}"], namespace=site.lb.namespace)
        rings.arrive(bytes(udp("198.51.100.7", 1000, "203.0.113.10", 53)))
        assert core.receive(rx, FRAMES, SECOND).dirty == (index,)
        egress.flush(core, SECOND)
        (count,) = re.findall(
            r"counter packets (\d+)", await site.lb.check_output("nft", "list", "table", "netdev", "watch")
        )
        seen.append(int(count))
    egress.close(core)
    sock.close()
    assert seen == [0, 1, 1]
