"""Tables become the flat image that C reads. (Skeleton: signatures are stable.)"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from asynclb.net.address import Address
from asynclb.tables.row import FrontendKey
from asynclb.tables.tables import Tables


@dataclass(frozen=True, slots=True)
class Plan:
    """What the tables do not say: ids that stay the same while the process lives, and where members are on the wire.

    A member id stands for (pool, name, address): a member that gets another address gets another id, and an id may be
    used again only after `Core.forget_members`.
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
    local: frozenset[Address] = frozenset()
    """Addresses that the host itself owns: what no rule takes there passes to the host instead of being dropped."""


def build_image(tables: Tables, plan: Plan) -> bytes:
    """Return the image of the tables. Raises: ValueError -> an id or a table does not fit."""
    raise NotImplementedError
