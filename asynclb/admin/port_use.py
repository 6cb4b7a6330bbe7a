"""How many SNAT ports are in use: of each member, or of all members of a rule that shares them. Pure.

A port in use still serves other destinations, so a member without a free port is not yet one whose connections fail:
`failed` says that.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from asynclb.datapath.base import Counters, SnatCounters, SnatPorts
from asynclb.tables.snat import HIGH

Document = Mapping[str, Any]
Counted = Mapping[tuple[str, str], SnatCounters]
"""By (pool, member)."""


@dataclass(frozen=True, slots=True)
class PortUse:
    """The ports of one member by one outbound rule, on all addresses together; of several members, if they share them.

    Shape: `used` is by protocol. `failed` are connections of these members that found no port, by whichever rule.
    """

    pool: str
    rule: str
    members: tuple[str, ...]
    shared: bool
    allocated: int
    used: Mapping[str, int]
    failed: int

    @property
    def who(self) -> str:
        """Whose ports these are, in a word or two."""
        return f"all {len(self.members):,}" if self.shared else self.members[0]

    @property
    def most(self) -> tuple[str, int]:
        """The protocol of which more ports are in use, which stands for both, and how many these are."""
        return max(self.used.items(), key=lambda found: found[1], default=("", 0))

    @property
    def free(self) -> int:
        """Ports that no connection uses."""
        return max(0, self.allocated - self.most[1])

    @property
    def share(self) -> float:
        """Of the ports, those in use."""
        return self.most[1] / self.allocated if self.allocated else 0.0

    @property
    def is_high(self) -> bool:
        """Whether somebody should look."""
        return self.allocated > 0 and self.share > HIGH


def port_uses(counted: Counted) -> Iterator[PortUse]:
    """Yield what is in use, by rule and member; once for all members of a rule where these share the ports."""
    sharing: dict[tuple[str, str], list[tuple[str, SnatCounters, list[SnatPorts]]]] = {}
    for (pool, member), found in counted.items():
        by_rule: dict[str, list[SnatPorts]] = {}
        for ports in found.ports:
            by_rule.setdefault(ports.rule, []).append(ports)
        for rule, parts in by_rule.items():
            if parts[0].shared:
                sharing.setdefault((pool, rule), []).append((member, found, parts))
            else:
                yield _use(pool, rule, (member,), parts, found.failed)
    for (pool, rule), members in sharing.items():
        names = tuple(member for member, _, _ in members)
        yield _use(pool, rule, names, members[0][2], sum(found.failed for _, found, _ in members))


def _use(pool: str, rule: str, members: tuple[str, ...], parts: list[SnatPorts], failed: int) -> PortUse:
    used: dict[str, int] = {}
    for part in parts:
        for protocol, number in part.used.items():
            used[protocol] = used.get(protocol, 0) + number
    return PortUse(pool, rule, members, parts[0].shared, sum(part.allocated for part in parts), used, failed)


def counted_by(datapaths: Iterable[Counters]) -> Counted:
    """Return what all datapaths have counted of members' own connections; a pool may have moved from one to another."""
    found: dict[tuple[str, str], SnatCounters] = {}
    for path in datapaths:
        for place, more in path.snat.items():
            was = found.get(place, SnatCounters())
            found[place] = SnatCounters(
                was.attempted + more.attempted, was.failed + more.failed, was.ports + more.ports
            )
    return found


def read_counted(counters: Document) -> Counted:
    """Return what the document of `GET /api/v1/counters` says of members' own connections."""
    return {
        (found["pool"], found["name"]): SnatCounters(
            found["attempted"], found["failed"], tuple(SnatPorts(**part) for part in found["ports"])
        )
        for found in counters.get("snat", ())
    }


OUTBOUND_HEADS = ("OUTBOUND RULE", "POOL", "MEMBER", "PORTS", "TCP", "UDP", "FREE", "FAILED", "FROM", "DATAPATH")
OUTBOUND_NUMBERS = ("PORTS", "TCP", "UDP", "FREE", "FAILED")
_RANGES_SHOWN = 3


def outbound_rows(state: Document, counters: Document) -> Iterator[tuple[object, ...]]:
    """Yield a row per outbound rule and member, or per rule that shares its ports; who has least room first."""
    uses = {(use.pool, use.rule, use.members[0]): use for use in port_uses(read_counted(counters))}
    found = [
        (uses.get((rule["pool"], rule["name"], member["name"])), rule, member)
        for rule in state["outbound_rules"]
        for member in (rule["members"][:1] if _is_one(rule) else rule["members"])
    ]
    for use, rule, member in sorted(found, key=lambda row: -row[0].share if row[0] is not None else 1.0):
        yield _row(use, rule, member)
    for rule in state["outbound_rules"]:
        if not rule["members"]:
            yield (rule["name"], rule["pool"], "none", *[None] * 5, "the pool has no members", rule["datapath"])


def _is_one(rule: Document) -> bool:
    """Return whether all members have the same ports, or none."""
    return rule["allocation"] == "shared" or not rule["protocols"]


def _row(use: PortUse | None, rule: Document, member: Document) -> tuple[object, ...]:
    every = f"all {len(rule['members']):,}" if _is_one(rule) else member["name"]
    head = (rule["name"], rule["pool"], every)
    if not rule["protocols"]:
        return (*head, *[None] * 5, "nothing: disable_outbound_snat", rule["datapath"])
    numbers = (
        (None,) * 4
        if use is None
        else (*(_number(use.used.get(protocol)) for protocol in ("tcp", "udp")), f"{use.free:,}", f"{use.failed:,}")
    )
    ranges = "; ".join(f"{part['address']} {_spell(part['ranges'])}" for part in member["ports"])
    return (*head, f"{member['allocated']:,}", *numbers, ranges, rule["datapath"])


def _number(count: int | None) -> str | None:
    return None if count is None else f"{count:,}"


def _spell(ranges: list[str]) -> str:
    """Return ranges of ports, the first ones of many."""
    shown = ",".join(ranges[:_RANGES_SHOWN])
    return f"{shown},+{len(ranges) - _RANGES_SHOWN}" if len(ranges) > _RANGES_SHOWN else shown
