"""Says what becomes of a connection that a member opens itself: by which outbound rule it leaves, and from where. Pure.

The law is the core's (`asynclb.datapath.core.oracle.outbound`): a destination that is a member, or that the rule calls
`direct`, is reached with the member's own address; of the rest, the first rule with the flow's protocol translates it.
"""

from dataclasses import dataclass

from asynclb.net.address import Address
from asynclb.net.drop import Drop
from asynclb.net.flow import Flow, Protocol
from asynclb.tables.snat import BLOCK, SnatRule, SnatSlice
from asynclb.tables.tables import Tables

TRANSLATED, DIRECT = "translated", "direct"
OUTWARD = frozenset({TRANSLATED, DIRECT, str(Drop.SNAT_PROTOCOL), str(Drop.NO_OUTBOUND_RULE)})
"""The verdicts of a member's own connections."""

_PROTOCOLS = {6: Protocol.TCP, 17: Protocol.UDP}


@dataclass(frozen=True, slots=True)
class Outward:
    """Where a member's own connection goes, and why. `verdict` is one of `OUTWARD`."""

    rule: SnatRule
    verdict: str
    why: str


def outward(tables: Tables, flow: Flow) -> Outward | None:
    """Return what becomes of a flow to no frontend; None if its source is no member with an outbound rule."""
    mine = [(rule, m) for rule in tables.outbound for m in rule.pool.members if m.address == flow.source]
    if not mine or any(flow.destination in rule.sources for rule in tables.outbound):
        return None
    rule, member = mine[0]
    who = f"member {member.name} of pool {rule.pool.name} opens it itself"
    if known := _direct(tables, rule, flow.destination):
        return Outward(rule, DIRECT, f"{who}: {known}, so it leaves with its own address")
    protocol = _PROTOCOLS.get(flow.protocol)
    translates = next((one for one, _ in mine if protocol in one.protocols), None)
    if translates is not None:
        return Outward(translates, TRANSLATED, f"{who}: it leaves from {_sources(translates.slices[member.name])}")
    if not rule.protocols:
        why = f"rule {rule.name} has `disable_outbound_snat`, and no outbound rule translates the pool: add one"
        return Outward(rule, str(Drop.NO_OUTBOUND_RULE), f"{who}: {why}")
    words = " and ".join(sorted({str(word) for one, _ in mine for word in one.protocols}))
    return Outward(rule, str(Drop.SNAT_PROTOCOL), f"{who}: its outbound rules translate {words} only")


def _direct(tables: Tables, rule: SnatRule, destination: Address) -> str:
    """Return why a destination is reached without translation, or ''."""
    pools = (*(entry.row.pool for entry in tables.entries.values()), *(one.pool for one in tables.outbound))
    if any(destination == member.address for pool in pools for member in pool.members):
        return f"{destination} is a member too"
    prefix = next((prefix for prefix in rule.direct if destination in prefix), None)
    return "" if prefix is None else f"{destination} is in {prefix}, which is `direct`"


def _sources(slices: tuple[SnatSlice, ...]) -> str:
    parts = [f"{one.address}, {one.ports:,} ports from {one.blocks[0] * BLOCK} on" for one in slices if one.blocks]
    return "; then ".join(parts) or "no port: other rules have them all"
