"""What name servers answer, as members. Pure.

SRV (RFC 2782) knows priorities and weights up to 65,535. Priorities keep their order: they are numbered afresh where
one is too large. Weights keep their proportions; a weight of 0, "very little", becomes the least there is, because
here 0 is nothing at all.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from asynclb.net.address import Address, name_of_address

MOST_WEIGHT = 1000
MOST_PRIORITY = 15
_NAME = re.compile(r"[A-Za-z0-9._-]{1,80}")

Parts = Mapping[str, Mapping[str, object]]
"""What a member is called in messages -> its keys, as a configuration would have them."""


@dataclass(frozen=True, slots=True)
class Service:
    """One SRV record; `target` is in lower case, without the last dot."""

    priority: int
    weight: int
    port: int
    target: str


def parts_of_addresses(addresses: Iterable[Address]) -> Parts:
    """Return a member for each address, once, in the order of the addresses: servers rotate theirs."""
    ordered = sorted(set(addresses), key=lambda address: (address.version, int(address)))
    return {str(address): {"name": name_of_address(address), "address": str(address)} for address in ordered}


def parts_of_services(services: Iterable[Service], addresses: Mapping[str, Sequence[Address]]) -> Parts:
    """Return a member for each address of each target.

    A target with one address gives the member its name: a machine that comes back with another address is the same
    member. An address that several records lead to is one member, by the record that comes first.
    """
    ordered = sorted(services, key=lambda one: (one.priority, -one.weight, one.target, one.port))
    priorities = _priorities(ordered)
    most = max((one.weight for one in ordered), default=0)
    parts: dict[str, Mapping[str, object]] = {}
    for one in ordered:
        found = sorted(set(addresses.get(one.target, ())), key=int)
        for address in found:
            member = {
                "name": _name(one.target, address, alone=len(found) == 1),
                "address": str(address),
                "weight": _weight(one.weight, most),
                "priority": priorities[one.priority],
            }
            parts.setdefault(str(address), member)
    return dict(sorted(parts.items(), key=lambda part: str(part[1]["name"])))


def _priorities(services: Sequence[Service]) -> Mapping[int, int]:
    known = sorted({one.priority for one in services})
    if not known or known[-1] <= MOST_PRIORITY:
        return {priority: priority for priority in known}
    return {priority: min(rank, MOST_PRIORITY) for rank, priority in enumerate(known)}


def _weight(weight: int, most: int) -> int:
    scaled = weight if most <= MOST_WEIGHT else round(weight * MOST_WEIGHT / most)
    return max(1, scaled)


def _name(target: str, address: Address, *, alone: bool) -> str:
    name = target if alone else f"{target}_{name_of_address(address)}"
    return name if _NAME.fullmatch(name) else name_of_address(address)
