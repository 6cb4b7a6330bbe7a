"""The interfaces whose frames are handed to the other end at once, instead of through a queue (`bpf_redirect_peer`).

That end must be in another network namespace, which is how containers are connected. What is passed over is this end's
way out: its qdisc, its programs and taps for leaving frames, its counters. So nothing is handed on where there is a
qdisc or a program of tc, where the configuration says `attach: tc` or `attach: xdp`, and while a capture runs.
"""

from collections.abc import Collection, Mapping

from asynclb.datapath.frames.surroundings import Link
from asynclb.datapath.kernel.ways import Wish
from asynclb.native.libbpf import Attach, Libbpf

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
    from pyroute2 import IPRoute, NetlinkError  # type: ignore[import-untyped]  # pyroute2 ships no types

    candidates = [index for index, link in links.items() if link.is_elsewhere]
    found = {index for index in candidates if bpf.attached(index, Attach.TCX_EGRESS)}
    with IPRoute() as ip:
        for index in candidates:
            try:
                if any(True for _ in ip.get_filters(index=index, parent=_CLSACT_EGRESS)):
                    found.add(index)
            except NetlinkError:  # it is gone
                found.add(index)
    return frozenset(found)
