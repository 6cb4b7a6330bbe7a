"""What the proxy sets up in the host so that packets for addresses that are not the host's reach its sockets.

Three things, all of them the proxy's own and none shared with anybody:

  * routing table 9180 with a `local` route per VIP that the host does not own, consulted by one rule: clients'
    packets to the VIP are delivered here, and ARP requests for it are answered. An IPv6 VIP inside an interface's
    prefix is added to that interface as a deprecated /128, because neighbour discovery asks for an address.
  * routing table 9181 with a `local` default route, consulted for packets that carry the firewall mark: members'
    replies to the client's address are delivered here and not forwarded.
  * the nftables table `inet asynclb`: it sets that mark on packets that belong to a transparent socket, and drops
    what clients send to a VIP on ports that no rule serves, which would otherwise reach the host's own services.

Laws:
  1. Everything carries the proxy's table numbers, its route protocol or its table name, so what a killed instance
     left behind is found and removed at the next start, and nothing else is.
  2. One instance per network namespace: an abstract UNIX socket is held for as long as the process lives.
  3. An address that the host owns gets no route and no drop rule: its other services are none of our business.
  4. What somebody else has removed (`nft flush ruleset`, a network manager that keeps rules its own) is set up again.

Source: Documentation/networking/tproxy.rst; ip-rule(8); nft(8), section SOCKET EXPRESSION.
"""

import errno
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from asynclb.datapath.host import take_namespace
from asynclb.datapath.nft import Nftables
from asynclb.errors import HostError
from asynclb.net.address import Address
from asynclb.net.flow import PROTOCOL_NUMBERS
from asynclb.tables.row import FrontendKey

if TYPE_CHECKING:
    from pyroute2 import IPRoute  # type: ignore[import-untyped]  # pyroute2 ships no types

VIP_TABLE = 9180
RETURN_TABLE = 9181
VIP_PRIORITY = 9180  # before the main table (32766), after the host's own local table (0)
RETURN_PRIORITY = 9179
MARK = 0x2000_0000
"""One bit, and only that bit is set and compared, so other users' marks pass untouched."""
ROUTE_PROTOCOL = 91
"""Marks routes, rules and addresses as ours (`ip route show proto 91`); unassigned in rtnetlink(7)."""
NFT_TABLE = "asynclb"
_LAST = 300
"""The chain's priority: behind chains that set a whole mark, and behind DNAT, whose destinations are not ours."""

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EACCES)  # not in the kernel; switched off by disable_ipv6
_LOOPBACK = {4: "127.0.0.1", 6: "::1"}
_UNSPECIFIED = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104  a prefix, not a listener
_RTN_LOCAL = 2  # linux/rtnetlink.h
_RT_SCOPE_HOST = 254
_FR_ACT_TO_TBL = 1  # linux/fib_rules.h
_IFA_F_NODAD = 0x02  # linux/if_addr.h

# Protocols are numbers (1 ICMP, 6 TCP, 17 UDP, 58 ICMPv6), because slim images have no /etc/protocols to name them.
# No packet visits the chain `reassembly`. That it holds a tproxy statement makes the kernel put fragments together
# before the other chain sees them (net/netfilter/nft_tproxy.c enables nf_defrag); later fragments carry no ports.
_NO_TABLE = f"add table inet {NFT_TABLE}\ndelete table inet {NFT_TABLE}"
_TABLE = f"""{_NO_TABLE}
table inet {NFT_TABLE} {{
  counter no_rule {{ }}
  set vips4 {{ type ipv4_addr; }}
  set vips6 {{ type ipv6_addr; }}
  set served4 {{ type ipv4_addr . inet_proto . inet_service; }}
  set served6 {{ type ipv6_addr . inet_proto . inet_service; }}
  chain reassembly {{
    meta l4proto 17 meta nfproto ipv4 tproxy ip to :1
    meta l4proto 17 meta nfproto ipv6 tproxy ip6 to :1
  }}
  chain prerouting {{
    type filter hook prerouting priority {_LAST}; policy accept;
    meta l4proto {{ 6, 17 }} socket transparent 1 meta mark set meta mark or {MARK:#x} accept
    ip daddr @vips4 meta l4proto {{ 6, 17 }} ip daddr . meta l4proto . th dport @served4 accept
    ip6 daddr @vips6 meta l4proto {{ 6, 17 }} ip6 daddr . meta l4proto . th dport @served6 accept
    ip daddr @vips4 meta l4proto != 1 counter name no_rule drop
    ip6 daddr @vips6 meta l4proto != 58 counter name no_rule drop
  }}
}}
"""


