"""Begins a capture of a rule that is in force, and asks the datapath that carries it."""

from collections.abc import Mapping

from asynclb.control.status import Status
from asynclb.datapath.ask import LiveVerdict
from asynclb.datapath.base import Datapath, Measurable, Watchable, Wired
from asynclb.errors import HostError
from asynclb.net.flow import Flow
from asynclb.observe.capture.routed import RoutedScope
from asynclb.observe.capture.scope import Scope, View
from asynclb.observe.capture.session import Capture, Limits
from asynclb.tables.row import Row


def begin(status: Status, datapaths: Mapping[str, Datapath], rule: str, limits: Limits) -> Capture:
    """Begin. Raises: LookupError -> no such rule is in force; HostError -> its packets cannot be seen here."""
    rows = [entry.row for entry in status.tables.entries.values() if entry.row.rule.name == rule]
    name = next((found.name for found in status.datapaths if rule in found.modes), "")
    if not rows or name not in datapaths:
        raise LookupError(rule)
    datapath = datapaths[name]

    async def ask(flow: Flow, interface: str | None) -> LiveVerdict | None:
        return await datapath.verdict(flow, interface) if isinstance(datapath, Measurable) else None

    watched = datapath if isinstance(datapath, Watchable) else None
    try:
        return Capture(_view(status, rows, datapath, limits), limits, ask, watched=watched)
    except OSError as error:
        raise HostError(f"no packet socket: {error.strerror or error}; run asynclb with CAP_NET_RAW") from error


def _view(status: Status, rows: list[Row], datapath: Datapath, limits: Limits) -> View:
    """Return what is shown of a rule: by its addresses, or by link addresses where it is a next hop."""
    if not rows[0].frontend.routed:
        return Scope(rows, limits.wanted)
    if not isinstance(datapath, Wired):
        raise HostError(f"rule {rows[0].rule.name!r} is a next hop, and datapath {datapath.name!r} carries none")
    everybody = (entry.row for entry in status.tables.entries.values())
    names = {member.address: member.name for row in everybody for member in row.pool.members}
    return RoutedScope(rows[0], limits.wanted, datapath.wire, names)
