"""The packet view of each datapath: real traffic, read by tcpdump, with the member that really answered beside it."""

import asyncio
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from asynclb.datapath.base import Watchable
from asynclb.datapath.packet import PacketDatapath
from asynclb.datapath.proxy import ProxyDatapath
from asynclb.errors import HostError
from asynclb.lab import PATIENCE_S, STANDARD, VIP4, Lab, Site
from asynclb.observe.capture import pcapng
from asynclb.observe.capture.routed import RoutedScope
from asynclb.observe.capture.scope import Leg, Scope, Wanted
from asynclb.observe.capture.session import Capture, Limits
from asynclb.tables.row import Row
from tests.netns.balancer import Balancer, balancer
from tests.netns.kernel_site import kernel, kernel_kind, pins_of
from tests.netns.packet_site import UdpMembers, ask, once, udp_rule
from tests.netns.proxy_site import BOTH, address_of, udp_socket
from tests.netns.spokes import Spokes, Talks, Witness
from tests.netns.test_kernel_changes import Failing
from tests.unit.proxy.world import Driver

KINDS: dict[str, Callable[..., Any]] = {
    "proxy": ProxyDatapath,
    "packet": PacketDatapath,
    "kernel": kernel_kind(),
}


@dataclass(frozen=True)
class Seen:
    """A packet of a file."""

    interface: str
    outbound: bool
    comment: str


def read(data: bytes) -> tuple[list[Seen], int]:
    """Return the packets of a pcapng file, and how many are missing in it; written from the draft, not the writer."""
    links, packets, missing = [], [], 0
    while data:
        kind, size = struct.unpack_from("=II", data)
        body, data = data[8 : size - 4], data[size:]
        if kind == 1:
            links.append(dict(_options(body[8:]))[2].decode())
        elif kind == 5:
            missing += int.from_bytes(dict(_options(body[12:]))[5], "little")
        elif kind == 6:
            place, kept = struct.unpack_from("=I", body)[0], struct.unpack_from("=I", body, 12)[0]
            options = dict(_options(body[20 + kept + -kept % 4 :]))
            packets.append(Seen(links[place], options[2][0] == pcapng.OUTBOUND, options[1].decode()))
    return packets, missing


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data[:2] not in (b"", b"\0\0"):
        code, size = struct.unpack_from("=HH", data)
        yield code, data[4 : 4 + size]
        data = data[4 + size + -size % 4 :]


