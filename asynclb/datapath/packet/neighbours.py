"""Where members are on the wire: the route to each, the neighbour's link address, and the interface's own.

The kernel knows all that; it is asked at the start and again whenever it says that something changed. A neighbour
that it has not resolved yet is asked for through it, so that its table stays the only one.

Source: rtnetlink(7); NTF_USE in include/uapi/linux/neighbour.h.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from asynclb.datapath.core.values import NextHop
from asynclb.events import Emit, Event
from asynclb.net.address import Address

_RTMGRP = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400  # link, neighbour, IPv4 and IPv6 addresses and routes
_USABLE = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80  # reachable, stale, delay, probe, noarp, permanent
_NTF_USE = 0x01
_SETTLE_S = 0.02  # events come in bursts: one look at the kernel's tables serves them all
_FIRST_ANSWERS_S = (0.005, 0.02)  # a neighbour in the same room answers within a millisecond
_RETRY_S = 1.0  # how soon a neighbour that did not answer is asked for again


@dataclass(frozen=True, slots=True)
class Link:
    """An interface that frames can come and go by."""

    index: int
    name: str
    address: bytes
    mtu: int
    kind: str = ""
    """What makes it a virtual device, as `veth`; empty for a real one."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the kernel knows: usable interfaces by index, the host's addresses by interface, and next hops."""

    links: Mapping[int, Link]
    addresses: Mapping[Address, int]
    prefixes: tuple[tuple[Any, int], ...]
    """(network, interface index) of every attached network."""
    hops: Mapping[Address, NextHop]
    """Wanted address -> resolved next hop; what is missing is not resolved or has no route."""


class Neighbours:
    """Follows the kernel's tables for a set of wanted addresses. Owner: the datapath.

    `on_change` is called in the loop with fresh surroundings whenever they differ from the last ones.
    """

    def __init__(self, emit: Emit, on_change: Callable[[Surroundings], None]) -> None:
        self._emit = emit
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._wanted: frozenset[Address] = frozenset()
        self._last: Surroundings | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._events.bind((0, _RTMGRP))
        self._loop.add_reader(self._events.fileno(), self._changed)

    async def want(self, addresses: Collection[Address]) -> Surroundings:
        """Follow these addresses from here on, and return the surroundings as they are now.

        Neighbours on the same wire get a moment to answer, or the first packets to them would be lost. Addresses that
        are followed already are not asked for again: events keep what is known of them fresh.
        """
        wanted = frozenset(addresses)
        if self._last is not None and wanted == self._wanted:
            return self._last
        self._wanted = wanted
        seen = await asyncio.to_thread(look_around, wanted)
        for pause_s in _FIRST_ANSWERS_S:
            if len(seen.hops) == len(wanted):
                break
            await asyncio.sleep(pause_s)
            seen = await asyncio.to_thread(look_around, wanted)
        if len(seen.hops) < len(wanted):
            self._look_in(_SETTLE_S)
        self._last = seen
        return seen

    def close(self) -> None:
        """Stop following."""
        self._loop.remove_reader(self._events.fileno())
        self._events.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()

    def _changed(self) -> None:
        """Read the events away: what they say is read from the tables, which are never out of order."""
        with suppress(BlockingIOError):
            while True:
                try:
                    self._events.recv(1 << 16)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # events were lost, which is as good as one
                        raise
        self._look_in(_SETTLE_S)

    def _look_in(self, delay_s: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(delay_s, self._start_looking)

    def _start_looking(self) -> None:
        self._timer = None
        if self._looking is not None and not self._looking.done():
            self._look_in(_SETTLE_S)
            return
        self._looking = self._loop.create_task(self._look(), name="packet-neighbours")

    async def _look(self) -> None:
        wanted = self._wanted
        try:
            seen = await asyncio.to_thread(look_around, wanted)
        except OSError as error:
            self._emit(Event.DATAPATH_FAILED, datapath="packet", error=f"netlink: {error}")
            self._look_in(_RETRY_S)
            return
        if wanted != self._wanted:  # others are wanted by now, and what was seen says nothing of them
            self._look_in(_SETTLE_S)
            return
        if len(seen.hops) < len(wanted):
            self._look_in(_RETRY_S)
        if seen != self._last:
            self._last = seen
            self._on_change(seen)


def look_around(wanted: Collection[Address]) -> Surroundings:
    """Read links, addresses, routes and neighbours, and ask for neighbours that are wanted and unknown.

    Blocks: about 1 ms and 0.3 ms per wanted address. Raises: OSError -> netlink failed.
    """
    from pyroute2 import IPRoute  # type: ignore[import-untyped]  # pyroute2 ships no types

    with IPRoute() as ip:
        links = {link.index: link for link in map(_link, ip.get_links()) if link is not None}
        found = [entry for entry in ip.get_addr() if entry["index"] in links]
        neighbours = {
            (entry["ifindex"], entry.get_attr("NDA_DST")): entry.get_attr("NDA_LLADDR")
            for entry in ip.get_neighbours()
            if entry["state"] & _USABLE and entry.get_attr("NDA_LLADDR")
        }
        hops = {}
        for address in wanted:
            hop = _next_hop(ip, address, links, neighbours)
            if hop is not None:
                hops[address] = hop
    addresses = {_address(entry): entry["index"] for entry in found}
    prefixes = tuple(
        (ip_network((_address(entry), entry["prefixlen"]), strict=False), entry["index"]) for entry in found
    )
    return Surroundings(links, addresses, prefixes, hops)


def _link(entry: Any) -> Link | None:
    address = entry.get_attr("IFLA_ADDRESS")
    up = entry["flags"] & 1
    ethernet = entry["ifi_type"] == 1
    if not (up and ethernet and address) or entry.get_attr(
        "IFLA_MASTER"
    ):  # a bridge or bond has the frames of its ports
        return None
    link_address = bytes.fromhex(address.replace(":", ""))
    kind = (entry.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "") if entry.get_attr("IFLA_LINKINFO") else ""
    return Link(entry["index"], entry.get_attr("IFLA_IFNAME"), link_address, entry.get_attr("IFLA_MTU"), kind)


def _address(entry: Any) -> Address:
    return ip_address(entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS"))


def _next_hop(ip: Any, address: Address, links: Mapping[int, Link], known: Mapping[Any, str]) -> NextHop | None:
    from pyroute2 import NetlinkError

    try:
        route = ip.route("get", dst=str(address))[0]
    except NetlinkError:
        return None  # no route: the member is dropped to with a reason until there is one
    index = route.get_attr("RTA_OIF")
    link = links.get(index)
    if link is None:
        return None
    gateway = route.get_attr("RTA_GATEWAY") or str(address)
    link_address = known.get((index, gateway))
    if link_address is None:
        with suppress(NetlinkError):
            ip.neigh("add", dst=gateway, ifindex=index, state=0, flags=_NTF_USE)
        return None
    return NextHop(index, bytes.fromhex(link_address.replace(":", "")), link.address, link.mtu)
