"""Says what would become of a flow, and why: the operator's view of `lookup`. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from asynclb.control.assign import Choices
from asynclb.control.outward import DIRECT, TRANSLATED, Outward, outward
from asynclb.datapath.base import FlowRecord
from asynclb.model import Health, HealthState, MemberHealth, Model, Reason, TargetId, effective_health
from asynclb.net.address import Address, endpoint
from asynclb.net.drop import Drop
from asynclb.net.flow import Flow, Protocol
from asynclb.tables.lookup import Verdict, lookup
from asynclb.tables.ping import Ping, pings
from asynclb.tables.row import Delivery, FrontendKey
from asynclb.tables.tables import Entry, Tables

_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "icmpv6": 58, "sctp": 132}
"""IP protocol numbers by the names that operators use. Source: IANA protocol-numbers."""
_PORTED = frozenset((6, 17))
_PINGS = {4: _NUMBERS["icmp"], 6: _NUMBERS["icmpv6"]}

_FLOW = re.compile(r"\s*(?P<protocol>[a-z0-9]+)\s+(?P<source>\S+)\s*(?:>|->)\s*(?P<destination>\S+)\s*", re.IGNORECASE)
_ENDPOINT = re.compile(
    r"(?:\[(?P<six>[^\]]+)\]|(?P<four>[^:\[\]]+))(?::(?P<port>\d{1,5}))?|(?P<bare>[0-9a-f:.]+)", re.IGNORECASE
)


def parse_flow(text: str) -> Flow:
    """Read a flow as operators write it: `tcp 198.51.100.7:41000 > 203.0.113.10:443`, `udp [2001:db8::1]:53 > ...`.

    Raises: ValueError -> the text is not a flow; the message says what is expected.
    """
    match = _FLOW.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a flow; write: tcp 198.51.100.7:41000 > 203.0.113.10:443")
    protocol = _protocol(match["protocol"].lower())
    source, source_port = _endpoint(match["source"], protocol)
    destination, destination_port = _endpoint(match["destination"], protocol)
    if source.version != destination.version:
        raise ValueError(f"{source} and {destination} are of different address families")
    return Flow(source, source_port, destination, destination_port, protocol)


def _protocol(name: str) -> int:
    number = int(name) if name.isdecimal() else _NUMBERS.get(name)
    if number is None or number > 255:
        raise ValueError(f"{name!r} is not an IP protocol; use {', '.join(_NUMBERS)} or a number up to 255")
    return number


def _endpoint(text: str, protocol: int) -> tuple[Address, int]:
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an address with a port; write 192.0.2.1:80 or [2001:db8::1]:80")
    address = ip_address(match["six"] or match["four"] or match["bare"])
    if match["port"] is None:
        if protocol in _PORTED:
            raise ValueError(f"{text!r} has no port; write {endpoint(address, 80)}")
        return address, 0
    port = int(match["port"])
    if port > 65535:
        raise ValueError(f"port {port} of {text!r} is above 65535")
    return address, port


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a flow goes where it goes. Fields that do not apply are empty or -1."""

    flow: str
    verdict: str
    """`member`, `translated` or `direct` for what a member opens itself, or the drop reason."""
    why: str
    rule: str = ""
    frontend: str = ""
    matched: str = ""
    distribution: str = ""
    flow_hash: str = ""
    slot: int = -1
    slots: int = -1
    pool: str = ""
    member: str = ""
    target: str = ""
    share: float = -1.0
    delivery: str = ""
    datapath: str = ""
    datapath_why: str = ""


def explain(tables: Tables, health: Health, choices: Mapping[str, tuple[str, str]], flow: Flow) -> Explanation:
    """Return where a new flow goes and why. `choices`: rule name -> (datapath, why)."""
    verdict = lookup(tables, flow)
    if isinstance(verdict, Verdict):
        return _explain_member(verdict, health, choices, flow)
    protocol = {6: Protocol.TCP, 17: Protocol.UDP}.get(flow.protocol, Protocol.ALL)
    entry = tables.find(FrontendKey(flow.destination, flow.destination_port, protocol))
    if entry is None and not any(key.address == flow.destination for key in tables.entries):
        found = outward(tables, flow)
        if found is not None:
            return _explain_outward(found, flow)
    if entry is None:
        return Explanation(str(flow), str(verdict), _why_unmatched(tables, flow))
    row = entry.row
    return Explanation(
        str(flow),
        str(verdict),
        _why_dropped(verdict, entry, flow),
        rule=row.rule.name,
        frontend=row.frontend.name,
        matched=str(row.key),
        pool=row.pool.name,
    )


