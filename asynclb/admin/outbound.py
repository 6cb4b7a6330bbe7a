"""Outbound rules as documents: who translates them, and the ports of every member. Pure."""

from collections.abc import Iterator

from asynclb.admin import documents
from asynclb.control.status import Status
from asynclb.tables.snat import BLOCK, SnatRule, SnatSlice


def outbound_documents(status: Status) -> list[documents.OutboundRule]:
    """Return every outbound rule; pools that are to have no way out are rules without protocols."""
    carried = {rule: datapath.name for datapath in status.datapaths for rule in datapath.outbound}
    return [_rule(rule, carried.get(rule.name)) for rule in status.tables.outbound]


def _rule(rule: SnatRule, datapath: str | None) -> documents.OutboundRule:
    return {
        "name": rule.name,
        "pool": rule.pool.name,
        "protocols": [protocol.value for protocol in rule.protocols],
        "allocation": "shared" if rule.shared else "member",
        "idle_timeout_s": rule.idle_timeout_s,
        "tcp_reset": rule.tcp_reset,
        "direct": [str(prefix) for prefix in rule.direct],
        "datapath": datapath,
        "members": [
            {
                "name": member.name,
                "address": str(member.address),
                "allocated": sum(part.ports for part in rule.slices[member.name]),
                "ports": [_ports(part) for part in rule.slices[member.name]],
            }
            for member in rule.pool.members
        ],
    }


def _ports(part: SnatSlice) -> documents.SnatPorts:
    ranges = [f"{first * BLOCK}-{last * BLOCK + BLOCK - 1}" for first, last in _runs(part.blocks)]
    return {"frontend": part.frontend, "address": str(part.address), "allocated": part.ports, "ranges": ranges}


def _runs(blocks: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of each run of blocks."""
    first = last = None
    for block in blocks:
        if last is not None and block == last + 1:
            last = block
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = block
    if first is not None and last is not None:
        yield first, last