class Plumbing:
    """Routes, rules, addresses and packet filter of the proxy in this network namespace.

    Owner: the datapath; every method blocks for some milliseconds and belongs into a thread, one at a time.
    """

    def __init__(self) -> None:
        self._nft: Nftables | None = None
        self._lock: socket.socket | None = None
        self._mutex = threading.Lock()  # a cancelled caller leaves its call running
        self._foreign: set[Address] = set()
        self._keys: frozenset[FrontendKey] = frozenset()
        self._held: frozenset[Address] = frozenset()
        self._rules = 0

    @property
    def is_open(self) -> bool:
        """Whether anything is set up."""
        return self._lock is not None

    @property
    def _filter(self) -> Nftables:
        if self._nft is None:
            message = "the plumbing is not open"
            raise RuntimeError(message)
        return self._nft

    def sweep(self) -> list[str]:
        """Remove what a killed instance left in this namespace; return a description of each thing.

        A namespace that another instance works in is left alone.
        """
        try:
            lock = take_namespace("proxy")
        except HostError:
            return []
        with lock, _netlink() as ip:
            removed = _remove_all(ip)
            with suppress(HostError):  # no nftables here: then nothing of it was left behind either
                _run(Nftables(), _NO_TABLE)
        return removed

    def open(self) -> None:
        """Take the namespace and set up what does not depend on rules.

        Raises: HostError -> another instance runs here, or the kernel lacks something; nothing is left behind.
        """
        self._nft = Nftables()
        self._lock = take_namespace("proxy")
        try:
            with self._mutex, _netlink() as ip:
                self._set_up(ip)
        except BaseException:
            self.close()
            raise

    def update(self, keys: frozenset[FrontendKey], held: frozenset[Address] = frozenset()) -> None:
        """Make exactly these keys deliverable, and `held` addresses too: flows that are open on them need answers.

        Raises: HostError -> the kernel refused; what was there before still is.
        """
        with self._mutex:
            if self._lock is None or (keys, held) == (self._keys, self._held):
                return
            with _netlink() as ip, _explained():
                self._repair(ip)
                addresses = {key.address for key in keys} | held
                owned = _owned_addresses(ip) - self._foreign
                foreign = {address for address in addresses - owned if not address.is_loopback}
                self._exchange(ip, foreign, keys)
            self._foreign, self._keys, self._held = foreign, keys, held

    def repair(self) -> bool:
        """Set up again what somebody else has removed; return whether anything was.

        Raises: HostError -> the kernel refused.
        """
        with self._mutex:
            if self._lock is None:
                return False
            with _netlink() as ip, _explained():
                return self._repair(ip)

    def _set_up(self, ip: "IPRoute") -> None:
        _remove_all(ip)
        _run(self._filter, f"{_TABLE}\n{_fill_sets(self._foreign, self._keys)}")
        for version in _FAMILIES:
            _setup_family(ip, version)
        for address in self._foreign:
            _add_vip(ip, address)
        self._rules = len(_own_rules(ip))

    def _repair(self, ip: "IPRoute") -> bool:
        try:
            self.no_rule_drops()
        except OSError:
            intact = False
        else:
            intact = len(_own_rules(ip)) == self._rules
        if not intact:
            self._set_up(ip)
        return not intact

    def _exchange(self, ip: "IPRoute", foreign: set[Address], keys: frozenset[FrontendKey]) -> None:
        """Let new addresses in, then change the filter in one step, then let old addresses go."""
        done: list[Address] = []
        try:
            for address in sorted(foreign - self._foreign, key=str):
                done.append(address)
                _add_vip(ip, address)
            _run(self._filter, _fill_sets(foreign, keys))
        except BaseException:
            for address in done:
                _remove_vip(ip, address)
            raise
        for address in self._foreign - foreign:
            _remove_vip(ip, address)

    def no_rule_drops(self) -> int:
        """Return how many packets to VIPs were dropped because no rule serves their port or protocol."""
        words = self._filter.run(f"list counter inet {NFT_TABLE} no_rule").split()
        return int(words[words.index("packets") + 1])

    def close(self) -> None:
        """Remove everything and give the namespace back."""
        with self._mutex:
            if self._lock is None:
                return
            with _netlink() as ip:
                _remove_all(ip)
            with suppress(HostError):
                _run(self._filter, _NO_TABLE)
            self._foreign, self._keys, self._held = set(), frozenset(), frozenset()
            self._lock.close()
            self._lock = None


