"""The core's numbers under the operator's names. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from asynclb.datapath.base import Counters, FlowRecord, SnatCounters, SnatPorts, summed
from asynclb.datapath.core.leaving import MemberName
from asynclb.datapath.core.memory import MARKS
from asynclb.datapath.core.values import CoreCounters, FlowView
from asynclb.net.address import Address, endpoint
from asynclb.net.drop import Drop
from asynclb.net.flow import Protocol
from asynclb.tables.row import Row
from asynclb.tables.snat import SnatRule, SnatSlice

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 51: "ah", 58: "icmpv6", 132: "sctp"}


def counters_of(
    core: CoreCounters,
    rules: Mapping[int, str],
    members: Mapping[int, MemberName],
    lost: int,
    past: Counters | None = None,
) -> Counters:
    """Return the counters by name; numbers with the same name are added up, as members that only moved.

    `lost` are frames that the rings had no room for; `past` is what was counted under numbers that were given back.
    """
    before = Counters() if past is None else past
    by_rule = ((rules[number], counted) for number, counted in core.rules.items() if number in rules)
    by_member = ((members[number][:2], counted) for number, counted in core.members.items() if number in members)
    return Counters(
        rules=summed((*before.rules.items(), *by_rule)),
        members=summed((*before.members.items(), *by_member)),
        drops={**core.drops, Drop.LISTEN_OVERFLOW: lost},
        flows=core.flows,
        capacity=core.capacity,
        stateless=core.stateless,
    )


def with_snat(
    counted: Counters, rules: Iterable[SnatRule], marks: bytearray, sources: Mapping[int, Address]
) -> Counters:
    """Return the counters with what is said of members' own connections in its place.

    `marks` are those of `FlowMemory.snat_marks`; `sources` are the addresses by their numbers.
    """
    snat: dict[tuple[str, str], SnatCounters] = {}
    for (place, name), found in counted.members.items():
        pool, own, _ = place.partition(">")
        if own:
            before = snat.get((pool, name), SnatCounters())
            attempted, failed = before.attempted + found.new_flows + found.failed, before.failed + found.failed
            snat[pool, name] = SnatCounters(attempted, failed)
    numbers = {address: number for number, address in sources.items()}
    for rule in rules:
        for name, slices in rule.slices.items():
            before = snat.get((rule.pool.name, name), SnatCounters())
            ports = tuple(_ports(rule, part, marks, numbers[part.address]) for part in slices)
            snat[rule.pool.name, name] = replace(before, ports=before.ports + ports)
    members = {key: found for key, found in counted.members.items() if ">" not in key[0]}
    return replace(counted, members=members, snat=snat)


def _ports(rule: SnatRule, part: SnatSlice, marks: bytearray, number: int) -> SnatPorts:
    used = {}
    for protocol in rule.protocols:
        base = (number * 2 + (protocol is Protocol.UDP)) * MARKS
        used[str(protocol)] = _used(part.blocks, memoryview(marks)[base : base + MARKS])
    return SnatPorts(part.frontend, part.ports, used, rule.name, rule.shared)


def _used(blocks: tuple[int, ...], marks: memoryview) -> int:
    """Return how many ports of these blocks are marked; a block is a byte."""
    if blocks and blocks[-1] - blocks[0] + 1 == len(blocks):
        return int.from_bytes(marks[blocks[0] : blocks[-1] + 1], "little").bit_count()
    return sum(marks[block].bit_count() for block in blocks)


def outbound_record_of(
    flow: FlowView,
    rules: Mapping[int, str],
    members: Mapping[int, MemberName],
    sources: Mapping[int, Address],
    now_s: float,
) -> FlowRecord:
    """Describe a member's own connection: its client is the member, and its target the other end."""
    place, member, _ = members.get(flow.member, ("", "", flow.client))
    source = sources.get(flow.source if flow.source is not None else -1)
    return FlowRecord(
        rule=rules.get(flow.rule, ""),
        protocol=PROTOCOLS.get(flow.protocol, str(flow.protocol)),
        client=endpoint(flow.client, flow.client_port),
        frontend=endpoint(source, flow.source_port) if source is not None else "",
        pool=place.partition(">")[0],
        member=member,
        target=endpoint(flow.frontend, flow.frontend_port),
        state=flow.state,
        bytes_in=flow.bytes_in,
        bytes_out=flow.bytes_out,
        age_s=max(0.0, now_s - flow.created_s),
        idle_s=0.0,
    )


def record_of(
    flow: FlowView, rules: Mapping[int, str], members: Mapping[int, MemberName], rows: Mapping[str, Row], now_s: float
) -> FlowRecord:
    """Describe one flow."""
    rule = rules.get(flow.rule, "")
    pool, member, address = members.get(flow.member, ("", "", flow.frontend))
    row = rows.get(rule)
    port = (row.rule.backend_port or flow.frontend_port) if row is not None else flow.frontend_port
    return FlowRecord(
        rule=rule,
        protocol=PROTOCOLS.get(flow.protocol, str(flow.protocol)),
        client=endpoint(flow.client, flow.client_port),
        frontend=row.frontend.name if row is not None else str(flow.frontend),
        pool=pool,
        member=member,
        target=endpoint(address, port),
        state=flow.state,
        bytes_in=flow.bytes_in,
        bytes_out=flow.bytes_out,
        age_s=max(0.0, now_s - flow.created_s),
        idle_s=0.0,
    )


def total(parts: Iterable[CoreCounters]) -> CoreCounters:
    """Add up what several cores counted."""
    found = tuple(parts)
    return CoreCounters(
        rules=summed(item for part in found for item in part.rules.items()),
        members=summed(item for part in found for item in part.members.items()),
        drops={reason: sum(part.drops.get(reason, 0) for part in found) for part in found for reason in part.drops},
        flows=sum(part.flows for part in found),
        capacity=sum(part.capacity for part in found),
        stateless=sum(part.stateless for part in found),
        expired=sum(part.expired for part in found),
    )
