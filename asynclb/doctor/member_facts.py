"""What is so on a member. All of its doctor's I/O is here, and none of its judgement."""

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute  # type: ignore[import-untyped]  # it has no annotations
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]  # as above

from asynclb.net.address import Address

_NET = Path("/proc/sys/net")
_LISTENING = {"tcp": "0A", "udp": "07"}  # states in /proc/net: TCP_LISTEN, and a socket that is not connected
_UP, _LOOPBACK, _NOARP = 1, 8, 0x80  # linux/if.h
_TENTATIVE, _DAD_FAILED = 0x40, 0x08  # linux/if_addr.h
COMMON = ("rp_filter", "arp_ignore", "arp_announce")


@dataclass(frozen=True, slots=True)
class Port:
    """An interface of a member. `settings` are in force: the larger of its own and that of `all`."""

    name: str
    mtu: int
    outside: bool
    """It is up and asks for link addresses: neighbours are behind it."""
    settings: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Owned:
    """An address on an interface."""

    address: Address
    prefix: int
    port: str
    outside: bool
    doubted: bool = False
    """IPv6: duplicate address detection has not ended, or has failed."""


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """Everything that the checks of a member look at."""

    ports: tuple[Port, ...]
    owned: tuple[Owned, ...]
    listeners: frozenset[tuple[str, Address]]
    """(protocol, address) of whoever listens on the port that was asked about."""
    gateway: str = ""
    """What a packet to everybody else is given to: `10.0.2.1 by eth0`, or '' for nobody."""
    dual: bool = True
    """A socket on `::` takes IPv4 as well."""
    ipv6_off: bool = False
    """The loopback takes no IPv6 addresses."""


def gather_member(vip: Address, port: int | None) -> MemberFacts:
    """Look at the host, or the network namespace, that this thread is in."""
    with IPRoute() as netlink:
        links = list(netlink.get_links())
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in links}
        ports = tuple(_port(link) for link in links)
        outside = {found.name for found in ports if found.outside}
        owned = tuple(_owned(netlink, names, outside))
        gateway = _gateway(netlink, names, vip)
    return MemberFacts(
        ports=ports,
        owned=owned,
        listeners=frozenset(_listeners(port)) if port is not None else frozenset(),
        gateway=gateway,
        dual=_number("ipv6/bindv6only") == 0,
        ipv6_off=_number("ipv6/conf/lo/disable_ipv6") == 1,
    )


def _port(link: Any) -> Port:
    name, flags = link.get_attr("IFLA_IFNAME"), link["flags"]
    settings = {
        key: max(_number(f"ipv4/conf/all/{key}"), _number(f"ipv4/conf/{name}/{key}")) for key in COMMON
    }  # Source: IN_DEV_MAXCONF in linux/inetdevice.h
    outside = bool(flags & _UP) and not flags & (_LOOPBACK | _NOARP)
    return Port(name, link.get_attr("IFLA_MTU") or 0, outside, settings)


def _owned(netlink: Any, names: Mapping[int, str], outside: set[str]) -> Iterator[Owned]:
    for entry in netlink.get_addr():
        name = names.get(entry["index"], "")
        text = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
        flags = entry.get_attr("IFA_FLAGS") or entry["flags"]
        doubted = bool(flags & (_TENTATIVE | _DAD_FAILED))
        yield Owned(ip_address(text), entry["prefixlen"], name, name in outside, doubted)


def _gateway(netlink: Any, names: Mapping[int, str], vip: Address) -> str:
    """Return where packets to addresses that nobody here knows go. Source: RFC 5737, RFC 3849."""
    stranger = "192.0.2.1" if vip.version == 4 else "2001:db8:ffff::1"
    try:
        (route, *_) = netlink.route("get", dst=stranger)
    except (NetlinkError, ValueError):
        return ""
    name = names.get(route.get_attr("RTA_OIF"), "")
    return f"{route.get_attr('RTA_GATEWAY') or 'everybody directly'} by {name}"


def _listeners(port: int) -> Iterator[tuple[str, Address]]:
    """Yield who listens on a port. Source: proc_net_tcp.rst."""
    for protocol, state in _LISTENING.items():
        for table in (protocol, f"{protocol}6"):
            try:
                lines = Path(f"/proc/thread-self/net/{table}").read_text(encoding="ascii").splitlines()[1:]
            except FileNotFoundError:  # a kernel without IPv6
                continue
            for line in lines:
                _, local, _, found, *_ = line.split()
                address, _, number = local.partition(":")
                if found == state and int(number, 16) == port:
                    yield protocol, _unpacked(address)


def _unpacked(text: str) -> Address:
    """Return an address of /proc/net: 32-bit words as this processor has them; an IPv4 one in IPv6 as IPv4."""
    words = [socket.htonl(int(text[at : at + 8], 16)).to_bytes(4, "big") for at in range(0, len(text), 8)]
    address = ip_address(b"".join(words))
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _number(name: str) -> int:
    try:
        return int((_NET / name).read_text(encoding="ascii"))
    except OSError:  # a kernel without IPv6, or an interface that has gone
        return 0
