"""Which frames are a rule's, which way they go, and what becomes of them. Pure. Rules that are next hops: `routed`.

A rule that has an address of its own has two sides: client and VIP, VIP and member. A frame belongs to it when its ends
are those of one side; the client's flow is the same one on both, which is what the datapath is asked about. Where
floating IP changes the port alone, the member's side is the VIP with that port.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol as Interface

from asynclb.datapath.ask import LiveVerdict
from asynclb.net.address import Address, Prefix
from asynclb.net.flow import PROTOCOL_NUMBERS, Flow, Protocol
from asynclb.observe.capture.tap import Caught
from asynclb.tables.row import FrontendKey, Row


class Leg(StrEnum):
    """Where a frame is on its way."""

    FROM_CLIENT = "from client"
    TO_CLIENT = "to client"
    TO_MEMBER = "to member"
    FROM_MEMBER = "from member"
    TO_SERVER = "to server"
    """On from a member that frames are routed through."""
    FROM_SERVER = "from server"


@dataclass(frozen=True, slots=True)
class Match:
    """A frame that is a rule's: `flow` is the client's, as it reaches the frontend."""

    leg: Leg
    flow: Flow
    member: str = ""
    """Whose address is on the frame, '' where none is."""
    interface: str | None = None
    """Where the flow comes in, if it makes a difference."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants to see. Empty fields let everything through."""

    member: str = ""
    client: Prefix | None = None


class View(Interface):
    """What a capture shows."""

    @property
    def addresses(self) -> frozenset[Address] | None:
        """Addresses of which every frame has one; None where others are shown, too."""

    def match(self, found: Flow, caught: Caught) -> Match | None:
        """Return what a frame with these ends is to the rule, or None."""

    def comment(self, match: Match, verdict: LiveVerdict | None) -> str | None:
        """Return what is written beside a frame, None for one that is not wanted."""


class Scope:
    """The rows of one rule, as they were when the capture began."""

    def __init__(self, rows: Collection[Row], wanted: Wanted) -> None:
        self.rule = next(iter(rows)).rule.name
        self._wanted = wanted
        self._rows: Mapping[FrontendKey, Row] = {row.key: row for row in rows}
        self._vips = {row.key.address for row in rows}
        self._members = {member.address: member.name for row in rows for member in row.pool.members}
        self._ends = {*self._members, *(row.key.address for row in rows if row.changes_port)}

    @property
    def addresses(self) -> frozenset[Address]:
        """Every address that the rule's frames have one of."""
        return frozenset(self._vips | self._members.keys())

    def match(self, found: Flow, caught: Caught) -> Match | None:  # noqa: ARG002  the ends are enough
        """Return what a frame with these ends is to the rule, or None."""
        match = self._match(found)
        return match if match is not None and is_of(self._wanted.client, match.flow) else None

    def comment(self, match: Match, verdict: LiveVerdict | None) -> str | None:
        """Return what is written beside a frame, None for one that is not wanted."""
        return said(self.rule, self._wanted, match, verdict)

    def _match(self, found: Flow) -> Match | None:
        if found.destination in self._vips and self._has(found.destination, found.destination_port, found.protocol):
            return Match(Leg.FROM_CLIENT, found)
        if found.source in self._vips and self._has(found.source, found.source_port, found.protocol):
            return Match(Leg.TO_CLIENT, turned(found))
        if found.destination in self._ends:
            return self._of_member(found, Leg.TO_MEMBER)
        return self._of_member(turned(found), Leg.FROM_MEMBER) if found.source in self._ends else None

    def _has(self, address: Address, port: int, protocol: int) -> bool:
        return any(
            row.key.address == address and row.key.port in (0, port) and _speaks(row, protocol)
            for row in self._rows.values()
        )

    def _of_member(self, inward: Flow, leg: Leg) -> Match | None:
        """Return the match of a frame between a client and what a member answers from."""
        for row in self._rows.values():
            if row.member_port in (0, inward.destination_port) and _speaks(row, inward.protocol):
                to = row.key.port or inward.destination_port
                flow = Flow(inward.source, inward.source_port, row.key.address, to, inward.protocol)
                return Match(leg, flow, self._members.get(inward.destination, ""))
        return None


def said(rule: str, wanted: Wanted, match: Match, verdict: LiveVerdict | None) -> str | None:
    """Return what is said of a frame, None when another member is wanted."""
    member = match.member or (verdict.member[1] if verdict is not None and verdict.member is not None else "")
    if wanted.member not in ("", member):
        return None
    words = f"rule {rule}: {match.leg}"
    if verdict is not None and verdict.drop is not None and not match.member:
        return f"{words}, dropped: {verdict.drop}"
    return f"{words}, member {member}" if member else words


def is_of(client: Prefix | None, flow: Flow) -> bool:
    """Return whether a flow is of a client who is wanted."""
    return client is None or (flow.source.version == client.version and flow.source in client)


def turned(flow: Flow) -> Flow:
    """Return the flow that answers it."""
    return Flow(flow.destination, flow.destination_port, flow.source, flow.source_port, flow.protocol)


def _speaks(row: Row, protocol: int) -> bool:
    return row.key.protocol is Protocol.ALL or PROTOCOL_NUMBERS[row.key.protocol] == protocol
