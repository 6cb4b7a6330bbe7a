"""Floating IP with another backend port: members see the frontend's address with their port, and answer from there.

What passes this host on its way to a client is written back to the frontend's port. An answer says no more than the
address and port that it comes from, so on one address and protocol a port of members' belongs to one rule, and where
ports change, a range of inbound NAT, whose members all have one port, cannot be told apart.

Source: Azure Load Balancer documentation on multiple frontends: every rule has its own (destination, port) at members.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from asynclb.config.checks.deliveries import BACKEND_PORT_CLASH
from asynclb.config.draft import Draft
from asynclb.config.report import Report
from asynclb.errors import Path
from asynclb.net.address import Address, endpoint
from asynclb.net.flow import Protocol


@dataclass(frozen=True, slots=True)
class _Seen:
    """A floating rule as members see it. `ports` are those that clients ask."""

    name: str
    path: Path
    address: Address
    protocol: Protocol
    ports: tuple[int, int]
    port: int
    members: int

    @property
    def changes(self) -> bool:
        """Whether members see another port than clients do, some of them at least."""
        return self.ports != (self.port, self.port)


def check_floating(draft: Draft, report: Report) -> None:
    """Refuse answers that could not be told apart; say which have to pass this host."""
    taken: dict[tuple[Address, Protocol, int], _Seen] = {}
    told: set[str] = set()
    every_port = {
        draft.frontends[rule.frontend].address: rule.name
        for rule in draft.rules.values()
        if rule.protocol is Protocol.ALL and rule.floating_ip and rule.frontend in draft.frontends
    }
    for seen in _all_seen(draft):
        first = taken.setdefault((seen.address, seen.protocol, seen.port), seen)
        if report.full or seen.name in told:
            continue
        if seen.changes and seen.ports[0] != seen.ports[1] and seen.members > 1:
            told.add(seen.name)
            _range(seen, report)
        elif first is not seen and (first.changes or seen.changes):
            told.add(seen.name)
            _clash(seen, first, report)
        elif seen.changes:
            told.add(seen.name)
            _way_back(seen, report)
            if seen.address in every_port:
                _beside_ha_ports(seen, every_port[seen.address], report)


def _all_seen(draft: Draft) -> Iterator[_Seen]:
    for index, rule in draft.rules.items():
        frontend = draft.frontends.get(rule.frontend)
        if rule.floating_ip and rule.protocol is not Protocol.ALL and frontend is not None:
            port = rule.frontend_port
            ends = (frontend.address, rule.protocol, (port, port), rule.backend_port or port)
            yield _Seen(rule.name, ("rules", index), *ends, _members(draft, rule.backend_pool))
    for index, nat in draft.nat_rules.items():
        frontend = draft.frontends.get(nat.frontend)
        ports = nat.frontend_port_range or (nat.frontend_port or nat.backend_port,) * 2
        members = 1 if nat.frontend_port_range is None else _members(draft, nat.backend_pool)
        if not nat.floating_ip or frontend is None:
            continue
        for protocol in (Protocol.TCP, Protocol.UDP) if nat.protocol is Protocol.ALL else (nat.protocol,):
            ends = (frontend.address, protocol, ports, nat.backend_port)
            yield _Seen(nat.name, ("inbound_nat_rules", index), *ends, members)


def _members(draft: Draft, name: str) -> int:
    pool = draft.pools.get(name)
    return 0 if pool is None else len(pool.members)


def _way_back(seen: _Seen, report: Report) -> None:
    """Warn that the usual way of floating IP, straight to the client, is not open."""
    asked = seen.ports[0] if seen.ports[0] == seen.ports[1] else "the client's"
    source = endpoint(seen.address, seen.port)
    law = f"members answer from {source}, and only what passes this host on its way to the client is written back to"
    look = f"`asynclb doctor --member {source} --floating --frontend-port {seen.ports[0]}` looks at a member"
    remedy = (
        f"have members' route to clients lead through this host ({look}), "
        f"or let members listen on {seen.ports[0]} and write `backend_port: {seen.ports[0]}`"
    )
    report.warning((*seen.path, "backend_port"), seen.port, f"{law} port {asked}", remedy)


def _beside_ha_ports(seen: _Seen, other: str, report: Report) -> None:
    """Warn of the one client that both rules may have: the same address and port, to the same port of members."""
    source = endpoint(seen.address, seen.port)
    law = (
        f"rule {other} (HA ports) leads clients of {source} to that port as well, "
        f"and a client that uses one source port for both is answered as if it had asked {seen.ports[0]}"
    )
    remedy = f"write `backend_port: {seen.ports[0]}`, or give one of the two a frontend of its own"
    report.warning((*seen.path, "backend_port"), seen.port, law, remedy)


def _clash(second: _Seen, first: _Seen, report: Report) -> None:
    source = endpoint(second.address, second.port)
    law = (
        f"rule {first.name} has members answer from {second.protocol} {source} too, "
        "so that an answer could be to a client of either rule"
    )
    remedy = "give one of the two another `backend_port`, on which its members listen, or another frontend"
    report.problem((*second.path, "backend_port"), second.port, law, remedy, code=BACKEND_PORT_CLASH)


def _range(seen: _Seen, report: Report) -> None:
    law = (
        f"with `floating_ip` all {seen.members} members of the range answer from {endpoint(seen.address, seen.port)}, "
        "so that nobody could tell which port of the range a client has asked"
    )
    remedy = (
        "write `floating_ip: false`, or in the place of the range a rule for each member, "
        "with its `frontend_port`, `member` and a `backend_port` of its own"
    )
    where = (*seen.path, "frontend_port_range")
    report.problem(where, f"{seen.ports[0]}-{seen.ports[1]}", law, remedy, code=BACKEND_PORT_CLASH)
