"""The kernel datapath while things change: generations, members, interfaces, neighbours, and calls that fail."""

import asyncio
import os
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, suppress

import pytest

from asynclb.datapath.kernel import forwarding
from asynclb.datapath.kernel.bpffs import find_bpffs
from asynclb.datapath.kernel.pins import HOME, Pins, namespace_cookie
from asynclb.datapath.kernel.programs import SMALLEST_IMAGE, grace_period
from asynclb.errors import ApplyError, HostError
from asynclb.events import Event
from asynclb.lab import PATIENCE_S, STANDARD, VIP4, Host, Lab, Site
from asynclb.lab.namespace import ip_batch
from asynclb.native.libbpf import BpfError, Libbpf
from asynclb.net.drop import Drop
from asynclb.tables.row import Row
from tests.netns.balancer import Balancer
from tests.netns.kernel_site import attached, kernel, pins_of
from tests.netns.packet_site import VIPS, UdpMembers, address_of, ask, once, rule, udp_rule
from tests.netns.proxy_site import BOTH, Members, greet, serves
from tests.netns.test_packet_changes import (
    test_a_member_that_fails_its_probe,
    test_a_reload_keeps_what_is_open,
    test_a_rule_that_is_removed,
    test_generations_take_turns_while_clients_come,
    test_room_for_flows_is_told,
)
from tests.unit.proxy.world import member, pool, row

__all__ = [
    "test_a_member_that_fails_its_probe",
    "test_a_reload_keeps_what_is_open",
    "test_a_rule_that_is_removed",
    "test_generations_take_turns_while_clients_come",
    "test_room_for_flows_is_told",
]


@pytest.fixture
async def balancer(site: Site) -> AsyncIterator[Balancer]:
    """Give the test the kernel datapath on the balancer's host."""
    async with kernel(site.lb) as found:
        yield found


