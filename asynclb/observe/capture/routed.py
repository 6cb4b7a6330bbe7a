"""Which frames are those of a rule that is a next hop. Pure.

    client --> the rule's interface --> to member, from member --> to server --> from server --> ... --> to client

They have no address of the rule. A flow is its own once it came by the rule's interface, from somebody who is no
member, for an address that is not the host's; from then on every frame of either direction is. Where it is on its way
is known by link addresses: what goes to a member's or comes from one has a member at that end.

Laws:
  1. Flows that began before the capture are seen from their client's next packet on.
  2. Flows that are kept in mind are bounded; the one that was silent for longest is forgotten first.
"""

from collections.abc import Callable, Mapping

from asynclb.datapath.ask import LiveVerdict
from asynclb.datapath.base import Wire
from asynclb.net.address import Address
from asynclb.net.flow import Flow
from asynclb.observe.capture.scope import Leg, Match, Wanted, is_of, said, turned
from asynclb.observe.capture.tap import Caught
from asynclb.tables.row import Row

MOST_FLOWS = 100_000
"""Some 40 MB."""
_GROUP = 1
"""Of a link address's first byte: for many."""


class RoutedScope:
    """Owner: one capture. `wire` says who has which link address now, `names` whose addresses members have."""

    def __init__(
        self,
        row: Row,
        wanted: Wanted,
        wire: Callable[[], Wire],
        names: Mapping[Address, str],
        most: int = MOST_FLOWS,
    ) -> None:
        self.rule, self._interface, self._version = row.rule.name, row.frontend.interface, row.key.address.version
        self._wanted, self._wire, self._names, self._most = wanted, wire, names, most
        self._flows: dict[Flow, None] = {}

    @property
    def addresses(self) -> frozenset[Address] | None:
        """The one address that is looked for, if it is one; else frames of all addresses may be the rule's."""
        client = self._wanted.client
        return frozenset((client.network_address,)) if client is not None and client.num_addresses == 1 else None

    def match(self, found: Flow, caught: Caught) -> Match | None:
        """Return what a frame with these ends is to the rule, or None."""
        wire = self._wire()
        to, source = caught.data[:6], caught.data[6:12]
        if found.source.version != self._version or to[0] & _GROUP:
            return None
        member = self._name(wire.links.get(to if caught.outbound else source))
        if not member and not caught.outbound and caught.interface == self._interface:
            self._note(found, wire)
        flow = next((flow for flow in (found, turned(found)) if flow in self._flows), None)
        if flow is None or not is_of(self._wanted.client, flow):
            return None
        return Match(_leg(caught, forth=flow == found, by_member=bool(member)), flow, member, self._interface)

    def comment(self, match: Match, verdict: LiveVerdict | None) -> str | None:
        """Return what is written beside a frame, None for one that is not wanted."""
        if not match.member and verdict is not None and verdict.member is None and verdict.drop is None:
            self._flows.pop(match.flow, None)  # the datapath leaves it to the host
            return None
        return said(self.rule, self._wanted, match, verdict)

    def _note(self, found: Flow, wire: Wire) -> None:
        """Keep a flow in mind that came by the rule's interface, unless it is an answer to one, or for the host."""
        if turned(found) in self._flows or found.destination in wire.own:
            return
        self._flows.pop(found, None)
        self._flows[found] = None
        if len(self._flows) > self._most:
            del self._flows[next(iter(self._flows))]

    def _name(self, address: Address | None) -> str:
        return "" if address is None else self._names.get(address, "")


def _leg(caught: Caught, *, forth: bool, by_member: bool) -> Leg:
    """Return where a frame is; `forth` as its flow goes, else an answer."""
    if caught.outbound:
        return Leg.TO_MEMBER if by_member else Leg.TO_SERVER if forth else Leg.TO_CLIENT
    return Leg.FROM_MEMBER if by_member else Leg.FROM_CLIENT if forth else Leg.FROM_SERVER
