"""What tables stand on: interfaces, how programs are attached there, and what is known of neighbours. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from asynclb.datapath.core.values import NextHop
from asynclb.datapath.frames.numbers import member_addresses
from asynclb.datapath.frames.surroundings import Link, Surroundings
from asynclb.datapath.kernel.features import XdpFeatures
from asynclb.datapath.kernel.peers import peers
from asynclb.datapath.kernel.ways import Wanted, needed, towards_members, wanted
from asynclb.tables.row import Delivery, Row


@dataclass(frozen=True, slots=True)
class Footing:
    """What tables stand on."""

    links: Mapping[int, Link]
    interfaces: Mapping[int, Wanted]
    targets: frozenset[int]
    """Interfaces that XDP can redirect to."""
    peers: frozenset[int]
    """Interfaces whose frames tc hands to the other end at once."""
    hops: Mapping[int, NextHop | None]
    """By number; None is not resolved."""
    appliances: frozenset[bytes]
    """Link addresses of members that frames are routed through."""


def footing_of(
    rows: Collection[Row],
    around: Surroundings,
    features: XdpFeatures,
    wishes: Mapping[str, str],
    barred: Collection[int],
    *,
    hops: Mapping[int, NextHop | None],
    outbound: bool,
) -> Footing:
    """Return what tables of these rows stand on.

    `wishes` are where programs are to be attached, by an interface's name; `barred` are interfaces whose frames are
    not handed on; `outbound`: members' own connections may come by every interface.
    """
    links = around.every_link if outbound else needed(rows, around, wishes)
    bound = towards_members([row for row in rows if row.delivery is not Delivery.NAT], around)
    return Footing(
        links=around.every_link,
        interfaces=wanted(links, wishes, features.native, features.targets, bound),
        targets=features.targets,
        peers=peers(around.links, wishes, barred),
        hops=hops,
        appliances=_appliances(rows, around),
    )


def _appliances(rows: Iterable[Row], around: Surroundings) -> frozenset[bytes]:
    """Return the link addresses of the members that frames are routed through."""
    addresses = member_addresses(row for row in rows if row.delivery is Delivery.ROUTED)
    return frozenset(around.hops[address].destination for address in addresses if address in around.hops)