async def capturing(datapath: Balancer, row: Row, limits: Limits, into: bytearray) -> asyncio.Event:
    """Begin a capture where the datapath lives; the event is set when it is over."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()

    def start(driver: Driver) -> asyncio.Task[None]:
        watched = driver.proxy if isinstance(driver.proxy, Watchable) else None
        names = {member.address: member.name for member in row.pool.members}
        view = RoutedScope(row, limits.wanted, driver.proxy.wire, names) if row.frontend.routed else None
        capture = Capture(view or Scope([row], limits.wanted), limits, driver.proxy.verdict, watched=watched)

        async def run() -> None:
            async for block in capture.blocks():
                into.extend(block)
            capture.close()
            loop.call_soon_threadsafe(over.set)

        return asyncio.get_running_loop().create_task(run())

    await datapath.ask(start)
    return over


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_answered_and_by_whom(site: Site, kind: str, tmp_path: Path) -> None:
    """Every frame of an exchange is there, on both sides and both ways, and names the member that answered it."""
    row, data, client = udp_rule(site), bytearray(), address_of(site.clients[0])
    async with balancer(site.lb, KINDS[kind]) as datapath:
        await datapath.apply(row)
        over = await capturing(datapath, row, Limits(duration_s=3.0), data)
        with UdpMembers(site), udp_socket(site.clients[0], client, 42_000) as sock:
            sock.connect((VIP4, 53))
            member, _, _ = await ask(sock, b"which")
        await asyncio.wait_for(over.wait(), PATIENCE_S)
    packets, missing = read(bytes(data))
    assert missing == 0
    assert {(packet.comment, packet.outbound) for packet in packets} == {
        (f"rule dns: from client, member {member}", False),
        (f"rule dns: to member, member {member}", True),
        (f"rule dns: from member, member {member}", False),
        (f"rule dns: to client, member {member}", True),
    }
    assert len({packet.interface for packet in packets}) >= 1
    file = tmp_path / "dns.pcapng"
    file.write_bytes(data)
    printed = subprocess.run(["tcpdump", "-nr", str(file)], capture_output=True, text=True, check=True).stdout
    assert len(printed.splitlines()) == len(packets)
    assert f"{client}.42000 > {VIP4}.53" in printed
    assert f"{VIP4}.53 > {client}.42000" in printed


@pytest.mark.parametrize("kind", ["packet", "kernel"])
async def test_what_is_dropped_and_why(site: Site, kind: str) -> None:
    """A packet that nobody takes is there with the reason."""
    row, data, client = udp_rule(site), bytearray(), address_of(site.clients[0])
    async with balancer(site.lb, KINDS[kind]) as datapath:
        await datapath.apply(row, down=[host.name for host in site.members])
        over = await capturing(datapath, row, Limits(duration_s=2.0), data)
        with udp_socket(site.clients[0], client, 42_001) as sock:
            sock.connect((VIP4, 53))
            assert await once(sock, b"anybody", wait_s=0.5) is None
        await asyncio.wait_for(over.wait(), PATIENCE_S)
    assert {packet.comment for packet in read(bytes(data))[0]} == {"rule dns: from client, dropped: no_eligible_member"}


@BOTH
@pytest.mark.parametrize("kind", ["packet", "kernel"])
async def test_a_next_hop(lab: Lab, kind: str, version: int) -> None:
    """A flow through an appliance is there on its whole way and back, and nothing of the other end's own flows."""
    spokes, data = await Spokes.build(lab), bytearray()
    with ExitStack() as stack, Witness(spokes) as witness:
        async with balancer(spokes.hub, KINDS[kind]) as datapath:
            row, other = spokes.rows(version)
            await datapath.apply(row, other)
            talks = Talks(spokes, version, stack)
            over = await capturing(datapath, row, Limits(duration_s=4.0), data)
            (tcp, udp, _), _ = await talks.begin(0, 1), await talks.begin(1, 1)
            assert await talks.all_answered([tcp, udp, *list(talks.others)[-2:]])
            await asyncio.wait_for(over.wait(), PATIENCE_S)
            (member,) = {name for flow, names in witness.seen().items() if flow == udp for name in names}
    packets, missing = read(bytes(data))
    assert missing == 0
    assert {leg for packet in packets for leg in Leg if f": {leg}" in packet.comment} == set(Leg)
    assert f"rule end1: from client, member {member}" in {packet.comment for packet in packets}
    assert {packet.comment.partition(":")[0] for packet in packets} == {"rule end1"}
    assert not any("dropped" in packet.comment for packet in packets)


@pytest.mark.parametrize("attach", ["xdp", "xdp-generic"])
async def test_what_xdp_carries(attach: str) -> None:
    """While XDP's frames are watched tc decides in its place; afterwards XDP does again, and no packet was lost."""
    async with Lab(f"watched-{attach}", offload=False) as lab:
        site = await STANDARD.build(lab)
        row, data, client = udp_rule(site), bytearray(), address_of(site.clients[0])
        async with kernel(site.lb, attach=attach) as datapath:
            await datapath.apply(row)
            assert await datapath.ask(lambda driver: driver.proxy.mode(row)) == "xdp"
            with UdpMembers(site), udp_socket(site.clients[0], client, 42_004) as sock:
                sock.connect((VIP4, 53))
                member, _, _ = await ask(sock, b"before")
                over = await capturing(datapath, row, Limits(duration_s=3.0), data)
                assert (await ask(sock, b"watched"))[0] == member
                stood_in = [name for name in pins_of(site.lb) if name.endswith(("-tcx", "-clsact"))]
                await datapath.apply(row, udp_rule(site, 6))
                assert (await ask(sock, b"watched after a change"))[0] == member
                await asyncio.wait_for(over.wait(), PATIENCE_S)
                assert (await ask(sock, b"after"))[0] == member
            left = [name for name in pins_of(site.lb) if name.startswith("link-")]
            counted = await datapath.counters()
    packets, missing = read(bytes(data))
    assert missing == 0
    assert sorted((packet.comment, packet.outbound) for packet in packets) == sorted(
        [
            (f"rule dns: from client, member {member}", False),
            (f"rule dns: to member, member {member}", True),
            (f"rule dns: from member, member {member}", False),
            (f"rule dns: to client, member {member}", True),
        ]
        * 2
    )
    assert len(stood_in) == 2
    assert {name.split("-", 2)[2] for name in left} <= {"xdp", "xdp-generic"}
    assert (counted.rules["dns"].packets_in, counted.rules["dns"].packets_out) == (4, 4)


