"""What a host has on the wire: interfaces, its own addresses, and the next hops of addresses that are wanted. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from asynclb.datapath.core.values import NextHop
from asynclb.net.address import Address

Neighbour = tuple[int, str]
"""(interface index, address)"""


@dataclass(frozen=True, slots=True)
class Link:
    """An interface that frames can come and go by."""

    index: int
    name: str
    address: bytes
    """Empty where frames have no link header, as in most tunnels."""
    mtu: int
    kind: str = ""
    """What makes it a virtual device, as `veth`; empty for a real one."""
    is_elsewhere: bool = False
    """Whether it is a veth whose other end is in another network namespace, and no qdisc shapes what leaves by it."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the kernel knows: usable interfaces by index, the host's addresses by interface, and next hops."""

    links: Mapping[int, Link]
    addresses: Mapping[Address, int]
    prefixes: tuple[tuple[Any, int], ...]
    """(network, interface index) of every attached network."""
    hops: Mapping[Address, NextHop]
    """Wanted address -> resolved next hop; what is missing is not resolved or has no route."""
    ways: Mapping[Address, Neighbour] = field(default_factory=dict, compare=False)
    """Wanted address -> the neighbour that it is reached by, resolved or not."""
    bare: Mapping[int, Link] = field(default_factory=dict)
    """Usable interfaces without link addresses, by index: only the kernel sends there, and nobody need be resolved."""

    @property
    def every_link(self) -> dict[int, Link]:
        """Usable interfaces with and without link addresses, by index."""
        return {**self.links, **self.bare}

    def next_hop(self, address: Address) -> NextHop | None:
        """Return the next hop of an address; by an interface without link addresses, one that is never resolved."""
        link = self.bare.get(self.ways[address][0]) if self.bare and address in self.ways else None
        return self.hops.get(address) if link is None else NextHop(link.index, bytes(6), bytes(6), link.mtu, False)

    def unresolved(self, wanted: Collection[Address]) -> frozenset[Address]:
        """Return those of these addresses whose neighbour is still to be found."""
        there = {address for address, way in self.ways.items() if way[0] in self.bare}
        return frozenset(address for address in wanted if address not in self.hops and address not in there)

    def without(self, gone: Collection[int]) -> "Surroundings":
        """Return what is left when these interfaces have gone."""
        return Surroundings(
            links={index: link for index, link in self.links.items() if index not in gone},
            addresses={address: index for address, index in self.addresses.items() if index not in gone},
            prefixes=tuple((network, index) for network, index in self.prefixes if index not in gone),
            hops={address: hop for address, hop in self.hops.items() if hop.ifindex not in gone},
            ways={address: way for address, way in self.ways.items() if way[0] not in gone},
            bare={index: link for index, link in self.bare.items() if index not in gone},
        )

    def homes(self, addresses: Collection[Address]) -> set[tuple[Address, int]]:
        """Return (address, interface index) for each network that has one of them, but for the host's own."""
        foreign = set(addresses) - self.addresses.keys()
        return {(address, index) for address in foreign for network, index in self.prefixes if address in network}
