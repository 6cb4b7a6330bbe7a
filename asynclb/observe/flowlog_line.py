"""A flow's lifetime as a line of JSON, and which flows have one. Pure.

Law: a line is one JSON object; names and addresses have no character that JSON would escape (`NAME_PATTERN`).
"""

import time
from hashlib import blake2b

from asynclb.datapath.lifetimes import Lifetime

_SPACE = 1 << 32


def is_sampled(flow: Lifetime, sample: int) -> bool:
    """Return whether this is one of the flows that are written, by its addresses, ports and protocol alone.

    So start and end of a flow agree, and so do the nodes of a cluster and the times before and after a restart.
    """
    if sample == 1:
        return True
    name = f"{flow.protocol} {flow.client} {flow.frontend_address}".encode()
    return int.from_bytes(blake2b(name, digest_size=4).digest()) * sample < _SPACE


def line_of(flow: Lifetime, datapath: str) -> str:
    """Return the line, with its end. Cost: 3 us."""
    head = (
        f'{{"time":"{_rfc3339(flow.at_s)}","event":"{"start" if flow.end is None else "end"}","datapath":"{datapath}",'
        f'"rule":"{flow.rule}","frontend":"{flow.frontend}","frontend_address":"{flow.frontend_address}",'
        f'"pool":"{flow.pool}","member":"{flow.member}","member_address":"{flow.member_address}",'
        f'"client":"{flow.client}","protocol":"{flow.protocol}"'
    )
    if flow.destination:
        head += f',"destination":"{flow.destination}"'
    if flow.end is None:
        return head + "}\n"
    return (
        f'{head},"bytes_in":{flow.bytes_in},"packets_in":{flow.packets_in},"bytes_out":{flow.bytes_out},'
        f'"packets_out":{flow.packets_out},"duration_s":{flow.duration_s:.3f},"reason":"{flow.end}"}}\n'
    )


def _rfc3339(at_s: float) -> str:
    whole = int(at_s)
    day = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{day}.{int((at_s - whole) * 1000):03d}Z"