class Stream:
    """A client whose datagrams each are a flow of their own, and who answered. Owner: a test."""

    def __init__(self, client: Host, vip: str) -> None:
        self._client = client
        self._vip = vip
        self._task = asyncio.create_task(self._run())
        self.sent = 0
        self.answers: Counter[str] = Counter()

    async def stop(self) -> None:
        """Send nothing more, and wait for what is on its way."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await asyncio.sleep(0.1)

    async def _run(self) -> None:
        while True:
            with self._client.udp(self._vip, 53) as sock:
                self.sent += 1
                answer = await once(sock, b"?", wait_s=1.0)
                if answer is not None:
                    self.answers[answer.split()[0].decode()] += 1


async def test_no_packet_goes_to_a_third(site: Site, balancer: Balancer) -> None:
    """Two generations with one member each take turns under load: every datagram reaches one of these two."""
    ways = (("be2", "be3"), ("be1", "be3"))
    await balancer.apply(udp_rule(site), down=ways[1])
    with UdpMembers(site):
        streams = [Stream(client, VIPS[4]) for client in site.clients for _ in range(4)]
        for number in range(40):
            await balancer.apply(udp_rule(site), down=ways[number % 2])
            await asyncio.sleep(0.01)
        for stream in streams:
            await stream.stop()
    answers = sum((stream.answers for stream in streams), Counter[str]())
    assert set(answers) == {"be1", "be2"}
    assert answers.total() >= sum(stream.sent for stream in streams) - len(streams)  # each may have one on its way
    assert (await balancer.counters()).drops.get(Drop.NO_ELIGIBLE_MEMBER, 0) == 0


async def test_tables_outgrow_their_map(site: Site, balancer: Balancer) -> None:
    """Larger tables get new programs, put in place link by link: connections, flows and counters go on."""
    await balancer.apply(rule(site))
    async with AsyncExitStack() as stack:
        members = stack.enter_context(Members(site))
        pairs = [await stack.enter_async_context(members.joined(site.clients[0], VIP4)) for _ in range(4)]
        many = [rule(site, address=f"203.0.113.{20 + n}", name=f"r{n}", backend_port=9_000 + n) for n in range(30)]
        others = [weighted(site, n) for n in range(40)]
        await balancer.apply(rule(site), *many, *others)
        assert await balancer.ask(lambda driver: driver.proxy.capacity) > SMALLEST_IMAGE
        for client, accepted in pairs:
            await greet(client, accepted)
        async with members.joined(site.clients[1], VIP4) as (client, accepted):
            await greet(client, accepted)
    found = await balancer.counters()
    assert found.rules["web"].new_flows == 5
    assert len([flow for flow in await balancer.flows() if flow.rule == "web"]) == 5


def weighted(site: Site, number: int) -> Row:
    """Return a rule with a pool, and so a table, of its own."""
    members = [member(host.name, address_of(host), weight=1 + number + n * 40) for n, host in enumerate(site.members)]
    backend = pool(members, name=f"own{number}")
    return row(f"203.0.113.{100 + number}", 80, backend, 10_000 + number, name=f"own{number}")


async def test_an_interface_that_goes_down_and_comes_up(site: Site, balancer: Balancer) -> None:
    """It is detached from and attached to, and serves as before."""
    await balancer.apply(rule(site))
    with Members(site) as members:
        ip_batch(["link set dev back down"], namespace=site.lb.namespace)
        await _until(lambda: not _pins_on(site, "back"), "detached")
        ip_batch(["link set dev back up"], namespace=site.lb.namespace)
        await _until(lambda: bool(_pins_on(site, "back")), "attached again")
        async with members.joined(site.clients[0], VIP4) as (client, accepted):
            await greet(client, accepted)


def _pins_on(site: Site, device: str) -> list[str]:
    """Return the pins of the links to an interface."""
    with site.lb.entered():
        index = socket.if_nametoindex(device)
    return [name for name in pins_of(site.lb) if name.startswith(f"link-{index}-")]


async def test_an_interface_that_is_deleted(site: Site, balancer: Balancer) -> None:
    """Nothing is left of its link, and the other interfaces go on."""
    await balancer.apply(rule(site))
    before = len([name for name in pins_of(site.lb) if name.startswith("link-")])
    ip_batch(["link add extra0 type veth peer name extra1", "link set extra0 up", "link set extra1 up"],
             namespace=site.lb.namespace)  # fmt: skip
    await _until(lambda: len(_links(site)) == before + 2, "attached to both ends")
    ip_batch(["link del extra0"], namespace=site.lb.namespace)
    await _until(lambda: len(_links(site)) == before, "their links are gone")
    await serves(site)
    assert not balancer.events.of(Event.DATAPATH_FAILED)


def _links(site: Site) -> list[str]:
    return [name for name in pins_of(site.lb) if name.startswith("link-")]


@BOTH
async def test_a_neighbour_with_another_link_address(site: Site, balancer: Balancer, version: int) -> None:
    """A member whose link address changes is found again within a moment, and open connections go on."""
    await balancer.apply(rule(site, version))
    with Members(site, version) as members:
        async with members.joined(site.clients[0], VIPS[version]) as (client, accepted):
            await greet(client, accepted)
            host = next(host for host in site.members if address_of(host, version) == accepted.name[0])
            device = "back"
            ip_batch([f"link set dev {device} address 02:00:00:be:be:01"], namespace=host.namespace)
            ip_batch([f"neigh flush dev {device}"], namespace=site.lb.namespace)
            await greet(client, accepted)


async def test_a_next_hop_that_is_not_resolved(site: Site, balancer: Balancer) -> None:
    """Its first packets go through the kernel's own routing: none is lost."""
    await balancer.apply(udp_rule(site))
    with UdpMembers(site):
        for _ in range(3):
            ip_batch(["neigh flush dev back"], namespace=site.lb.namespace)
            await asyncio.sleep(0.06)
            with site.clients[0].udp(VIPS[4], 53) as sock:
                await ask(sock, wait_s=3)


