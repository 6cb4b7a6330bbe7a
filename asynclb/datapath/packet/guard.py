"""What keeps the host's own stack from seeing, and answering, the frames that the datapath handles.

A packet socket gets a copy; the original goes on into the host, which would reset connections to a VIP or route
replies of members untranslated. An nftables chain at the ingress of each interface, which comes after the packet
sockets, drops exactly what the core takes; `ruleset` has its text.

The chain says what `process()` says, in the same order:

  1. neighbour discovery and multicast are the host's
  2. to a frontend on a served port, or on any port of an HA-ports frontend: the core's
  3. to the host's own addresses: the host's
  4. to a VIP that the host does not own: the core's, which drops it with a reason
  5. from a member of an outbound rule to others than members and its direct destinations: the core's
  6. from a member on a port that a rule delivers to: the core's, if it belongs to a flow of the core
  7. anything else by an interface that routes: the core's; by any other: the host's

Source: nft(8), netdev family; net/core/dev.c, __netif_receive_skb_core (taps before nf_ingress).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from asynclb.net.address import Address, Prefix
from asynclb.net.flow import Protocol
from asynclb.tables.row import Delivery, Row
from asynclb.tables.snat import SnatRule

Port = tuple[Address, str, int]
"""(address, protocol, port)"""


@dataclass(frozen=True, slots=True)
class Guarded:
    """What the core takes, as far as the packet filter can know."""

    interfaces: tuple[tuple[str, int], ...]
    """(name, index): one that vanished and came back under its name is another one to the filter."""
    routed_interfaces: tuple[tuple[str, int], ...]
    """(interface, IP version)"""
    served: frozenset[Port]
    open_vips: frozenset[Address]
    """Frontends with HA ports."""
    vips: frozenset[Address]
    own: frozenset[Address]
    replies: frozenset[Port]
    """(address, protocol, port) that members answer from and that the core writes back."""
    members: frozenset[Address]
    """Members of `nat` rules, and VIPs whose members answer from another port of theirs."""
    open_members: frozenset[Address]
    """Members of `nat` HA-ports rules."""
    idle_s: int = 0
    """The longest idle timeout."""
    outbound: tuple[tuple[frozenset[Address], frozenset[Prefix]], ...] = ()
    """(members of outbound rules, where they go with their own address)"""

    def __or__(self, other: "Guarded") -> "Guarded":
        """Return what either of the two takes on the other's interfaces: for the moment between two generations."""
        return Guarded(
            interfaces=other.interfaces,
            routed_interfaces=tuple(sorted({*self.routed_interfaces, *other.routed_interfaces})),
            served=self.served | other.served,
            open_vips=self.open_vips | other.open_vips,
            vips=self.vips | other.vips,
            own=self.own & other.own,
            replies=self.replies | other.replies,
            members=self.members | other.members,
            open_members=self.open_members | other.open_members,
            idle_s=max(self.idle_s, other.idle_s),
            outbound=(*self.outbound, *(pair for pair in other.outbound if pair not in self.outbound)),
        )


def guarded(
    rows: Collection[Row],
    interfaces: Iterable[tuple[str, int]],
    own: frozenset[Address],
    outbound: Collection[SnatRule] = (),
) -> Guarded:
    """Return what the core takes of these rows' traffic, and of what members open themselves."""
    every = [row for row in rows if row.delivery is Delivery.NAT and row.key.protocol is Protocol.ALL]
    exact = [row for row in rows if row.key.protocol is not Protocol.ALL]
    vips = frozenset(row.key.address for row in rows).union(*(rule.sources for rule in outbound))
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
            (address, str(row.key.protocol), row.member_port) for row in exact for address in row.answers_from
        ),
        members=frozenset(address for row in rows for address in row.answers_from),
        open_members=frozenset(address for row in every for address in row.answers_from),
        idle_s=max((int(row.rule.idle_timeout_s) for row in rows), default=0),
        outbound=_outbound(outbound),
    )


def _outbound(rules: Collection[SnatRule]) -> tuple[tuple[frozenset[Address], frozenset[Prefix]], ...]:
    """Return the members by where they go with their own address; a member's first rule says it for all."""
    found: dict[frozenset[Prefix], set[Address]] = {}
    known: set[Address] = set()
    for rule in rules:
        addresses = {member.address for member in rule.pool.members} - known
        found.setdefault(frozenset(rule.direct), set()).update(addresses)
        known |= addresses
    return tuple((frozenset(members), direct) for direct, members in found.items() if members)
