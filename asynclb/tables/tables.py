"""The tables themselves, as values."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

from asynclb.model import Member
from asynclb.net.address import Address
from asynclb.net.flow import Protocol
from asynclb.tables.row import FrontendKey, Row
from asynclb.tables.snat import SnatRule


@dataclass(frozen=True, slots=True)
class PoolTable:
    """A Maglev table over the eligible members of a pool.

    Shape: `slots` holds `size` indexes into `members`; both are empty when no member is eligible.
    Order: `members` sorted by name.
    """

    members: tuple[Member, ...]
    slots: "array[int]" = field(repr=False)

    @property
    def size(self) -> int:
        """Number of slots."""
        return len(self.slots)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row joined with the table of its pool's eligible members."""

    row: Row
    table: PoolTable


@dataclass(frozen=True, slots=True)
class Tables:
    """One generation of the forwarding tables.

    `entries` is the frontend lookup.
    """

    generation: int
    seed: int
    entries: Mapping[FrontendKey, Entry]
    elsewhere: frozenset[Address] = frozenset()
    """Addresses whose other ports another datapath serves: what no entry here takes is passed on to it."""
    outbound: tuple[SnatRule, ...] = ()
    """What becomes of connections that members open themselves."""

    @property
    def vacant(self) -> bool:
        """Whether there is nothing to execute."""
        return not (self.entries or self.outbound)

    def find(self, key: FrontendKey) -> Entry | None:
        """Return the most specific entry for a frontend: the exact port, else HA ports."""
        exact = self.entries.get(key)
        return exact or self.entries.get(FrontendKey(key.address, 0, Protocol.ALL))


EMPTY_POOL_TABLE = PoolTable((), array("H"))
EMPTY_TABLES = Tables(0, 0, {})