def _why_unmatched(tables: Tables, flow: Flow) -> str:
    why = "no rule matches this destination, port and protocol"
    if flow.protocol != _PINGS[flow.destination.version]:
        return why
    match pings(tables).get(flow.destination, (None, ()))[0]:
        case Ping.REPLY:
            heard = "a ping is answered for the frontend, as a member is up"
        case Ping.UNREACHABLE:
            heard = 'a ping hears "host unreachable", as no member is up'
        case _:
            return why
    return f"{why}; {heard} (datapaths packet and kernel)"


def _explain_member(
    verdict: Verdict, health: Health, choices: Mapping[str, tuple[str, str]], flow: Flow
) -> Explanation:
    row, table, member = verdict.entry.row, verdict.entry.table, verdict.member
    delivered_as_is = row.delivery is not Delivery.NAT
    address = flow.destination if delivered_as_is else member.address
    port = row.rule.backend_port or flow.destination_port
    datapath, datapath_why = choices.get(row.rule.name, ("", ""))
    return Explanation(
        flow=str(flow),
        verdict="member",
        why=_why_eligible(verdict, health),
        rule=row.rule.name,
        frontend=row.frontend.name,
        matched=str(row.key),
        distribution=str(row.rule.distribution) if row.nat_rule is None else "nothing: the port has one member",
        flow_hash=f"{verdict.flow_hash:016x}",
        slot=verdict.slot,
        slots=table.size,
        pool=row.pool.name,
        member=member.name,
        target=endpoint(address, port) if port else str(address),
        share=table.slots.count(table.members.index(member)) / table.size,
        delivery=str(row.delivery),
        datapath=datapath,
        datapath_why=datapath_why,
    )


def _explain_outward(found: Outward, flow: Flow) -> Explanation:
    goes = found.verdict in (TRANSLATED, DIRECT)
    return Explanation(
        flow=str(flow),
        verdict=found.verdict,
        why=found.why,
        rule=found.rule.name,
        frontend=", ".join(dict.fromkeys(part.frontend for parts in found.rule.slices.values() for part in parts)),
        matched=f"what members of pool {found.rule.pool.name} open themselves",
        pool=found.rule.pool.name,
        target=str(flow.destination) if goes else "",
        delivery="outbound" if goes else "",
    )


def _why_eligible(verdict: Verdict, health: Health) -> str:
    row, member = verdict.entry.row, verdict.member
    if row.nat_rule is not None:
        return f"port {row.key.port} of inbound NAT rule {row.nat_rule} is {member.name}'s, whatever its health"
    if row.rule.probe is None:
        return "the rule has no probe: every member with a weight and the best priority is eligible"
    found = effective_health(member, health.of(row.pool.name, member.name, row.rule.probe), all_down_is_up=True)
    detail = f", {found.detail}" if found.detail else ""
    return f"{member.name} is {found.state} by probe {row.rule.probe} ({found.reason}{detail})"


def _why_dropped(drop: Drop, entry: Entry, flow: Flow) -> str:
    row = entry.row
    if drop is Drop.SOURCE_NOT_ALLOWED:
        allowed = ", ".join(map(str, row.frontend.allow)) or "nobody"
        return f"{flow.source} is not in `allow` of frontend {row.frontend.name}, which is {allowed}"
    return f"no member of pool {row.pool.name} is eligible, and the rule says no_healthy_members: drop"


def all_up(model: Model) -> Health:
    """Return the health in which every probe has found every member up: for explaining without a running process."""
    up = MemberHealth(HealthState.UP, Reason.UP_PROBE_SUCCESS, 0, "assumed: not asked from a running process")
    targets: dict[TargetId, MemberHealth] = {}
    for rule in model.rules:
        for member in model.backend_pools[rule.backend_pool].members:
            if rule.probe is not None:
                targets[rule.backend_pool, member.name, rule.probe] = up
    return Health(targets)


def by_rule(tables: Tables, choices: Choices) -> Mapping[str, tuple[str, str]]:
    """Return (datapath, why) by rule name."""
    return {
        entry.row.rule.name: (choice.datapath, choice.why)
        for key, entry in tables.entries.items()
        if (choice := choices.get(key)) is not None
    }


def flow_of(record: FlowRecord, key: FrontendKey) -> Flow | None:
    """Return an open flow of a rule as its client sees it; None where the record does not say enough.

    The destination is the rule's frontend; an HA-ports rule that delivers to the same port has it from the target.
    """
    try:
        protocol = _protocol(record.protocol)
        source, source_port = _endpoint(record.client, protocol)
        _, target_port = _endpoint(record.target, protocol)
    except ValueError:
        return None
    return Flow(source, source_port, key.address, key.port or target_port, protocol)
