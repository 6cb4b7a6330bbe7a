"""Which frames are a rule's."""

from ipaddress import ip_address

import pytest

from asynclb.net.flow import Flow
from asynclb.observe.capture.scope import Leg, Match, Scope, Wanted
from asynclb.observe.capture.tap import Caught
from asynclb.tables.row import Delivery
from tests.unit.core.world import pool, row

CLIENT, VIP, MEMBER = (ip_address(text) for text in ("198.51.100.7", "203.0.113.10", "10.1.0.11"))
ASKED = Flow(CLIENT, 41000, VIP, 80, 6)


@pytest.mark.parametrize(
    ("delivery", "found", "match"),
    [
        (Delivery.NAT, Flow(CLIENT, 41000, MEMBER, 8080, 6), Match(Leg.TO_MEMBER, ASKED, "m0")),
        (Delivery.NAT, Flow(MEMBER, 8080, CLIENT, 41000, 6), Match(Leg.FROM_MEMBER, ASKED, "m0")),
        (Delivery.NAT, Flow(CLIENT, 41000, VIP, 8080, 6), None),
        (Delivery.FLOATING, ASKED, Match(Leg.FROM_CLIENT, ASKED)),
        (Delivery.FLOATING, Flow(CLIENT, 41000, VIP, 8080, 6), Match(Leg.TO_MEMBER, ASKED)),
        (Delivery.FLOATING, Flow(VIP, 8080, CLIENT, 41000, 6), Match(Leg.FROM_MEMBER, ASKED)),
        (Delivery.FLOATING, Flow(VIP, 80, CLIENT, 41000, 6), Match(Leg.TO_CLIENT, ASKED)),
        (Delivery.FLOATING, Flow(CLIENT, 41000, VIP, 443, 6), None),
        (Delivery.FLOATING, Flow(CLIENT, 41000, VIP, 8080, 17), None),
    ],
)
def test_both_sides_of_a_rule(delivery: Delivery, found: Flow, match: Match | None) -> None:
    """A frame on the members' side is of the client's flow: by the member's address, or by the VIP with its port."""
    scope = Scope([row(pool("web", str(MEMBER)), str(VIP), 80, 8080, delivery=delivery)], Wanted())
    assert scope.match(found, Caught(b"", 0, "eth0", outbound=False, at_ns=0)) == match
