"""What keeps the host's own stack from seeing, and answering, the frames that the datapath handles.

A packet socket gets a copy; the original goes on into the host, which would reset connections to a VIP or route
replies of members untranslated. An nftables chain at the ingress of each interface, which comes after the packet
sockets, drops exactly what the core takes.

The chain says what `process()` says, in the same order:

  1. neighbour discovery and multicast are the host's
  2. to a frontend on a served port, or on any port of an HA-ports frontend: the core's
  3. to the host's own addresses: the host's
  4. to a VIP that the host does not own: the core's, which drops it with a reason
  5. from a member on a port that a rule delivers to: the core's
  6. anything else by an interface that routes: the core's; by any other: the host's

Source: nft(8), netdev family; net/core/dev.c, __netif_receive_skb_core (taps before nf_ingress).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from asynclb.net.address import Address
from asynclb.net.flow import Protocol
from asynclb.tables.row import Delivery, Row

TABLE = "asynclb_packet"
NO_TABLE = f"add table netdev {TABLE}\ndelete table netdev {TABLE}"

Port = tuple[Address, str, int]
"""(address, protocol, port)"""


@dataclass(frozen=True, slots=True)
class Guarded:
    """What the core takes, as far as the packet filter can know."""

    interfaces: tuple[str, ...]
    routed_interfaces: tuple[tuple[str, int], ...]
    """(interface, IP version)"""
    served: frozenset[Port]
    open_vips: frozenset[Address]
    """Frontends with HA ports."""
    vips: frozenset[Address]
    own: frozenset[Address]
    replies: frozenset[Port]
    """(member, protocol, port) that `nat` rules deliver to."""
    open_members: frozenset[Address]
    """Members of `nat` HA-ports rules."""

    def __or__(self, other: "Guarded") -> "Guarded":
        """Return what either of the two takes: for the moment between one generation and the next."""
        return Guarded(
            interfaces=tuple(sorted({*self.interfaces, *other.interfaces})),
            routed_interfaces=tuple(sorted({*self.routed_interfaces, *other.routed_interfaces})),
            served=self.served | other.served,
            open_vips=self.open_vips | other.open_vips,
            vips=self.vips | other.vips,
            own=self.own & other.own,
            replies=self.replies | other.replies,
            open_members=self.open_members | other.open_members,
        )


def guarded(rows: Collection[Row], interfaces: tuple[str, ...], own: frozenset[Address]) -> Guarded:
    """Return what the core takes of these rows' traffic."""
    translated = [row for row in rows if row.delivery is Delivery.NAT]
    exact = [row for row in rows if row.key.protocol is not Protocol.ALL]
    vips = frozenset(row.key.address for row in rows)
    return Guarded(
        interfaces=tuple(sorted(interfaces)),
        routed_interfaces=tuple(
            sorted((row.frontend.interface or "", row.key.address.version) for row in rows if row.frontend.routed)
        ),
        served=frozenset((row.key.address, str(row.key.protocol), row.key.port) for row in exact),
        open_vips=frozenset(row.key.address for row in rows if row.key.protocol is Protocol.ALL),
        vips=vips - own,
        own=own,
        replies=frozenset(
            (member.address, str(row.key.protocol), row.rule.backend_port or row.key.port)
            for row in translated
            if row.key.protocol is not Protocol.ALL
            for member in row.pool.members
        ),
        open_members=frozenset(
            member.address for row in translated if row.key.protocol is Protocol.ALL for member in row.pool.members
        ),
    )


def ruleset(guarded: Guarded) -> str:
    """Return the commands that replace the table in one transaction."""
    if not guarded.interfaces:
        return NO_TABLE
    devices = ", ".join(f'"{name}"' for name in guarded.interfaces)
    sets = [text for version in (4, 6) for text in _sets(guarded, version)]
    rules = [
        "icmpv6 type { 133, 134, 135, 136, 137 } accept",
        "ip daddr 224.0.0.0/4 accept",
        "ip6 daddr ff00::/8 accept",
    ]
    for version in (4, 6):
        rules += _rules(version)
    rules += [
        f'iifname "{name}" meta protocol {"ip" if version == 4 else "ip6"} counter drop'
        for name, version in guarded.routed_interfaces
    ]
    return "\n".join(
        [
            NO_TABLE,
            f"table netdev {TABLE} {{",
            *(f"  {line}" for line in sets),
            "  chain ingress {",
            f"    type filter hook ingress devices = {{ {devices} }} priority -400; policy accept;",
            *(f"    {line}" for line in rules),
            "  }",
            "}",
        ]
    )


def _rules(version: int) -> Iterable[str]:
    ip = "ip" if version == 4 else "ip6"
    return (
        f"{ip} daddr . meta l4proto . th dport @served{version} counter drop",
        f"{ip} daddr @open{version} counter drop",
        f"{ip} daddr @own{version} accept",
        f"{ip} daddr @vips{version} counter drop",
        f"{ip} saddr . meta l4proto . th sport @replies{version} counter drop",
        f"{ip} saddr @members{version} counter drop",
    )


def _sets(guarded: Guarded, version: int) -> Iterable[str]:
    address = f"ipv{version}_addr"
    port = f"{address} . inet_proto . inet_service"
    for name, kind, elements in (
        ("served", port, _ports(guarded.served, version)),
        ("open", address, _addresses(guarded.open_vips, version)),
        ("own", address, _addresses(guarded.own, version)),
        ("vips", address, _addresses(guarded.vips, version)),
        ("replies", port, _ports(guarded.replies, version)),
        ("members", address, _addresses(guarded.open_members, version)),
    ):
        listed = f" elements = {{ {', '.join(elements)} }};" if elements else ""
        yield f"set {name}{version} {{ type {kind};{listed} }}"


def _addresses(addresses: Collection[Address], version: int) -> list[str]:
    return sorted(str(address) for address in addresses if address.version == version)


def _ports(ports: Collection[Port], version: int) -> list[str]:
    return sorted(f"{address} . {protocol} . {port}" for address, protocol, port in ports if address.version == version)
