"""Begins a capture of a rule that is in force, and asks the datapath that carries it."""

from collections.abc import Mapping

from asynclb.control.status import Status
from asynclb.datapath.ask import LiveVerdict
from asynclb.datapath.base import Datapath, Measurable, Watchable
from asynclb.errors import HostError
from asynclb.net.flow import Flow
from asynclb.observe.capture.scope import Scope
from asynclb.observe.capture.session import Capture, Limits


def begin(status: Status, datapaths: Mapping[str, Datapath], rule: str, limits: Limits) -> Capture:
    """Begin. Raises: LookupError -> no such rule is in force; HostError -> its packets cannot be seen here."""
    rows = [entry.row for entry in status.tables.entries.values() if entry.row.rule.name == rule]
    name, mode = next(((found.name, found.modes[rule]) for found in status.datapaths if rule in found.modes), ("", ""))
    if not rows or name not in datapaths:
        raise LookupError(rule)
    if any(row.frontend.routed for row in rows):
        raise HostError(f"rule {rule!r} is a next hop, and its packets have no address of it; use tcpdump")
    if "xdp" in mode:
        raise HostError(f"rule {rule!r} is carried by XDP, before packet sockets see anything; set `attach: tc`")
    datapath = datapaths[name]

    async def ask(flow: Flow, interface: str | None) -> LiveVerdict | None:
        return await datapath.verdict(flow, interface) if isinstance(datapath, Measurable) else None

    watched = datapath if isinstance(datapath, Watchable) else None
    try:
        return Capture(Scope(rows, limits.wanted), limits, ask, watched=watched)
    except OSError as error:
        raise HostError(f"no packet socket: {error.strerror or error}; run asynclb with CAP_NET_RAW") from error