def _netlink() -> "IPRoute":
    from pyroute2 import IPRoute

    return IPRoute()


@contextmanager
def _explained() -> Iterator[None]:
    """Make a refusal of the kernel one that an operator understands."""
    from pyroute2 import NetlinkError

    try:
        yield
    except NetlinkError as error:
        message = (
            f"the kernel refused a route or an address of a VIP ({error}); see that CAP_NET_ADMIN is there, and that "
            "IPv6 is enabled (net.ipv6.conf.all.disable_ipv6) where a frontend has an IPv6 address"
        )
        raise HostError(message) from error


def _run(nft: Nftables, commands: str) -> None:
    try:
        nft.run(commands)
    except OSError as error:
        message = (
            f"the kernel refused the proxy's nftables rules ({error.strerror}); transparent rules need CAP_NET_ADMIN "
            "and the modules nft_socket and nft_tproxy (`modprobe nft_socket nft_tproxy`), or set `transparent: false`"
        )
        raise HostError(message) from error


def _setup_family(ip: "IPRoute", version: int) -> None:
    from pyroute2 import NetlinkError

    family = _FAMILIES[version]
    common = {"family": family, "protocol": ROUTE_PROTOCOL, "action": _FR_ACT_TO_TBL}
    try:
        ip.rule("add", table=RETURN_TABLE, priority=RETURN_PRIORITY, fwmark=MARK, fwmask=MARK, **common)
        ip.rule("add", table=VIP_TABLE, priority=VIP_PRIORITY, **common)
        _add_local_route(ip, RETURN_TABLE, _ANYWHERE[version], version)
    except NetlinkError as error:
        if version == 6 and error.code in _NO_IPV6:
            return  # an IPv6 frontend is refused when its address is set up
        message = f"the kernel refused the proxy's routing rules ({error}); transparent rules need CAP_NET_ADMIN"
        raise HostError(message) from error


def _add_local_route(ip: "IPRoute", table: int, prefix: str, version: int) -> None:
    scope = {"scope": _RT_SCOPE_HOST} if version == 4 else {}
    loopback = ip.link_lookup(ifname="lo")[0]
    # What this host's own programs speak with towards a VIP: an address that is not the host's would be refused.
    source = {"prefsrc": _LOOPBACK[version]} if table == VIP_TABLE else {}
    where = {"oif": loopback, "table": table, "family": _FAMILIES[version], **scope, **source}
    ip.route("replace", dst=prefix, type=_RTN_LOCAL, proto=ROUTE_PROTOCOL, **where)


def _add_vip(ip: "IPRoute", address: Address) -> None:
    _add_local_route(ip, RETURN_TABLE, _ANYWHERE[address.version], address.version)  # IPv6 may be on only since now
    _add_local_route(ip, VIP_TABLE, f"{address}/{address.max_prefixlen}", address.version)
    if address.version == 6:
        interface = _on_link(ip, address)
        if interface is not None:
            forever = 0xFFFF_FFFF
            ip.addr(
                "replace", index=interface, address=str(address), prefixlen=128, flags=_IFA_F_NODAD,
                preferred_lft=0, valid_lft=forever, proto=ROUTE_PROTOCOL,
            )  # fmt: skip


