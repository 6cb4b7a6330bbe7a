"""Flow keys: what names a flow on the wire."""

from dataclasses import dataclass
from enum import StrEnum

from asynclb.net.address import Address, endpoint


class Protocol(StrEnum):
    """The protocols that a rule can name. `ALL` is every IP protocol (HA ports)."""

    TCP = "tcp"
    UDP = "udp"
    ALL = "all"


PROTOCOL_NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17}
"""IP protocol numbers. Source: IANA protocol-numbers."""


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of a connection, as the client side sees it.

    `protocol` is the IP protocol number; ports are 0 for protocols that have none.
    """

    source: Address
    source_port: int
    destination: Address
    destination_port: int
    protocol: int

    def __str__(self) -> str:
        names = {6: "tcp", 17: "udp"}
        name = names.get(self.protocol, f"proto {self.protocol}")
        client = endpoint(self.source, self.source_port)
        return f"{name} {client} > {endpoint(self.destination, self.destination_port)}"
