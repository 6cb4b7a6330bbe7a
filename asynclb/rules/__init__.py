"""One file per rule kind: a rule becomes rows of the forwarding tables, or a reason why it cannot. Pure.

Every rule of a model is in `rows_of` or, if it is an outbound rule, in `snat_rules`; none is passed over in silence.
"""

from asynclb.errors import Path, Problem
from asynclb.model import Model
from asynclb.rules import ha_ports, inbound_nat, load_balancing, zones
from asynclb.rules.inbound_nat import NatPorts, assign_ports
from asynclb.rules.outbound import snat_rules
from asynclb.tables.row import Row

__all__ = ["NatPorts", "assign_ports", "path_of", "rows_of", "snat_rules", "unchangeable"]


def rows_of(model: Model, nat_ports: NatPorts | None = None) -> tuple[Row, ...]:
    """Return what the model's rules ask of the forwarding tables.

    `nat_ports` are the ports of inbound NAT rules, from `assign_ports`; None assigns them afresh.
    Order: by kind, then as in the model; tables do not depend on it.
    """
    ports = assign_ports(model, {}) if nat_ports is None else nat_ports
    return load_balancing.rows(model) + ha_ports.rows(model) + inbound_nat.rows(model, ports)


def unchangeable(model: Model, active: Model, nat_ports: NatPorts) -> tuple[Problem, ...]:
    """Return one problem for each change from the active model that traffic, or Azure, does not allow.

    `nat_ports` are the ports that inbound NAT rules have given to members so far.
    """
    return inbound_nat.stranded(model, active, nat_ports) + zones.moved(model, active)


def path_of(model: Model, rule: str) -> Path:
    """Return where a row's rule stands in the configuration; `()` for a name that no rule has."""
    name = rule.partition("/")[0]
    if name in (names := [one.name for one in model.rules]):
        return ("rules", names.index(name))
    if name in (names := [one.name for one in model.inbound_nat_rules]):
        return ("inbound_nat_rules", names.index(name))
    if name in (names := [one.name for one in model.outbound_rules]):
        return ("outbound_rules", names.index(name))
    return ()
