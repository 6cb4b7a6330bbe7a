"""HA-ports rules: every port of every protocol on a frontend, spread over a pool.

On a routed frontend the balancer is a next hop: packets are for other addresses and keep theirs, and both
directions of a connection pass. The hash is symmetric there, so that a stateful appliance sees both.
"""

from asynclb.model import Frontend, LoadBalancingRule, Model
from asynclb.net.flow import Protocol
from asynclb.tables.row import Delivery, FrontendKey, Row


def rows(model: Model) -> tuple[Row, ...]:
    """Return the rows of the model's HA-ports rules. Order: as in the model."""
    return tuple(_row(model, rule) for rule in model.rules if rule.protocol is Protocol.ALL)


def _row(model: Model, rule: LoadBalancingRule) -> Row:
    frontend = model.frontends[rule.frontend]
    key = FrontendKey(frontend.address, 0, Protocol.ALL)
    pool = model.backend_pools[rule.backend_pool]
    return Row(key, rule, frontend, pool, _delivery(rule, frontend), symmetric=frontend.routed)


def _delivery(rule: LoadBalancingRule, frontend: Frontend) -> Delivery:
    if frontend.routed:
        return Delivery.ROUTED
    return Delivery.FLOATING if rule.floating_ip else Delivery.NAT
