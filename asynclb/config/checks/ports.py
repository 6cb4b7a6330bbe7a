"""No two rules claim the same frontend, protocol and port.

Each rule claims a range of ports on a frontend for tcp, udp or HA ports. HA ports stand beside the others: the
most specific claim wins, which is no conflict. Claims are sorted and swept, so the cost is n log n.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.errors import Path
from asynclb.net.flow import Protocol


@dataclass(frozen=True, slots=True, order=True)
class _Claim:
    first: int
    last: int
    order: int
    path: Path
    name: str

    def __str__(self) -> str:
        return f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"


def check_ports(draft: Draft, report: Report) -> None:
    """Refuse rules that claim what another rule has."""
    claims: dict[tuple[str, Protocol], list[_Claim]] = defaultdict(list)
    for key, claim in _claims(draft):
        claims[key].append(claim)
    reported: set[Path] = set()
    for (frontend, protocol), found in claims.items():
        widest: _Claim | None = None
        for claim in sorted(found):
            if widest is not None and claim.first <= widest.last:
                first, second = (widest, claim) if widest.order < claim.order else (claim, widest)
                if second.path not in reported:
                    reported.add(second.path)
                    _clash(frontend, protocol, first, second, report)
            if widest is None or claim.last > widest.last:
                widest = claim


def _claims(draft: Draft) -> Iterator[tuple[tuple[str, Protocol], _Claim]]:
    order = 0
    for index, rule in draft.rules.items():
        path: Path = ("rules", index, "frontend_port")
        if (rule.protocol is Protocol.ALL) == (rule.frontend_port == 0):
            yield (rule.frontend, rule.protocol), _Claim(rule.frontend_port, rule.frontend_port, order, path, rule.name)
        order += 1
    for index, nat in draft.nat_rules.items():
        key = "frontend_port" if nat.frontend_port is not None else "frontend_port_range"
        ports = nat.frontend_port_range or (nat.frontend_port, nat.frontend_port)
        if ports[0] is None or ports[1] is None:
            continue
        claim = _Claim(ports[0], ports[1], order, ("inbound_nat_rules", index, key), nat.name)
        protocols = (Protocol.TCP, Protocol.UDP) if nat.protocol is Protocol.ALL else (nat.protocol,)
        for protocol in protocols:
            yield (nat.frontend, protocol), claim
        order += 1


def _clash(frontend: str, protocol: Protocol, first: _Claim, second: _Claim, report: Report) -> None:
    line = report.source.place(first.path)[0]
    what = "HA ports" if protocol is Protocol.ALL else f"{protocol} {first}"
    rule = f"rule {first.name} (line {line}) has {what} on frontend {frontend}"
    report.problem(second.path, second, rule, "change the port or the frontend of one of the two")
