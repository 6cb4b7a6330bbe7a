"""Where members are on the wire: the route to each, the neighbour's link address, and the interface's own.

The kernel knows all that; it is asked at the start and again whenever it says that a link, an address or a route
changed. What it says of neighbours, which is said often, is taken from its words, without asking again. A neighbour
that it has not resolved yet is asked for through it, so that its table stays the only one. It does not see the frames
that go to a neighbour, so it is told of the use, or it would never find out that another machine has the address.

Source: rtnetlink(7); NTF_USE in include/uapi/linux/neighbour.h.
"""

import asyncio
import errno
import socket
import struct
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from asynclb.datapath.core.values import NextHop
from asynclb.datapath.frames.netlink import asked, attribute, attributes, dumped, messages, open_netlink, packed
from asynclb.datapath.frames.surroundings import Link, Neighbour, Surroundings
from asynclb.events import Emit, Event
from asynclb.net.address import Address

_RTMGRP = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400  # link, neighbour, IPv4 and IPv6 addresses and routes
_USABLE = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80  # reachable, stale, delay, probe, noarp, permanent
_NTF_USE = 0x01
_SETTLE_S = 0.02  # events come in bursts: one look at the kernel's tables serves them all
_FIRST_ANSWERS_S = (0.005, 0.02)  # a neighbour in the same room answers within a millisecond
_CONFIRM_S = 5.0  # how often stale neighbours are looked for; the kernel itself waits as long before it asks one
_CONFIRM_AT_ONCE = 512  # of thousands that are stale in the same moment the others have the next turn
_RETRY_S = 1.0  # how soon a neighbour that did not answer is asked for again
_REST = 4  # a look is followed by a pause of so many times its length: a router's routes change all the time
_NEW_NEIGHBOUR, _DEL_NEIGHBOUR, _GET_NEIGHBOUR, _GET_ROUTE = 28, 29, 30, 26
_NDMSG, _RTMSG, _INDEX = struct.Struct("=BBHiHBB"), struct.Struct("=8BI"), struct.Struct("=i")
_NDA_DST, _NDA_LLADDR = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_STALE = 0x04
_CREATE = 0x400  # without NLM_F_EXCL: one that did not answer is still in the table, and is asked again
_ETHERNET = 1  # linux/if_arp.h
BARE = frozenset({512, 519, 768, 769, 776, 778, 823, 0xFFFE})
"""PPP, RAWIP, TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE, NONE (WireGuard, TUN). Source: dev_is_mac_header_xmit."""


_NOTHING = Surroundings({}, {}, (), {})


