"""No two rules claim the same frontend, protocol and port.

Each rule claims a range of ports on a frontend for tcp, udp or HA ports. HA ports stand beside the others: the
most specific claim wins, which is no conflict. Claims are taken in the order of the file; one that meets a claim
taken before is refused and takes nothing. What is taken is disjoint and sorted, so one bisection finds a conflict.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.errors import Path
from asynclb.net.flow import Protocol

FRONTEND_PORT_TAKEN = "FRONTEND_PORT_TAKEN"
"""The problem code of two rules, of any kind, for one port of a frontend. Azure's own code for it is not documented."""


@dataclass(frozen=True, slots=True)
class _Claim:
    first: int
    last: int
    path: Path
    name: str

    def __str__(self) -> str:
        return f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(slots=True)
class _Taken:
    """The claims on one frontend and protocol. Owner: one call of `check_ports`."""

    firsts: list[int] = field(default_factory=list)
    claims: list[_Claim] = field(default_factory=list)

    def take(self, claim: _Claim) -> _Claim | None:
        """Take a claim, or return the one that is in its way."""
        position = bisect_right(self.firsts, claim.last)
        if position and self.claims[position - 1].last >= claim.first:
            return self.claims[position - 1]
        self.firsts.insert(position, claim.first)
        self.claims.insert(position, claim)
        return None


def check_ports(draft: Draft, report: Report) -> None:
    """Refuse rules that claim what another rule has."""
    taken: dict[tuple[str, Protocol], _Taken] = defaultdict(_Taken)
    refused: set[Path] = set()
    for (frontend, protocol), claim in _claims(draft):
        other = taken[frontend, protocol].take(claim)
        if other is not None and claim.path not in refused:
            refused.add(claim.path)
            _clash(frontend, protocol, other, claim, report)


def _claims(draft: Draft) -> Iterator[tuple[tuple[str, Protocol], _Claim]]:
    for index, rule in draft.rules.items():
        path: Path = ("rules", index, "frontend_port")
        if (rule.protocol is Protocol.ALL) == (rule.frontend_port == 0):
            yield (rule.frontend, rule.protocol), _Claim(rule.frontend_port, rule.frontend_port, path, rule.name)
    for index, nat in draft.nat_rules.items():
        key = "frontend_port" if nat.frontend_port is not None else "frontend_port_range"
        ports = nat.frontend_port_range or (nat.frontend_port, nat.frontend_port)
        if ports[0] is None or ports[1] is None:
            continue
        claim = _Claim(ports[0], ports[1], ("inbound_nat_rules", index, key), nat.name)
        protocols = (Protocol.TCP, Protocol.UDP) if nat.protocol is Protocol.ALL else (nat.protocol,)
        for protocol in protocols:
            yield (nat.frontend, protocol), claim


def _clash(frontend: str, protocol: Protocol, first: _Claim, second: _Claim, report: Report) -> None:
    line = report.source.place(first.path)[0]
    what = "HA ports" if protocol is Protocol.ALL else f"{protocol} {first}"
    rule = f"rule {first.name} (line {line}) has {what} on frontend {frontend}"
    remedy = "change the port or the frontend of one of the two"
    report.problem(second.path, second, rule, remedy, code=FRONTEND_PORT_TAKEN)
