"""Load-balancing rules: one port of TCP or UDP on a frontend, spread over a pool."""

from asynclb.model import LoadBalancingRule, Model
from asynclb.net.flow import Protocol
from asynclb.tables.row import Delivery, FrontendKey, Row


def rows(model: Model) -> tuple[Row, ...]:
    """Return the rows of the model's TCP and UDP rules. Order: as in the model."""
    return tuple(_row(model, rule) for rule in model.rules if rule.protocol is not Protocol.ALL)


def _row(model: Model, rule: LoadBalancingRule) -> Row:
    frontend = model.frontends[rule.frontend]
    key = FrontendKey(frontend.address, rule.frontend_port, rule.protocol)
    delivery = Delivery.FLOATING if rule.floating_ip else Delivery.NAT
    return Row(key, rule, frontend, model.backend_pools[rule.backend_pool], delivery)
