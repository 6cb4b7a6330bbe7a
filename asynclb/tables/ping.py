"""What a ping to a frontend hears: a function of the tables. Pure.

The balancer itself answers for public frontends, so that a reply says something of the frontend and nothing of one
member. Internal frontends, next hops and addresses that the host itself has are not answered for; HA ports carry
pings to members like everything else.

Source: Azure Load Balancer, testing the reachability of a frontend.
"""

from collections.abc import Iterable, Mapping
from enum import Enum

from asynclb.model import AdminState, Scope
from asynclb.net.address import Address
from asynclb.net.flow import Protocol
from asynclb.tables.row import Delivery
from asynclb.tables.tables import Entry, Tables


class Ping(Enum):
    """What becomes of a ping to a public frontend."""

    REPLY = "reply"
    """A member is up."""
    UNREACHABLE = "unreachable"
    """Every member that may be up is down: "host unreachable"."""
    SILENCE = "silence"
    """There is no member, or each was put down by the operator."""


def pings(tables: Tables) -> Mapping[Address, tuple[Ping, tuple[Entry, ...]]]:
    """Return the addresses whose pings the balancer takes, with what they hear and the entries that decide it."""
    found: dict[Address, list[Entry]] = {}
    for entry in tables.entries.values():
        found.setdefault(entry.row.key.address, []).append(entry)
    return {address: (_heard(entries), tuple(entries)) for address, entries in found.items() if _is_ours(entries)}


def _is_ours(entries: Iterable[Entry]) -> bool:
    return all(
        entry.row.frontend.scope is Scope.PUBLIC
        and entry.row.delivery is not Delivery.ROUTED
        and entry.row.key.protocol is not Protocol.ALL
        for entry in entries
    )


def _heard(entries: Iterable[Entry]) -> Ping:
    entries = tuple(entries)
    if any(entry.table.members for entry in entries):
        return Ping.REPLY
    members = (member for entry in entries for member in entry.row.pool.members)
    if any(member.admin_state is not AdminState.DOWN for member in members):
        return Ping.UNREACHABLE
    return Ping.SILENCE
