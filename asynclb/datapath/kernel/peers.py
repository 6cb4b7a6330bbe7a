"""The interfaces whose frames are handed to the other end at once, instead of through a queue (`bpf_redirect_peer`).

That end must be in another network namespace, which is how containers are connected. What is passed over is this end's
way out: its qdisc, its programs and taps for leaving frames, its counters. So nothing is handed on where there is a
qdisc or a program of tc, where the configuration says `attach: tc` or `attach: xdp`, and while a capture runs.
"""

import socket
import struct
from collections.abc import Collection, Mapping

from asynclb.datapath.frames.netlink import dumped, open_netlink
from asynclb.datapath.frames.surroundings import Link
from asynclb.datapath.kernel.ways import Wish
from asynclb.native.libbpf import Attach, Libbpf

_GET_FILTER = 46
_TCMSG = struct.Struct("=B3xiIII")
_CLSACT_EGRESS = 0xFFFF_FFF3  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)


def peers(links: Mapping[int, Link], wishes: Mapping[str, str], obstructed: Collection[int]) -> frozenset[int]:
    """Return the interfaces whose frames are handed on at once. Pure.

    `wishes` are where programs are to be attached, by name; `obstructed` have programs for frames that leave.
    """
    return frozenset(
        index
        for index, link in links.items()
        if link.is_elsewhere and index not in obstructed and wishes.get(link.name, Wish.AUTO) == Wish.AUTO
    )


def obstructed(bpf: Libbpf, links: Mapping[int, Link]) -> frozenset[int]:
    """Return the interfaces, of those that are candidates, with a program of tc for frames that leave. Blocks."""
    candidates = [index for index, link in links.items() if link.is_elsewhere]
    with open_netlink() as sock:
        return frozenset(
            index for index in candidates if bpf.attached(index, Attach.TCX_EGRESS) or _has_filters(sock, index)
        )


def _has_filters(sock: socket.socket, index: int) -> bool:
    """Return whether clsact has filters for what leaves by an interface."""
    return bool(list(dumped(sock, _GET_FILTER, _TCMSG.pack(0, index, 0, _CLSACT_EGRESS, 0))))
