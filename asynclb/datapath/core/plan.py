"""What an image is made of beside the tables, and what is kept of the last one. Values."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

from asynclb.datapath.core.leaving import MemberName
from asynclb.net.address import Address
from asynclb.tables.row import FrontendKey, Row
from asynclb.tables.snat import SnatRule
from asynclb.tables.tables import PoolTable, Tables


@dataclass(frozen=True, slots=True)
class Leaver:
    """A rule as it was, with the members that only its established TCP connections may still use.

    It closes a frontend that the tables do not have, and hangs on to the entry that takes its traffic otherwise.
    """

    row: Row
    rule: int
    """The rule id that its flows have."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the tables do not say: ids that stay the same while the process lives, and where members are on the wire.

    A member id stands for (pool, name, address): a member that gets another address gets another id, and an id may be
    used again only after `Core.part`.
    """

    rules: Mapping[str, int]
    """Rule name -> rule id, below `Core.max_rules`."""
    members: Mapping[tuple[str, str], int]
    """(pool name, member name) -> member id, below `Core.max_members`; every member of every pool in the tables."""
    next_hops: Mapping[Address, int]
    """Member address -> index for `Core.set_next_hop`. A member without one is dropped to with a reason."""
    routed: Mapping[tuple[int, int], FrontendKey] = field(default_factory=dict)
    """(ingress ifindex, IP version) -> the routed frontend that takes traffic for other addresses."""
    return_hops: Mapping[Address, int] = field(default_factory=dict)
    """Frontend address -> next hop towards clients, used for replies only when there is no flow entry."""
    leaving: tuple[Leaver, ...] = ()
    left: Mapping[MemberName, int] = field(default_factory=dict)
    """The member id of every member of every leaver's pool."""
    local: frozenset[Address] = frozenset()
    """Addresses that the host itself owns: what no rule takes there passes to the host instead of being dropped."""
    sources: Mapping[Address, int] = field(default_factory=dict)
    """Address that members' own connections leave from -> a number of 16 bits, the same for as long as it has any.

    `members` has an id for each member of an outbound rule as well, under the rule's `place` and the member's name.
    """


MemberLists = dict[tuple[str, str, int], tuple[PoolTable, "array[int]"]]
"""(kind, pool, id of the table) -> a list of members that was made of them; and the table, so that it keeps its id."""


@dataclass(slots=True)
class ImageCache:
    """What the last image was made of, and its parts that health does not change. Owner: who calls `build_image`."""

    rows: tuple[Row, ...] = ()
    plan: Plan | None = None
    outbound: tuple[SnatRule, ...] = ()
    places: bytes = b""
    members: bytes = b""
    identities: dict[str, int] = field(default_factory=dict)
    lists: MemberLists = field(default_factory=dict)

    def holds(self, tables: Tables, plan: Plan) -> bool:
        """Return whether the parts are those of these tables: the same rows, under the same numbers."""
        entries = tables.entries
        return (
            self.plan is not None
            and len(entries) == len(self.rows)
            and all(entry.row is row for entry, row in zip(entries.values(), self.rows, strict=True))
            and self.plan == plan
            and self.outbound == tables.outbound
        )
