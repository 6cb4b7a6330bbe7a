"""One file per rule kind: a rule becomes rows of the forwarding tables, or a reason why it cannot. Pure.

Every rule of a model is either in `rows_of` or in `unsupported`; none is passed over in silence.
"""

from asynclb.errors import Problem
from asynclb.model import Model
from asynclb.rules import ha_ports, inbound_nat, load_balancing, outbound
from asynclb.tables.row import Row

__all__ = ["rows_of", "unsupported"]


def rows_of(model: Model) -> tuple[Row, ...]:
    """Return what the model's rules ask of the forwarding tables.

    Order: by kind, then as in the model; tables do not depend on it.
    """
    return load_balancing.rows(model) + ha_ports.rows(model)


def unsupported(model: Model) -> tuple[Problem, ...]:
    """Return one problem for each rule that nothing here can execute yet."""
    return inbound_nat.unsupported(model) + outbound.unsupported(model)