class Neighbours:
    """Follows the kernel's tables for a set of wanted addresses. Owner: the datapath.

    `on_change` is called in the loop with fresh surroundings whenever they differ from the last ones. `datapath` is
    whose they are, for events.
    """

    def __init__(self, emit: Emit, on_change: Callable[[Surroundings], None], datapath: str) -> None:
        self._emit = emit
        self._datapath = datapath
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._wanted: frozenset[Address] = frozenset()
        self._last: Surroundings | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._told: dict[Neighbour, bytes | None] = {}
        self._stale = False  # something other than neighbours changed: only another look will tell what
        self._rest_s = _SETTLE_S
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._events.bind((0, _RTMGRP))
        self._loop.add_reader(self._events.fileno(), self._changed)
        self._confirming: asyncio.Task[None] | None = None
        self._confirmer = self._loop.call_later(_CONFIRM_S, self._confirm)

    @property
    def around(self) -> Surroundings:
        """What was found last."""
        return _NOTHING if self._last is None else self._last

    async def want(self, addresses: Collection[Address]) -> Surroundings:
        """Follow these addresses from here on, and return the surroundings as they are now.

        Neighbours on the same wire get a moment to answer, or the first packets to them would be lost. Addresses that
        are followed already are not asked for again: events keep what is known of them fresh.
        """
        wanted = frozenset(addresses)
        if self._last is not None and wanted == self._wanted:
            return self._last
        fresh = wanted - self._wanted if self._last is not None else wanted
        self._wanted = wanted
        known = None if self._stale else self._last
        seen = await asyncio.to_thread(look_around, fresh, known)
        for pause_s in _FIRST_ANSWERS_S:
            if not seen.unresolved(fresh):
                break
            await asyncio.sleep(pause_s)
            seen = await asyncio.to_thread(look_around, fresh, known)
        self._last = seen = _joined(self._last, seen, wanted)
        if seen.unresolved(wanted):
            self._look_in(_SETTLE_S)
        return seen

    def close(self) -> None:
        """Stop following."""
        self._loop.remove_reader(self._events.fileno())
        self._events.close()
        if self._timer is not None:
            self._timer.cancel()
        self._confirmer.cancel()
        for task in (self._looking, self._confirming):
            if task is not None:
                task.cancel()

    def _confirm(self) -> None:
        self._confirmer = self._loop.call_later(_CONFIRM_S, self._confirm)
        if self._last is not None and (self._confirming is None or self._confirming.done()):
            ways = frozenset(self._last.ways.values())
            self._confirming = self._loop.create_task(self._use(ways), name="packet-neighbours-use")

    async def _use(self, ways: Collection[Neighbour]) -> None:
        try:
            await asyncio.to_thread(use_stale, ways)
        except OSError as error:
            self._emit(Event.DATAPATH_FAILED, datapath=self._datapath, error=f"netlink: {error}")

    def _changed(self) -> None:
        """Take down what the kernel says of neighbours; anything else is read from its tables, which are in order."""
        with suppress(BlockingIOError):
            while True:
                try:
                    for kind, body in messages(self._events.recv(1 << 16)):
                        self._hear(kind, body)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    self._stale = True  # events were lost
        self._look_in(self._rest_s if self._stale else _SETTLE_S)

    def _hear(self, kind: int, body: bytes) -> None:
        if kind not in (_NEW_NEIGHBOUR, _DEL_NEIGHBOUR):
            self._stale = True
        elif (heard := _heard(kind, body)) is not None:
            neighbour, link_address = heard
            self._told[neighbour] = link_address

    def _look_in(self, delay_s: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(delay_s, self._start_looking)

    def _start_looking(self) -> None:
        self._timer = None
        if self._looking is not None and not self._looking.done():
            self._look_in(_SETTLE_S)
            return
        if self._last is not None and not self._stale:
            self._take(_retold(self._last, self._told))
        if self._stale or self._missing():
            self._looking = self._loop.create_task(self._look(), name="packet-neighbours")

    def _missing(self) -> frozenset[Address]:
        """Return the wanted addresses that no link address is known for."""
        return self._wanted if self._last is None else self._last.unresolved(self._wanted)

    async def _look(self) -> None:
        """Look at everything again; or, if nothing but neighbours changed, for the addresses that are missing."""
        wanted, began, everything = self._wanted, time.monotonic(), self._stale
        self._stale = False
        try:
            known = None if everything else self._last
            seen = await asyncio.to_thread(look_around, wanted if everything else self._missing(), known)
        except OSError as error:
            self._emit(Event.DATAPATH_FAILED, datapath=self._datapath, error=f"netlink: {error}")
            self._stale = True
            self._look_in(_RETRY_S)
            return
        if everything:
            self._rest_s = max(_SETTLE_S, _REST * (time.monotonic() - began))
        if wanted != self._wanted:  # others are wanted by now, and what was seen says nothing of them
            self._stale = True
            self._look_in(_SETTLE_S)
            return
        seen = _joined(None if everything else self._last, seen, wanted)
        self._take(_retold(seen, self._told))  # what was told meanwhile is newer, or the same

    def _take(self, seen: Surroundings) -> None:
        self._told.clear()
        if seen.unresolved(self._wanted):
            self._look_in(_RETRY_S)
        if seen != self._last:
            self._last = seen
            self._on_change(seen)


def _joined(before: Surroundings | None, seen: Surroundings, wanted: frozenset[Address]) -> Surroundings:
    """Return what was seen of some addresses together with what was known of the others that are wanted."""
    if before is None:
        return seen
    hops, ways = {**before.hops, **seen.hops}, {**before.ways, **seen.ways}  # hashes are the dictionaries' own
    for gone in ways.keys() - wanted:
        del ways[gone]
    for gone in hops.keys() - wanted:
        del hops[gone]
    if seen.links is not before.links:
        hops = {address: hop for address, hop in hops.items() if hop.ifindex in seen.links}
    return replace(seen, hops=hops, ways=ways)


def _retold(seen: Surroundings, told: Mapping[Neighbour, bytes | None]) -> Surroundings:
    """Return the surroundings with what the kernel said of neighbours since."""
    hops = dict(seen.hops)
    for address, way in seen.ways.items() if told else ():
        if way not in told:
            continue
        link_address, link = told[way], seen.links.get(way[0])
        if link_address is None or link is None:
            hops.pop(address, None)
        else:
            hops[address] = NextHop(link.index, link_address, link.address, link.mtu)
    return replace(seen, hops=hops)


def _heard(kind: int, body: bytes) -> tuple[Neighbour, bytes | None] | None:
    """Return what a message says of a neighbour: its link address, or None where it is not known (any more)."""
    family, _, _, index, state, _, _ = _NDMSG.unpack_from(body)
    found = attributes(body[_NDMSG.size :])
    if family not in (socket.AF_INET, socket.AF_INET6) or _NDA_DST not in found:
        return None
    usable = kind == _NEW_NEIGHBOUR and state & _USABLE
    link_address = found.get(_NDA_LLADDR) if usable else None
    return (index, socket.inet_ntop(family, found[_NDA_DST])), link_address or None


def look_around(wanted: Collection[Address], known: Surroundings | None = None) -> Surroundings:
    """Read links, addresses, routes and neighbours, and ask for neighbours that are wanted and unknown.

    Interfaces and the host's addresses are not read where they are `known`.
    Blocks: about 3 ms, less where they are, and 20 us per wanted address. Raises: OSError -> netlink failed.
    """
    around = _look_at_host() if known is None else known
    usable, links = around.every_link, around.links
    with open_netlink() as sock:
        ways = {address: way for address in wanted if (way := _way(sock, address, usable)) is not None}
        by_link = {address: way for address, way in ways.items() if way[0] in links}
        neighbours = _known_neighbours(sock)
        hops = {
            address: hop for address, way in by_link.items() if (hop := _next_hop(way, links, neighbours)) is not None
        }
        for way in {way for address, way in by_link.items() if address not in hops}:
            _tell_use(sock, way)
    return replace(around, hops=hops, ways=ways)


def _look_at_host() -> Surroundings:
    """Read links and addresses."""
    from pyroute2 import IPRoute  # type: ignore[import-untyped]  # pyroute2 ships no types

    with IPRoute() as ip:
        usable = {link.index: link for link in map(_link, ip.get_links()) if link is not None}
        found = [entry for entry in ip.get_addr() if entry["index"] in usable]
    links = {index: link for index, link in usable.items() if link.address}
    addresses = {_address(entry): entry["index"] for entry in found}
    prefixes = tuple(
        (ip_network((_address(entry), entry["prefixlen"]), strict=False), entry["index"])
        for entry in found
        if entry["index"] in links
    )
    bare = {index: link for index, link in usable.items() if not link.address}
    return Surroundings(links, addresses, prefixes, {}, {}, bare)


def vanished(links: Mapping[int, Link]) -> frozenset[int]:
    """Return the interfaces that are not there any more, or have another name."""
    return frozenset(index for index, link in links.items() if _name_of(index) != link.name)


def _name_of(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def _known_neighbours(sock: socket.socket) -> dict[Neighbour, bytes]:
    """Return the link addresses in the kernel's table. Cost: 5 us each; pyroute2 takes 200, and there are thousands."""
    heard = [_heard(_NEW_NEIGHBOUR, body) for body in dumped(sock, _GET_NEIGHBOUR, bytes(_NDMSG.size))]
    return {found[0]: found[1] for found in heard if found is not None and found[1] is not None}


def use_stale(ways: Collection[Neighbour]) -> None:
    """Tell the kernel that these are in use, where it is no longer sure of them: it asks them, and says what it hears.

    Blocks: as `look_around`. Raises: OSError -> netlink failed.
    """
    with open_netlink() as sock:
        known = dumped(sock, _GET_NEIGHBOUR, bytes(_NDMSG.size))
        stale = [body for body in known if _NDMSG.unpack_from(body)[4] == _STALE]
        heard = [found[0] for body in stale if (found := _heard(_NEW_NEIGHBOUR, body)) is not None and found[0] in ways]
        for neighbour in heard[:_CONFIRM_AT_ONCE]:
            _tell_use(sock, neighbour)


def _tell_use(sock: socket.socket, neighbour: Neighbour) -> None:
    """Say that a frame is for a neighbour: the kernel asks for one that it does not know, or is no longer sure of."""
    index, address = neighbour
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    head = _NDMSG.pack(family, 0, 0, index, 0, _NTF_USE, 0)
    sock.send(packed(_NEW_NEIGHBOUR, _CREATE, head + attribute(_NDA_DST, socket.inet_pton(family, address))))


def _link(entry: Any) -> Link | None:
    address = entry.get_attr("IFLA_ADDRESS") if entry["ifi_type"] == _ETHERNET else ""
    usable = bool(address) or entry["ifi_type"] in BARE
    if not (entry["flags"] & 1 and usable) or entry.get_attr("IFLA_MASTER"):  # a bridge or bond has its ports' frames
        return None
    link_address = bytes.fromhex(address.replace(":", ""))
    kind = (entry.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "") if entry.get_attr("IFLA_LINKINFO") else ""
    elsewhere = kind == "veth" and entry.get_attr("IFLA_LINK_NETNSID") is not None
    unqueued = entry.get_attr("IFLA_QDISC") == "noqueue"
    mtu, name = entry.get_attr("IFLA_MTU"), entry.get_attr("IFLA_IFNAME")
    return Link(entry["index"], name, link_address, mtu, kind, elsewhere and unqueued)


def _address(entry: Any) -> Address:
    return ip_address(entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS"))


def _way(sock: socket.socket, address: Address, links: Mapping[int, Link]) -> Neighbour | None:
    """Return the neighbour that an address is reached by, or None without a route by one of our interfaces.

    Without one, the member is dropped to with a reason until there is one.
    """
    family = _FAMILIES[address.version]
    head = _RTMSG.pack(family, address.max_prefixlen, *(0,) * 7)
    answer = asked(sock, _GET_ROUTE, head + attribute(_RTA_DST, address.packed))
    found = attributes(answer[_RTMSG.size :]) if answer is not None else {}
    (index,) = _INDEX.unpack(found.get(_RTA_OIF, bytes(_INDEX.size)))
    gateway = found.get(_RTA_GATEWAY)
    return (index, str(address) if gateway is None else socket.inet_ntop(family, gateway)) if index in links else None


def _next_hop(way: Neighbour, links: Mapping[int, Link], known: Mapping[Neighbour, bytes]) -> NextHop | None:
    link, link_address = links[way[0]], known.get(way)
    return None if link_address is None else NextHop(link.index, link_address, link.address, link.mtu)
