"""What a configuration wants of its host. Without one, everything is looked at and nothing is demanded."""

from dataclasses import dataclass

from asynclb.config import load
from asynclb.model import DatapathName, Model
from asynclb.net.address import Address

DATAPATHS = ("proxy", "packet", "kernel")
MOST_PORT = 65_535
MOST_MEMBERS = 200  # whose neighbours are looked at: about 1 ms each


@dataclass(frozen=True, slots=True)
class Wants:
    """`named` datapaths must work; `members` are to be reached; `interfaces` are used by name."""

    named: frozenset[str] = frozenset()
    members: tuple[tuple[str, Address], ...] = ()
    interfaces: frozenset[str] = frozenset()
    xdp: frozenset[str] = frozenset()
    """Interfaces that programs are to be attached to by XDP."""
    transparent: bool = True
    routed: bool = False
    lowest_port: int = 0
    source: str = ""


def wants_of(config: str | None) -> Wants:
    """Return what a configuration wants. Raises: ConfigError -> it is refused."""
    return Wants() if config is None else wants_of_model(load(config).model, config)


def wants_of_model(model: Model, source: str) -> Wants:
    """Return what a model wants."""
    datapaths = {str(rule.datapath or model.datapath) for rule in model.rules} or {str(model.datapath)}
    members = {
        member.address: f"{pool.name}/{member.name}" for pool in model.backend_pools.values() for member in pool.members
    }
    ports = [rule.frontend_port for rule in model.rules] + [rule.first_port for rule in model.inbound_nat_rules]
    named = {frontend.interface for frontend in model.frontends.values() if frontend.interface}
    return Wants(
        named=frozenset(datapaths - {str(DatapathName.AUTO)}),
        members=tuple((name, address) for address, name in members.items())[:MOST_MEMBERS],
        interfaces=frozenset((*model.interfaces, *named)),
        xdp=frozenset(name for name, attach in model.interfaces.items() if attach == "xdp"),
        transparent=any(rule.transparent for rule in model.rules),
        lowest_port=min((port for port in ports if port), default=MOST_PORT),
        routed=any(frontend.routed for frontend in model.frontends.values()),
        source=source,
    )
