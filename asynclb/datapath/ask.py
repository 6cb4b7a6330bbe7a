"""Questions to a datapath: where would this packet go now? The datapaths that work on frames share it.

A question is a packet as a client would send it, decided by what decides the others, with the tables, next hops and
flows that they meet. Nothing of it leaves, and no state or counter is touched.
"""

import asyncio
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from asynclb.net.address import Address, Prefix
from asynclb.net.drop import Drop
from asynclb.net.flow import PROTOCOL_NUMBERS, Flow, Protocol
from asynclb.tables.row import FrontendKey, Row

_CLIENTS = ("192.0.2.1", "2001:db8::1", "10.255.255.254", "fd00:ffff::1")
_PORT = 1
"""No client has it, so no flow is met."""
_BATCH = 64  # questions asked in one go: about 2 ms
_TCP, _UDP, _SYN = 6, 17, 0x5002
_LINKS = bytes.fromhex("0200000000010200000000fe")


@dataclass(frozen=True, slots=True)
class LiveVerdict:
    """Where a datapath would send a packet: a member as (pool, name), or nowhere, for a reason.

    Neither: the packet is not the datapath's. `known`: by a flow that it has, which may be older than the tables.
    """

    member: tuple[str, str] | None
    drop: Drop | None
    known: bool = False


def question_of(row: Row) -> Flow | None:
    """Return the packet of a client who is allowed, to a row's frontend; None where nobody is, or none can be made.

    What comes to a next hop is for other addresses than the frontend's.
    """
    key = row.key
    client = next(
        (found for prefix in row.frontend.allow if (found := _host_of(prefix)).version == key.address.version), None
    )
    if client is None:
        return None
    to = (
        ip_address("198.18.0.1" if key.address.version == 4 else "2001:db8:ffff::1")
        if row.frontend.routed
        else key.address
    )
    protocol = Protocol.TCP if key.protocol is Protocol.ALL else key.protocol
    return Flow(client, _PORT, to, key.port or _PORT, PROTOCOL_NUMBERS[protocol])


def _host_of(prefix: Prefix) -> Address:
    known = next((address for text in _CLIENTS if (address := ip_address(text)) in prefix), None)
    if known is not None:
        return known
    first = prefix.network_address
    return first + 1 if prefix.num_addresses > 1 else first


def frame_of(flow: Flow) -> bytes:
    """Return a frame that begins a flow. Its checksums are not filled in: nobody looks at them on the way."""
    if flow.protocol == _TCP:
        body = struct.pack("!HHIIHHHH", flow.source_port, flow.destination_port, 0, 0, _SYN, 0, 0, 0)
    else:
        body = struct.pack("!HHHH", flow.source_port, flow.destination_port, 8, 0) + bytes(16)
        body = body if flow.protocol == _UDP else body[:4] + bytes(20)
    ends = flow.source.packed + flow.destination.packed
    if flow.source.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, flow.protocol, 0)
        return _LINKS + b"\x08\x00" + head + ends + body
    return _LINKS + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(body), flow.protocol, 64) + ends + body


def live_verdict(
    member: int | None, drop: Drop | None, known: bool, members: Mapping[int, tuple[str, str, Address]]
) -> LiveVerdict:
    """Return an answer in the words of the configuration."""
    found = None if member is None else members.get(member)
    return LiveVerdict(None if found is None else (found[0], found[1]), drop, known)


async def reached(
    rows: Collection[Row], ask: Callable[[Flow, str | None], LiveVerdict | None]
) -> Mapping[FrontendKey, bool]:
    """Return whether a client's packet to each row would be given to a member; without those that cannot be asked.

    The loop goes on in between: there may be thousands of rows, and a question to the kernel takes some 20 us.
    """
    found = {}
    for number, row in enumerate(rows, 1):
        if number % _BATCH == 0:
            await asyncio.sleep(0)
        question = question_of(row)
        answer = None if question is None else ask(question, row.frontend.interface)
        if answer is not None:
            found[row.key] = answer.member is not None
    return found