@pytest.mark.parametrize("after", [0, 1])
async def test_a_host_that_refuses_what_a_capture_needs(after: int) -> None:
    """The capture is refused with the reason, XDP goes on as before, and the next try succeeds."""
    library = Failing()
    async with Lab(f"unwatched-{after}", offload=False) as lab:
        site = await STANDARD.build(lab)
        row, data, client = udp_rule(site), bytearray(), address_of(site.clients[0])
        async with kernel(site.lb, attach="xdp", library=library) as datapath:
            await datapath.apply(row)
            links = [name for name in pins_of(site.lb) if name.startswith("link-")]
            library.fail("create_link", after=after)
            with pytest.raises(HostError, match="Cannot allocate memory"):
                await capturing(datapath, row, Limits(), data)
            library.fail()
            assert [name for name in pins_of(site.lb) if name.startswith("link-")] == links
            with UdpMembers(site), udp_socket(site.clients[0], client, 42_005) as sock:
                sock.connect((VIP4, 53))
                await ask(sock, b"unwatched")
                over = await capturing(datapath, row, Limits(count=4), data)
                await ask(sock, b"watched")
                await asyncio.wait_for(over.wait(), PATIENCE_S)
    assert len(read(bytes(data))[0]) == 4


async def test_only_what_was_asked_for(site: Site) -> None:
    """A client's packets alone are there, and a count ends the capture."""
    row, data = udp_rule(site), bytearray()
    first, second = (address_of(host) for host in site.clients[:2])
    async with balancer(site.lb, PacketDatapath) as datapath:
        await datapath.apply(row)
        limits = Limits(count=4, duration_s=20.0, snaplen=64, wanted=Wanted(client=_prefix(second)))
        over = await capturing(datapath, row, limits, data)
        with UdpMembers(site):
            for host, address in zip(site.clients[:2], (first, second), strict=True):
                with udp_socket(host, address, 42_002) as sock:
                    sock.connect((VIP4, 53))
                    await ask(sock, b"?" * 200)
        await asyncio.wait_for(over.wait(), PATIENCE_S)
    assert len(read(bytes(data))[0]) == 4


async def test_a_reader_that_does_not_read_costs_the_datapath_nothing(site: Site) -> None:
    """While nobody reads a capture, all is answered, and what the file misses is counted in it."""
    row, client = udp_rule(site), address_of(site.clients[0])
    async with balancer(site.lb, PacketDatapath) as datapath:
        await datapath.apply(row)
        captures = await datapath.ask(
            lambda driver: [Capture(Scope([row], Wanted()), Limits(), driver.proxy.verdict, waiting=2)]
        )
        with UdpMembers(site), udp_socket(site.clients[0], client, 42_003) as sock:
            sock.connect((VIP4, 53))
            for _ in range(5):
                await ask(sock, b"still here")
        dropped = await datapath.ask(lambda _driver: captures[0].dropped)
        await datapath.ask(lambda _driver: captures[0].close())
    assert dropped >= 18, "four frames for each of five exchanges, and room for two"


def _prefix(text: str) -> Any:
    return ip_network(text)
