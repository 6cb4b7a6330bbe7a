"""Beside programs of others: theirs stay and run, ours too, and only ours are taken away; on old kernels as well."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from asynclb.datapath.kernel.leftovers import detach_here
from asynclb.datapath.kernel.programs import SMALLEST_IMAGE
from asynclb.events import Event
from asynclb.lab import STANDARD, VIP4, Host, Lab, Site
from asynclb.lab.namespace import ip_batch
from asynclb.native.libbpf import LOADING, Attach, BpfError, Libbpf, Object, XdpMode
from tests.netns.balancer import Balancer
from tests.netns.kernel_site import kernel, needs_kernel, pins_of
from tests.netns.packet_site import UdpMembers, ask, rule, udp_rule
from tests.netns.proxy_site import Members, greet, serves
from tests.netns.test_kernel_changes import weighted
from tests.unit.kernel.conftest import compiled
from tests.unit.proxy.wire import Closing

TCX_NEXT, XDP_PASS = 0xFFFF_FFFF, 2
COUNTS_AND_PASSES = (
    "({ unsigned one = 1; unsigned long long *seen = lookup(&numbers, &one); "
    f"if (seen) __sync_fetch_and_add(seen, 1); {XDP_PASS}; }})"
)
FOREIGN_HANDLE, FOREIGN_PRIORITY = 7, 10
DEVICES = ("front", "back")


class OldKernel(Libbpf):
    """A kernel before Linux 6.6, which has no tcx links."""

    def create_link(self, program: int, ifindex: int, attach: Attach, flags: int = 0) -> int:
        """Refuse tcx as such a kernel does, which does not know the number."""
        if attach is Attach.TCX_INGRESS:
            raise BpfError(f"attach to interface {ifindex} ({attach.name.lower()})", errno.EINVAL)
        return super().create_link(program, ifindex, attach, flags)


class Foreign(Closing):
    """Somebody else's programs, which count what they see and let it pass. Owner: a test."""

    def __init__(self, code: bytes) -> None:
        self._bpf = Libbpf()
        self._object = self._bpf.open_object(code, "foreign")
        self._object.set_initial(".rodata.settings", (TCX_NEXT - 1).to_bytes(4, "little"))
        self._object.load()
        self._links: list[int] = []
        self._filters: list[tuple[Host, int]] = []

    def close(self) -> None:
        """Close what is open."""
        for link in self._links:
            os.close(link)
        self._object.close()

    def attach(self, host: Host, way: str) -> None:
        """Attach to both interfaces of the balancer's host: tcx, clsact, xdp or xdp-generic."""
        with host.entered():
            for index in map(socket.if_nametoindex, DEVICES):
                if way == "clsact":
                    self._bpf.tc_attach(index, self._object.program("adds"), FOREIGN_HANDLE, FOREIGN_PRIORITY)
                    self._filters.append((host, index))
                elif way == "tcx":
                    self._links.append(self._bpf.create_link(self._object.program("adds"), index, Attach.TCX_INGRESS))
                else:
                    mode = XdpMode.NATIVE if way == "xdp" else XdpMode.GENERIC
                    self._links.append(self._bpf.create_link(self._object.program("passes"), index, Attach.XDP, mode))

    def seen(self) -> int:
        """Return how many frames they have seen."""
        found = (self._bpf.lookup(self._object.map("numbers"), key.to_bytes(4, "little"), 8) for key in (0, 1))
        return sum(int.from_bytes(value or b"", "little") for value in found)

    async def stays(self, host: Host) -> None:
        """Check that they are attached where they were."""
        for link in self._links:
            assert self._bpf.link_info(link).ifindex
        for _, device in zip(self._filters, DEVICES, strict=False):
            shown = await host.check_output("tc", "filter", "show", "dev", device, "ingress")
            assert f"pref {FOREIGN_PRIORITY} " in shown


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Give the test the foreign programs, compiled once."""
    return compiled(tmp_path_factory.mktemp("foreign"), returns=COUNTS_AND_PASSES)


@pytest.fixture
def foreign(code: bytes) -> Iterator[Foreign]:
    """Give the test programs of somebody else, loaded and attached nowhere."""
    needs_kernel()
    with Foreign(code) as found:
        yield found


async def converse(site: Site) -> None:
    """Check that connections and datagrams pass the balancer."""
    with Members(site) as members, UdpMembers(site):
        for client in site.clients:
            async with members.joined(client, VIP4) as (near, far):
                assert far.peer == near.name
                await greet(near, far)
            with client.udp(VIP4, 53) as sock:
                await ask(sock)


def modes(balancer: Balancer) -> list[str]:
    """Return how our programs were attached, in order."""
    return [str(told["mode"]) for told in balancer.events.of(Event.DATAPATH_ATTACHED)]


@pytest.mark.parametrize("library", [Libbpf, OldKernel], ids=["tcx", "clsact"])
@pytest.mark.parametrize("way", ["tcx", "clsact"])
async def test_beside_other_tc_programs(site: Site, foreign: Foreign, way: str, library: type[Libbpf]) -> None:
    """Frames reach both; when ours are detached theirs are where they were, and go on."""
    foreign.attach(site.lb, way)
    async with kernel(site.lb, library=library(), leave=True) as balancer:
        await balancer.apply(rule(site), udp_rule(site))
        await converse(site)
        await site.clients[0].check_output("ping", "-c", "1", "-W", "5", "10.0.1.1")
        assert foreign.seen()
        assert (await balancer.counters()).rules["web"].new_flows == len(site.clients)
    await foreign.stays(site.lb)
    with site.lb.entered():
        assert detach_here()
    assert pins_of(site.lb) == []
    await foreign.stays(site.lb)
    before = foreign.seen()
    await site.clients[0].check_output("ping", "-c", "1", "-W", "5", "10.0.1.1")
    assert foreign.seen() > before
    assert "asynclb" not in await site.lb.check_output("bpftool", "net", "show")


async def test_tc_programs_that_come_later(site: Site, foreign: Foreign) -> None:
    """They are put behind ours, and see what ours leave to the host."""
    async with kernel(site.lb) as balancer:
        await balancer.apply(rule(site), udp_rule(site))
        foreign.attach(site.lb, "tcx")
        await converse(site)
        before = foreign.seen()
        await site.clients[0].check_output("ping", "-c", "1", "-W", "5", "10.0.1.1")
        assert foreign.seen() > before
    await foreign.stays(site.lb)


@pytest.mark.parametrize("attach", ["xdp", "xdp-generic"])
@pytest.mark.parametrize("way", ["xdp", "xdp-generic"])
async def test_where_somebody_else_has_xdp(foreign: Foreign, way: str, attach: str) -> None:
    """Ours are attached to tc there, which is told with what to do; theirs see every frame before."""
    async with Lab("otherxdp", offload=False) as lab:
        site = await STANDARD.build(lab)
        foreign.attach(site.lb, way)
        async with kernel(site.lb, attach=attach) as balancer:
            await balancer.apply(rule(site), udp_rule(site))
            assert modes(balancer) == ["tcx", "tcx"]
            told = [found for found in balancer.events.of(Event.HOST_LIMIT) if str(found["what"]).startswith("XDP on")]
            assert {str(found["what"]) for found in told} == {"XDP on front", "XDP on back"}
            assert all("bpftool net show dev" in str(found["remedy"]) for found in told)
            await converse(site)
            await balancer.apply(rule(site))  # what was refused once is not tried, and not told, again
            assert modes(balancer) == ["tcx", "tcx"]
            assert foreign.seen()
        await foreign.stays(site.lb)
        before = foreign.seen()
        await site.clients[0].check_output("ping", "-c", "1", "-W", "5", "10.0.1.1")
        assert foreign.seen() > before


@asynccontextmanager
async def old(site: Site, *, leave: bool = False) -> AsyncIterator[Balancer]:
    """Run the datapath as on a kernel without tcx."""
    async with kernel(site.lb, library=OldKernel(), leave=leave) as balancer:
        yield balancer


async def filters(host: Host) -> str:
    """Return the filters of both interfaces."""
    return "".join([await host.check_output("tc", "filter", "show", "dev", name, "ingress") for name in DEVICES])


async def test_clsact_forwards_and_is_adopted(site: Site) -> None:
    """Without tcx, filters carry traffic, outlive the process, are taken over by the next one, and go with it."""
    async with AsyncExitStack() as stack:
        members = stack.enter_context(Members(site))
        async with old(site, leave=True) as balancer:
            await balancer.apply(rule(site), udp_rule(site))
            assert modes(balancer) == ["clsact", "clsact"]
            near, far = await stack.enter_async_context(members.joined(site.clients[0], VIP4))
            await greet(near, far)
        await greet(near, far)  # nobody runs
        assert (await filters(site.lb)).count("handle 0xa51b asynclb_tc") == len(DEVICES)
        async with old(site) as balancer:
            await balancer.apply(rule(site), udp_rule(site))
            assert balancer.events.of(Event.DATAPATH_ADOPTED)
            assert modes(balancer) == []
            await greet(near, far)
            assert (await balancer.counters()).rules["web"].new_flows == 1
            async with members.joined(site.clients[1], VIP4) as (other, taken):
                await greet(other, taken)
    assert await filters(site.lb) == ""
    assert pins_of(site.lb) == []


async def test_clsact_programs_are_replaced(site: Site) -> None:
    """Tables that outgrow their map get new programs, filter by filter: what is open goes on."""
    async with old(site) as balancer:
        await balancer.apply(rule(site))
        with Members(site) as members:
            async with members.joined(site.clients[0], VIP4) as (near, far):
                await balancer.apply(rule(site), *[weighted(site, n) for n in range(40)])
                assert await balancer.ask(lambda driver: driver.proxy.capacity) > SMALLEST_IMAGE
                await greet(near, far)
        assert (await filters(site.lb)).count("handle 0xa51b asynclb_tc") == len(DEVICES)


async def test_an_interface_with_a_filter_goes(site: Site) -> None:
    """A filter goes with its interface, and the others go on."""
    async with old(site) as balancer:
        await balancer.apply(rule(site))
        ip_batch(["link add extra0 type veth peer name extra1", "link set extra0 up", "link set extra1 up"],
                 namespace=site.lb.namespace)  # fmt: skip
        async with asyncio.timeout(10):
            while len(modes(balancer)) < len(DEVICES) + 2:
                await asyncio.sleep(0.02)
        ip_batch(["link del extra0"], namespace=site.lb.namespace)
        async with asyncio.timeout(10):
            while len([name for name in pins_of(site.lb) if name.startswith("link-")]) > len(DEVICES):
                await asyncio.sleep(0.02)
        await serves(site)
        assert not balancer.events.of(Event.DATAPATH_FAILED)


class RefusedXdp(Object):
    """An object whose XDP programs the verifier of some kernel refuses."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.wanted: set[str] = set()

    def load(self) -> None:
        """Refuse them as the verifier does, if they are to be loaded."""
        if self.wanted:
            raise BpfError(LOADING, errno.EACCES, "R3 pointer arithmetic on pkt_end prohibited")
        super().load()

    def choose(self, name: str, *, load: bool) -> None:
        """Take note of what is to be loaded."""
        if name.startswith("asynclb_xdp"):
            (self.wanted.add if load else self.wanted.discard)(name)
        super().choose(name, load=load)


