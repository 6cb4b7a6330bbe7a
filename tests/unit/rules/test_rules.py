"""Rules become rows, or a reason why not; none is passed over."""

from ipaddress import IPv4Address, ip_address

import pytest

from asynclb.model import (
    BackendPool,
    Frontend,
    LoadBalancingRule,
    Member,
    Model,
    Scope,
)
from asynclb.net.flow import Protocol
from asynclb.rules import rows_of
from asynclb.tables.row import Delivery, FrontendKey

POOL = BackendPool("web", (Member("web-1", IPv4Address("10.1.0.11")),))
WEB = Frontend("web", ip_address("203.0.113.10"), Scope.PUBLIC, ())
NVA = Frontend("nva", ip_address("10.0.1.4"), Scope.INTERNAL, (), interface="eth1", routed=True)


def rule(
    frontend: str = "web", protocol: Protocol = Protocol.TCP, port: int = 80, *, floating: bool = False
) -> LoadBalancingRule:
    """Return a load-balancing rule."""
    return LoadBalancingRule("rule", frontend, protocol, port, port, "web", floating_ip=floating)


def model(*rules: LoadBalancingRule, **more: object) -> Model:
    """Return a model with two frontends and one pool."""
    frontends, pools = {"web": WEB, "nva": NVA}, {"web": POOL}
    return Model(frontends=frontends, backend_pools=pools, rules=rules, **more)  # type: ignore[arg-type]  # by keyword


@pytest.mark.parametrize(
    ("wanted", "key", "delivery", "symmetric"),
    [
        (rule(), ("203.0.113.10", 80, "tcp"), Delivery.NAT, False),
        (rule(protocol=Protocol.UDP, port=53), ("203.0.113.10", 53, "udp"), Delivery.NAT, False),
        (rule(floating=True), ("203.0.113.10", 80, "tcp"), Delivery.FLOATING, False),
        (rule(protocol=Protocol.ALL, port=0), ("203.0.113.10", 0, "all"), Delivery.NAT, False),
        (rule(protocol=Protocol.ALL, port=0, floating=True), ("203.0.113.10", 0, "all"), Delivery.FLOATING, False),
        (rule("nva", Protocol.ALL, 0), ("10.0.1.4", 0, "all"), Delivery.ROUTED, True),
        (rule("nva", Protocol.ALL, 0, floating=True), ("10.0.1.4", 0, "all"), Delivery.ROUTED, True),
        (rule("nva", Protocol.TCP, 22), ("10.0.1.4", 22, "tcp"), Delivery.NAT, False),
    ],
)
def test_a_rule_becomes_a_row(
    wanted: LoadBalancingRule, key: tuple[str, int, str], delivery: Delivery, symmetric: bool
) -> None:
    """Port and protocol make the key; floating IP and a routed frontend decide the delivery and the symmetry."""
    (row,) = rows_of(model(wanted))
    address, port, protocol = key
    assert row.key == FrontendKey(ip_address(address), port, Protocol(protocol))
    assert (row.delivery, row.symmetric) == (delivery, symmetric)
    assert (row.rule, row.pool) == (wanted, POOL)
    assert row.frontend in (WEB, NVA)


def test_every_load_balancing_rule_has_one_row() -> None:
    """TCP, UDP and HA-ports rules are all there."""
    rules = [rule(port=80), rule(protocol=Protocol.ALL, port=0), rule(protocol=Protocol.UDP, port=53)]
    assert sorted(row.key.port for row in rows_of(model(*rules))) == [0, 53, 80]
