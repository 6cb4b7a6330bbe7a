"""Ways to the members of the standard lab that are not a plain interface: bridges, bonds, tunnels.

Members keep their addresses; what is between them and the balancer changes. Tunnels run over another network on the
same wire. A kind that this kernel does not have is a reason to skip.
"""

import fcntl
import os
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from select import poll

import pytest

from asynclb.lab import Host, Site
from asynclb.lab.namespace import ip_batch
from asynclb.lab.topology import LB_BACK4, LB_BACK6
from tests.netns.packet_site import address_of

DEVICE = "way"
"""What the balancer's interface towards members is called, where one serves all of them."""

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000  # linux/if_tun.h
_OUTER = "172.16.0.{}"
_LONGEST = 1 << 16
_VXLAN = "vxlan id 7 dstport 4789 dev back"  # which makes its MTU 50 less than that of the wire


class Way(StrEnum):
    """What is between the balancer and its members."""

    BRIDGE = "bridge"
    BOND = "bond"
    MACVLAN = "macvlan"
    VXLAN = "vxlan"
    GRETAP = "gretap"
    TUN = "tun"
    """A tunnel whose packets have no link header, as those of WireGuard and IPIP; a thread carries them."""


@contextmanager
def through(site: Site, way: Way) -> Iterator[tuple[str, ...]]:
    """Put something between the balancer and its members; yield the names of the interfaces that lead to them."""
    if way is Way.TUN:
        with tunnels(site.lb, "back", site.members) as names:
            yield names
        return
    needs(way)
    if way in (Way.VXLAN, Way.GRETAP):
        _encapsulate(site, way)
    else:
        _stack(site.lb, way)
    yield (DEVICE,)


def needs(way: Way) -> None:
    """Skip the test where this kernel has no such devices."""
    words = {Way.VXLAN: "id 1 dstport 4789", Way.GRETAP: "local 127.0.0.1 remote 127.0.0.1"}.get(way, "")
    link = "link lo " if way is Way.MACVLAN else ""
    command = f"ip link set dev lo up && ip link add {link}name probe type {way} {words}"
    tried = subprocess.run(["unshare", "--net", "sh", "-c", command], capture_output=True, text=True, check=False)
    if "Unknown device type" in tried.stderr:
        pytest.skip(f"this kernel has no {way} devices")


def _addresses(device: str, four: str, six: str) -> list[str]:
    return [f"addr add {four}/24 dev {device}", f"addr add {six}/64 dev {device} nodad"]


def _defaults(device: str) -> list[str]:
    return [f"route replace default via {via} dev {device}" for via in (LB_BACK4, LB_BACK6)]


def _stack(lb: Host, way: Way) -> None:
    """Put a device over the balancer's interface, which keeps none of its addresses."""
    kinds = {Way.BRIDGE: "bridge mcast_snooping 0", Way.BOND: "bond mode active-backup", Way.MACVLAN: "macvlan"}
    above = "link back " if way is Way.MACVLAN else ""
    joins = [] if way is Way.MACVLAN else ["link set dev back down", f"link set dev back master {DEVICE}"]
    plan = ["addr flush dev back", f"link add {above}name {DEVICE} type {kinds[way]}", *joins, "link set dev back up"]
    ip_batch([*plan, f"link set dev {DEVICE} up", *_addresses(DEVICE, LB_BACK4, LB_BACK6)], namespace=lb.namespace)


def _encapsulate(site: Site, way: Way) -> None:
    """Put a network of its own over the wire, and the members' addresses there."""
    _outer(site)
    for number, host in enumerate(site.members, 1):
        near = _tunnel(way, f"peer{number}", _OUTER.format(1), _OUTER.format(10 + number))
        far = _tunnel(way, DEVICE, _OUTER.format(10 + number), _OUTER.format(1))
        inner = _addresses(DEVICE, address_of(host), address_of(host, 6))
        ip_batch([far, f"link set dev {DEVICE} up", *inner, *_defaults(DEVICE)], namespace=host.namespace)
        if way is Way.GRETAP:
            ip_batch([near, f"link set dev peer{number} up"], namespace=site.lb.namespace)
    if way is Way.GRETAP:  # a tunnel for each member, and all of them one network
        joined = [f"link set dev peer{number} master {DEVICE}" for number in range(1, len(site.members) + 1)]
        plan = [f"link add name {DEVICE} type bridge mcast_snooping 0", *joined]
    else:
        plan = [f"link add name {DEVICE} type {_VXLAN} local {_OUTER.format(1)}"]
    plan += [f"link set dev {DEVICE} up", *_addresses(DEVICE, LB_BACK4, LB_BACK6)]
    ip_batch(plan, namespace=site.lb.namespace)
    if way is Way.VXLAN:
        for number in range(1, len(site.members) + 1):
            flood = ("bridge", "fdb", "append", "00:00:00:00:00:00", "dev", DEVICE, "dst", _OUTER.format(10 + number))
            subprocess.run(["ip", "netns", "exec", site.lb.namespace, *flood], check=True)


def _tunnel(way: Way, name: str, local: str, remote: str) -> str:
    kind = _VXLAN if way is Way.VXLAN else "gretap"
    return f"link add name {name} type {kind} local {local} remote {remote}"


def _outer(site: Site) -> None:
    """Give the wire addresses that tunnels run between, instead of those that go into them."""
    for number, host in [(1, site.lb), *((10 + n, host) for n, host in enumerate(site.members, 1))]:
        plan = ["addr flush dev back", f"addr add {_OUTER.format(number)}/24 dev back"]
        ip_batch(plan, namespace=host.namespace)


@contextmanager
def tunnels(lb: Host, wire: str, hosts: Sequence[Host]) -> Iterator[tuple[str, ...]]:
    """Reach every host by a tunnel of its own between two TUN devices, and none by the wire; yield the near ends."""
    names = tuple(f"tun{number}" for number in range(1, len(hosts) + 1))
    ip_batch([f"addr flush dev {wire}"], namespace=lb.namespace)
    ends: list[tuple[int, int]] = []
    for name, host in zip(names, hosts, strict=True):
        ends.append((_open_tun(lb, name), _open_tun(host, "tun")))
        towards = [f"route add {address_of(host, version)} dev {name}" for version in (4, 6)]
        own = [f"addr add {address_of(host)}/32 dev tun", f"addr add {address_of(host, 6)}/128 dev tun nodad"]
        home = ["route replace default dev tun", "route replace ::/0 dev tun"]
        ip_batch([f"link set dev {name} up", *towards], namespace=lb.namespace)
        ip_batch([f"addr flush dev {wire}", "link set dev tun up", *own, *home], namespace=host.namespace)
    stop = threading.Event()
    carrier = threading.Thread(target=_carry, args=(ends, stop), name="tunnels")
    carrier.start()
    try:
        yield names
    finally:
        stop.set()
        carrier.join()
        for fd in (fd for pair in ends for fd in pair):
            os.close(fd)


def _open_tun(host: Host, name: str) -> int:
    """Make a TUN device and return the descriptor that its packets come and go by."""
    with host.entered():
        try:
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            pytest.skip("this kernel has no TUN devices")
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return fd


def _carry(ends: list[tuple[int, int]], stop: threading.Event) -> None:
    """Carry packets between the ends of each tunnel."""
    other = {fd: pair[1 - place] for pair in ends for place, fd in enumerate(pair)}
    polled = poll()
    for fd in other:
        polled.register(fd, 1)
    while not stop.is_set():
        for fd, _ in polled.poll(50):
            with suppress(BlockingIOError):
                os.write(other[fd], os.read(fd, _LONGEST))