class Failing(Libbpf):
    """libbpf whose calls fail from a moment on, as when memory runs out. Owner: a test."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: frozenset[str] = frozenset()
        self.left = 0

    def fail(self, *calls: str, after: int = 0) -> None:
        """Let these calls fail after so many that succeed."""
        self.fails, self.left = frozenset(calls), after

    def update(self, fd: int, key: bytes, value: bytes) -> None:
        """Fail as told, or update."""
        self._may("update")
        super().update(fd, key, value)

    def create_link(self, program: int, ifindex: int, attach: object, flags: int = 0) -> int:
        """Fail as told, or attach."""
        self._may("create_link")
        return super().create_link(program, ifindex, attach, flags)  # type: ignore[arg-type] # as it was given

    def update_link(self, link: int, program: int) -> None:
        """Fail as told, or replace."""
        self._may("update_link")
        super().update_link(link, program)

    def pin(self, fd: int, path: str) -> None:
        """Fail as told, or pin."""
        self._may("pin")
        super().pin(fd, path)

    def _may(self, call: str) -> None:
        if call in self.fails:
            self.left -= 1
            if self.left < 0:
                raise BpfError(call, 12)


@pytest.mark.parametrize(("calls", "after"), [(("update",), 0), (("update",), 1), (("create_link",), 0)])
async def test_a_call_that_fails_half_way(site: Site, calls: Iterable[str], after: int) -> None:
    """New tables that could not be prepared change nothing: the old ones serve, and the next try succeeds."""
    library = Failing()
    async with kernel(site.lb, library=library) as balancer:
        await balancer.apply(rule(site), down=["be2", "be3"])
        ip_batch(["link add extra0 type veth peer name extra1"], namespace=site.lb.namespace)
        library.fail(*calls, after=after)
        ip_batch(["link set extra0 up", "link set extra1 up"], namespace=site.lb.namespace)
        with Members(site) as members:
            await asyncio.sleep(0.3)
            with pytest.raises(ApplyError, match="Cannot allocate memory"):
                await balancer.apply(rule(site), rule(site, address="203.0.113.11", name="new", backend_port=81))
            async with members.joined(site.clients[0], VIP4) as (client, accepted):
                assert accepted.name[0] == address_of(site.members[0])
                await greet(client, accepted)
            library.fail()
            await balancer.apply(rule(site), rule(site, address="203.0.113.11", name="new", backend_port=81))


async def test_links_that_cannot_be_replaced(site: Site) -> None:
    """Programs that got their place from others give it back, or keep it whole where that fails as well.

    What was open goes on, what is new is balanced, and the next tables are everywhere.
    """
    library = Failing()
    async with kernel(site.lb, library=library) as balancer:
        await balancer.apply(rule(site))
        with Members(site) as members:
            async with members.joined(site.clients[0], VIP4) as (client, accepted):
                library.fail("update_link", after=1)
                with pytest.raises(ApplyError, match="update_link"):
                    await balancer.apply(rule(site), *[weighted(site, n) for n in range(40)])
                for _ in range(5):
                    await greet(client, accepted)
                    async with members.joined(site.clients[1], VIP4) as (other, taken):
                        await greet(other, taken)
                    await asyncio.sleep(0.2)  # the kernel empties a map of tail calls that nobody holds some time later
                library.fail()
                await balancer.apply(rule(site))
                links = {_pinned_program(site, name) for name in _links(site)}
                assert links == {_pinned_program(site, "program-tc")}
                await greet(client, accepted)


@pytest.mark.parametrize("fails", ["", "pin"])
async def test_tail_calls_of_programs_that_come_later(site: Site, fails: str) -> None:
    """XDP's are pinned before it is attached, also by the try after one that failed: kill -9 would empty them."""
    library = Failing()
    async with kernel(site.lb, library=library, attach="tc") as balancer:
        await balancer.apply(rule(site))
        assert len(_tails(site)) == 1
        await balancer.ask(lambda driver: driver.proxy.configure(attached("xdp-generic")))
        if fails:
            library.fail(fails)
            with pytest.raises(ApplyError, match=fails):
                await balancer.apply(rule(site))
            library.fail()
        await balancer.apply(rule(site))
        assert len(_tails(site)) == 2
        assert "program-xdp" in pins_of(site.lb)


