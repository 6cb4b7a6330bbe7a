"""What a worker is told and what it answers, as datagrams of a UNIX socket with descriptors.

    order     {order, serial, ...}          with descriptors: the body, and the sockets of interfaces that are opened
    answer    {serial, why}                 `why` is empty when it was done

The body is a sealed memory file: a JSON document and, behind it, the image. Datagrams keep their borders and their
order, and each is short, so that none is ever half sent.
"""

import fcntl
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from asynclb.datapath.core.parting import Ending
from asynclb.datapath.core.values import NextHop
from asynclb.datapath.frames.surroundings import Link
from asynclb.datapath.packet.engine import Change, Opened

MOST_BYTES = 4_096
MOST_DESCRIPTORS = 253
"""SCM_MAX_FD of the kernel: the body and 64 interfaces, which is what a core has room for, are 129."""

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Order(StrEnum):
    """What a worker can be told."""

    PREPARE = "prepare"
    COMMIT = "commit"
    ABANDON = "abandon"
    HOPS = "hops"
    PART = "part"


@dataclass(frozen=True, slots=True)
class Told:
    """An order as it arrives. `change` has what PREPARE is about, and the next hops; `ending` what PART is."""

    order: Order
    serial: int
    change: Change
    ending: Ending


def tell(
    sock: socket.socket, order: Order, serial: int, wanted: Change | None = None, ending: Ending | None = None
) -> None:
    """Send an order. Raises: OSError -> the worker is gone, or takes nothing any more."""
    wanted, ending = wanted or Change(), ending or Ending()
    image = wanted.image
    document = {
        "hops": [[number, *_hop(hop)] for number, hop in wanted.hops.items()],
        "closed": wanted.closed,
        "opened": [[o.link.index, o.link.name, o.link.address.hex(), o.link.mtu] for o in wanted.opened],
        "image": image is not None,
        "flows": ending.flows,
        "members": ending.members,
    }
    text = json.dumps(document).encode()
    body = _sealed(text + (image or b""))
    try:
        head = json.dumps({"order": order, "serial": serial, "text": len(text)}).encode()
        borrowed = [s.fileno() for opened in wanted.opened for s in (opened.receiver, opened.sender)]
        socket.send_fds(sock, [head], [body, *borrowed])
    finally:
        os.close(body)


def hear(sock: socket.socket) -> Told | None:
    """Receive an order; None when nobody gives any more. Raises: BlockingIOError -> there is none now."""
    data, descriptors, _flags, _ = socket.recv_fds(sock, MOST_BYTES, MOST_DESCRIPTORS)
    if not data:
        return None
    head: dict[str, Any] = json.loads(data)
    body, *borrowed = descriptors
    try:
        content = os.pread(body, os.fstat(body).st_size, 0)
    finally:
        os.close(body)
    document: dict[str, Any] = json.loads(content[: head["text"]])
    sockets = [socket.socket(fileno=number) for number in borrowed]
    opened = tuple(
        Opened(Link(index, name, bytes.fromhex(address), mtu), receiver, sender, own=True)
        for (index, name, address, mtu), receiver, sender in zip(
            document["opened"], sockets[::2], sockets[1::2], strict=True
        )
    )
    found = Change(
        image=content[head["text"] :] if document["image"] else None,
        hops=_hops(document["hops"]),
        closed=tuple(document["closed"]),
        opened=opened,
    )
    ending = Ending(tuple((r, m, port) for r, m, port in document["flows"]), tuple(document["members"]))
    return Told(Order(head["order"]), head["serial"], found, ending)


def answer_to(sock: socket.socket, serial: int, why: str = "") -> None:
    """Send an answer. Raises: OSError -> nobody hears it."""
    sock.send(json.dumps({"serial": serial, "why": why[: MOST_BYTES // 8]}).encode())


def hear_answer(sock: socket.socket) -> tuple[int, str] | None:
    """Receive (serial, why); None when the worker is gone. Raises: BlockingIOError -> there is none now."""
    data = sock.recv(MOST_BYTES)
    if not data:
        return None
    found: dict[str, Any] = json.loads(data)
    return found["serial"], found["why"]


def _sealed(content: bytes) -> int:
    body = os.memfd_create("asynclb-order", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(body, view) :]
        fcntl.fcntl(body, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(body)
        raise
    return body


def _hop(hop: NextHop | None) -> list[Any]:
    return [] if hop is None else [hop.ifindex, hop.destination.hex(), hop.source.hex(), hop.mtu, hop.resolved]


def _hops(found: Sequence[Sequence[Any]]) -> Mapping[int, NextHop | None]:
    return {number: _read_hop(*hop) if hop else None for number, *hop in found}


def _read_hop(ifindex: int, destination: str, source: str, mtu: int, resolved: bool) -> NextHop:
    return NextHop(ifindex, bytes.fromhex(destination), bytes.fromhex(source), mtu, resolved)
