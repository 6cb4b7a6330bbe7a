"""What both datapaths that forward frames answer alike: from what they execute, or empty while that is nothing."""

from collections.abc import Collection, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from asynclb.datapath.ask import LiveVerdict, reached
from asynclb.datapath.base import Counters, FlowRecord, Wire
from asynclb.datapath.lifetimes import NOBODY, Listeners
from asynclb.net.flow import Flow
from asynclb.tables.row import FrontendKey, Row


class Hearing(Protocol):
    """What tells of flows that begin and end."""

    def listen(self, listeners: Listeners) -> None:
        """Tell these from here on."""


class Executing(Protocol):
    """What there is while there is something to execute."""

    @property
    def news(self) -> Hearing:
        """What tells of its flows."""

    def counters(self) -> Counters:
        """Return the counters."""

    def flows(self) -> Iterator[FlowRecord]:
        """Iterate over the flow table."""

    def wire(self) -> Wire:
        """Return who is where now."""

    def ask(self, flow: Flow, interface: str | None) -> LiveVerdict | None:
        """Return who would get a packet that begins a flow."""


R = TypeVar("R", bound=Executing)


class Front(Generic[R]):
    """The part of a datapath that reads. Owner: the datapath, which says what is running."""

    def __init__(self) -> None:
        self._running: R | None = None
        self._listeners = NOBODY
        self._generation = 0

    @property
    def generation(self) -> int:
        """The generation that new flows meet."""
        return self._generation

    def counters(self) -> Counters:
        """Return a snapshot of the counters; the kernel's numbers of open flows are some seconds old at most."""
        return Counters() if self._running is None else self._running.counters()

    def flows(self) -> Iterator[FlowRecord]:
        """Iterate over the flow tables."""
        if self._running is not None:
            yield from self._running.flows()

    def tell_flows(self, listeners: Listeners) -> None:
        """Tell these from here on of flows that begin and end."""
        self._listeners = listeners
        if self._running is not None:
            self._running.news.listen(listeners)

    def wire(self) -> Wire:
        """Return who is where now."""
        return Wire() if self._running is None else self._running.wire()

    async def reaches(self, rows: Collection[Row]) -> Mapping[FrontendKey, bool]:
        """Ask what forwards where a client's packet to each row would go."""
        return {} if self._running is None else await reached(rows, self._running.ask)

    async def verdict(self, flow: Flow, interface: str | None = None) -> LiveVerdict | None:
        """Ask what forwards where a packet would go."""
        return None if self._running is None else self._running.ask(flow, interface)