async def test_what_was_being_pinned_when_somebody_died(site: Site, balancer: Balancer) -> None:
    """Tail calls under a name that was to be another hold programs, and so maps: they are let go of."""
    await balancer.apply(rule(site))
    pins = _pins(site)
    fd = pins.open(_tails(site)[0])
    pins.keep(fd, "fresh-tails-7")
    os.close(fd)
    await balancer.apply(rule(site), *[weighted(site, n) for n in range(40)])
    await _until(lambda: len(_tails(site)) == 1, "those of the programs that forward")
    assert not [name for name in pins_of(site.lb) if name.startswith("fresh-")]


async def test_a_pin_that_cannot_be_removed(site: Site, balancer: Balancer) -> None:
    """It is told of, and reloads go on."""
    await balancer.apply(rule(site))
    directory = _pins(site).directory
    assert directory is not None
    stuck = directory / "tails-7"
    stuck.mkdir()
    try:
        await balancer.apply(rule(site), *[weighted(site, n) for n in range(40)])
        await _until(lambda: len(_tails(site)) == 2, "those of the programs that forward, and what cannot be removed")
        await balancer.apply(rule(site))
        await serves(site)
        told = [str(found["value"]) for found in balancer.events.of(Event.HOST_LIMIT) if "pin" in str(found["what"])]
        assert told
        assert all(str(stuck) in value for value in told)
    finally:
        stuck.rmdir()


async def test_watched_while_tables_outgrow_their_map(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who begins to watch while old programs may still run stands in with the new ones, which have their tail calls."""
    begun, go_on = threading.Event(), threading.Event()

    def wait_long() -> None:
        """Wait as on a host whose processors are slow to let go."""
        begun.set()
        go_on.wait(PATIENCE_S)
        grace_period()

    site = await STANDARD.build(lab)
    async with kernel(site.lb, attach="xdp-generic") as balancer:
        await balancer.apply(rule(site))
        monkeypatch.setattr(forwarding, "grace_period", wait_long)
        applying = asyncio.create_task(balancer.apply(rule(site), *[weighted(site, n) for n in range(40)]))
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        await balancer.ask(lambda driver: driver.proxy.watch(begin=True))
        go_on.set()
        await applying
        links = {name: _pinned_program(site, name) for name in _links(site) if name.endswith("tcx")}
        assert set(links.values()) == {_pinned_program(site, "program-tc")}
        await serves(site)
        await _until(lambda: len(_tails(site)) == 2, "the old ones' are let go of")
        await serves(site)


def _pins(site: Site) -> Pins:
    with site.lb.entered():
        cookie = namespace_cookie()
    return Pins(Libbpf(), find_bpffs(f"{HOME}/{cookie}"), cookie)


def _pinned_program(site: Site, name: str) -> int:
    """Return the id of the program that is pinned, or that a pinned link has."""
    bpf = Libbpf()
    fd = _pins(site).open(name)
    try:
        return bpf.program_id(fd) if name.startswith("program-") else bpf.link_info(fd).program
    finally:
        os.close(fd)


def _tails(site: Site) -> list[str]:
    return [name for name in pins_of(site.lb) if name.startswith("tails-")]


async def test_two_instances(site: Site, balancer: Balancer) -> None:
    """The second one in a network namespace is refused with a text that says why, and the first goes on."""
    await balancer.apply(rule(site))
    async with kernel(site.lb) as second:
        with pytest.raises((ApplyError, HostError), match="another asynclb uses the datapath `kernel`"):
            await second.apply(rule(site))
    await serves(site)
    assert pins_of(site.lb)


async def test_closing_leaves_nothing(site: Site) -> None:
    """No program, no pin, no map: the host is as it was."""
    async with kernel(site.lb) as balancer:
        await balancer.apply(rule(site), udp_rule(site, 6))
        assert {"map-flows4", "map-flows6", "program-tc", "remembered"} <= set(pins_of(site.lb))
    assert pins_of(site.lb) == []
    assert "asynclb" not in await site.lb.check_output("bpftool", "net", "show")


async def _until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.02)
    del what  # it is in the traceback's line