def _remove_vip(ip: "IPRoute", address: Address) -> None:
    for route in _own_routes(ip, VIP_TABLE, address.version):
        if ip_address(route.get_attr("RTA_DST")) == address:
            ip.route("del", **_as_request(route))
    for found in _own_addresses(ip):
        if ip_address(found.get_attr("IFA_ADDRESS")) == address:
            ip.addr("del", index=found["index"], address=str(address), prefixlen=found["prefixlen"])


def _on_link(ip: "IPRoute", address: Address) -> int | None:
    """Return the interface whose prefix holds the address."""
    for found in ip.get_addr(family=_FAMILIES[address.version]):
        network = ip_network((found.get_attr("IFA_ADDRESS"), found["prefixlen"]), strict=False)
        if address in network and found["prefixlen"] < address.max_prefixlen:
            return int(found["index"])
    return None


def _owned_addresses(ip: "IPRoute") -> set[Address]:
    """Return the host's own addresses: what the kernel's local table delivers here."""
    return {ip_address(found.get_attr("IFA_LOCAL") or found.get_attr("IFA_ADDRESS")) for found in ip.get_addr()}


def _own_rules(ip: "IPRoute") -> list[Any]:
    rules = [rule for family in _FAMILIES.values() for rule in ip.get_rules(family=family)]
    tables = (VIP_TABLE, RETURN_TABLE)
    return [
        rule
        for rule in rules
        if rule.get_attr("FRA_PROTOCOL") == ROUTE_PROTOCOL and rule.get_attr("FRA_TABLE") in tables
    ]


def _own_routes(ip: "IPRoute", table: int, version: int) -> list[Any]:
    routes = ip.get_routes(family=_FAMILIES[version], table=table)
    return [route for route in routes if route["proto"] == ROUTE_PROTOCOL]


def _own_addresses(ip: "IPRoute") -> list[Any]:
    return [found for found in ip.get_addr() if found.get_attr("IFA_PROTO") == ROUTE_PROTOCOL]


def _as_request(route: Any) -> dict[str, Any]:
    return {
        "dst": f"{route.get_attr('RTA_DST') or _UNSPECIFIED[route['family']]}/{route['dst_len']}",
        "table": route.get_attr("RTA_TABLE"),
        "type": route["type"],
        "proto": ROUTE_PROTOCOL,
        "scope": route["scope"],
        "family": route["family"],
    }


def _remove_all(ip: "IPRoute") -> list[str]:
    """Remove everything that carries our marks; return what it was."""
    removed = []
    for rule in _own_rules(ip):
        table, priority = rule.get_attr("FRA_TABLE"), rule.get_attr("FRA_PRIORITY")
        ip.rule("del", family=rule["family"], table=table, priority=priority, protocol=ROUTE_PROTOCOL)
        removed.append(f"rule {priority} (IPv{4 if rule['family'] == socket.AF_INET else 6})")
    for version in _FAMILIES:
        for table in (VIP_TABLE, RETURN_TABLE):
            for route in _own_routes(ip, table, version):
                request = _as_request(route)
                ip.route("del", **request)
                removed.append(f"route {request['dst']} in table {table}")
    for found in _own_addresses(ip):
        address = found.get_attr("IFA_ADDRESS")
        ip.addr("del", index=found["index"], address=address, prefixlen=found["prefixlen"])
        removed.append(f"address {address}")
    return removed


def _fill_sets(foreign: Iterable[Address], keys: Iterable[FrontendKey]) -> str:
    """Return the commands that make the sets hold exactly these VIPs and served ports."""
    lines = []
    vips = sorted(foreign, key=str)
    for version in _FAMILIES:
        here = [str(address) for address in vips if address.version == version]
        served = sorted(
            f"{key.address} . {PROTOCOL_NUMBERS[key.protocol]} . {key.port}"
            for key in keys
            if key.address.version == version and key.address in vips
        )
        for name, elements in ((f"vips{version}", here), (f"served{version}", served)):
            lines.append(f"flush set inet {NFT_TABLE} {name}")
            if elements:
                lines.append(f"add element inet {NFT_TABLE} {name} {{ {', '.join(elements)} }}")
    return "\n".join(lines)
