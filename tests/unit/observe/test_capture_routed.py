"""Which frames a capture of a next hop's rule shows: told from link addresses, for flows of its own alone."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from asynclb.datapath.ask import LiveVerdict
from asynclb.datapath.base import Wire
from asynclb.net.drop import Drop
from asynclb.net.flow import Flow, Protocol
from asynclb.observe.capture.routed import RoutedScope
from asynclb.observe.capture.scope import Leg, Wanted
from asynclb.observe.capture.tap import Caught
from asynclb.tables.row import Delivery, Row
from tests.unit.proxy.world import member, row

US, NVA, HOST1, HOST2 = (bytes((2, 0, 0, 0, 0, last)) for last in (1, 11, 101, 102))
NVA_ADDRESS, OURS = ip_address("10.0.0.11"), ip_address("10.1.1.1")
WIRE = Wire(frozenset({OURS}), {NVA: NVA_ADDRESS})
THERE = Flow(ip_address("10.1.1.10"), 41_000, ip_address("10.1.2.10"), 7, 17)
BACK = Flow(THERE.destination, 7, THERE.source, 41_000, 17)


def rule() -> Row:
    """Return a next hop's rule for what comes by spoke1."""
    found = row("10.0.0.201", 0, [member("nva1", str(NVA_ADDRESS))], 0, protocol=Protocol.ALL)
    frontend = replace(found.frontend, interface="spoke1", routed=True)
    return replace(found, frontend=frontend, delivery=Delivery.ROUTED)


def scope(wanted: Wanted | None = None, most: int = 10) -> RoutedScope:
    """Return what is shown of it."""
    return RoutedScope(rule(), wanted or Wanted(), lambda: WIRE, {NVA_ADDRESS: "nva1"}, most)


def frame(interface: str, source: bytes, to: bytes) -> Caught:
    """Return a frame; it leaves if it is ours."""
    return Caught(to + source + b"\x08\x00", 60, interface, source == US, 0)


JOURNEY = [
    (THERE, frame("spoke1", HOST1, US), Leg.FROM_CLIENT, ""),
    (THERE, frame("inner", US, NVA), Leg.TO_MEMBER, "nva1"),
    (THERE, frame("inner", NVA, US), Leg.FROM_MEMBER, "nva1"),
    (THERE, frame("spoke2", US, HOST2), Leg.TO_SERVER, ""),
    (BACK, frame("spoke2", HOST2, US), Leg.FROM_SERVER, ""),
    (BACK, frame("inner", US, NVA), Leg.TO_MEMBER, "nva1"),
    (BACK, frame("inner", NVA, US), Leg.FROM_MEMBER, "nva1"),
    (BACK, frame("spoke1", US, HOST1), Leg.TO_CLIENT, ""),
]


def test_a_flow_is_seen_on_its_whole_way_and_back() -> None:
    """Every frame says where it is, with the member whose link address it has; the flow is always the client's."""
    view = scope()
    for flow, caught, leg, name in JOURNEY:
        found = view.match(flow, caught)
        assert found is not None
        assert (found.leg, found.member, found.flow, found.interface) == (leg, name, THERE, "spoke1")


def test_what_came_by_another_interface_is_another_rules() -> None:
    """A flow that begins at the other end is not shown, nor are its frames to members."""
    view = scope()
    assert view.match(BACK, frame("spoke2", HOST2, US)) is None
    assert view.match(BACK, frame("inner", US, NVA)) is None


@pytest.mark.parametrize(
    ("flow", "caught"),
    [
        (replace(THERE, destination=OURS), frame("spoke1", HOST1, US)),
        (THERE, frame("spoke1", HOST1, b"\xff" * 6)),
        (THERE, frame("spoke1", NVA, US)),
        (Flow(ip_address("fd00::1"), 1, ip_address("fd00::2"), 2, 17), frame("spoke1", HOST1, US)),
    ],
    ids=["for the host", "for everybody", "from a member", "of the other family"],
)
def test_what_begins_no_flow(flow: Flow, caught: Caught) -> None:
    """What the rule does not take is not shown."""
    assert scope().match(flow, caught) is None


def test_both_ends_behind_one_interface() -> None:
    """An answer that comes by the rule's own interface is an answer, and no flow of its own."""
    view = scope()
    view.match(THERE, frame("spoke1", HOST1, US))
    found = view.match(BACK, frame("spoke1", HOST2, US))
    assert found is not None
    assert (found.leg, found.flow) == (Leg.FROM_SERVER, THERE)


def test_only_what_was_asked_for() -> None:
    """Clients and members are chosen as with other rules; a single client is looked for in the kernel."""
    one = scope(Wanted(client=ip_network("10.1.1.10/32")))
    assert one.addresses == {ip_address("10.1.1.10")}
    assert one.match(THERE, JOURNEY[0][1]) is not None
    others = scope(Wanted(client=ip_network("10.9.0.0/16")))
    assert others.addresses is None
    assert others.match(THERE, JOURNEY[0][1]) is None
    found = one.match(THERE, JOURNEY[1][1])
    assert found is not None
    assert scope(Wanted(member="nva2")).comment(found, None) is None


def test_comments() -> None:
    """A frame has its member or why it is dropped beside it; what the datapath leaves to the host is forgotten."""
    view = scope()
    found = view.match(THERE, JOURNEY[0][1])
    assert found is not None
    taken, dropped = LiveVerdict(("pool", "nva1"), None), LiveVerdict(None, Drop.NO_ELIGIBLE_MEMBER)
    assert view.comment(found, taken) == "rule web: from client, member nva1"
    assert view.comment(found, dropped) == "rule web: from client, dropped: no_eligible_member"
    assert view.comment(found, LiveVerdict(None, None)) is None
    assert view.match(BACK, frame("spoke1", US, HOST1)) is None


def test_flows_in_mind_are_bounded() -> None:
    """Beyond the bound the flow that was silent for longest is forgotten."""
    view = scope(most=2)
    flows = [replace(THERE, source_port=port) for port in (1, 2, 3)]
    for flow in (*flows[:2], flows[0], flows[2]):
        assert view.match(flow, JOURNEY[0][1]) is not None
    assert [view.match(flow, JOURNEY[1][1]) is not None for flow in flows] == [True, False, True]