class WithoutXdp(Libbpf):
    """A kernel that takes the programs of tc only."""

    def open_object(self, image: bytes, name: str) -> Object:
        """Return an object of which XDP cannot be loaded."""
        return RefusedXdp(self._c, self._checked, image, name)


async def test_a_kernel_that_refuses_xdp_alone(site: Site) -> None:
    """Tc carries everything, as long as the process lives, and it is told once with the verifier's words."""
    async with kernel(site.lb, attach="xdp", library=WithoutXdp()) as balancer:
        await balancer.apply(rule(site), udp_rule(site))
        assert modes(balancer) == ["tcx", "tcx"]
        await converse(site)
        await balancer.apply(rule(site), udp_rule(site), *[weighted(site, n) for n in range(40)])
        await converse(site)
        assert modes(balancer) == ["tcx", "tcx"]
        (told,) = [found for found in balancer.events.of(Event.HOST_LIMIT) if found["what"] == "XDP"]
        assert "pkt_end" in str(told["value"])
        assert "program-xdp" not in pins_of(site.lb)


async def test_programs_are_loaded_when_something_needs_them(site: Site) -> None:
    """Without XDP and tunnels there is the one for tc; when a tunnel comes, its own is loaded, and flows go on."""
    async with kernel(site.lb) as balancer:
        await balancer.apply(rule(site))
        assert {name for name in pins_of(site.lb) if name.startswith("program-")} == {"program-tc"}
        with Members(site) as members:
            async with members.joined(site.clients[0], VIP4) as (near, far):
                await site.lb.check_output("ip", "tuntap", "add", "tun7", "mode", "tun")
                await site.lb.check_output("ip", "link", "set", "tun7", "up")
                async with asyncio.timeout(10):
                    while "program-bare" not in pins_of(site.lb):
                        await asyncio.sleep(0.05)
                await greet(near, far)
