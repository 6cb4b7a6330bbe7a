"""Who leaves, whose connections go on, and until when."""

from dataclasses import replace
from ipaddress import ip_address

from asynclb.datapath.core.leaving import Leaving, member_names
from asynclb.model import AdminState, BackendPool, Member
from asynclb.net.flow import Protocol
from asynclb.tables.row import Delivery, Row
from tests.unit.core.world import ha, pool, row

VIP, OTHER = "203.0.113.10", "203.0.113.11"


def shrunk(backend: BackendPool, *names: str, drain_s: float = 300.0) -> BackendPool:
    """Return a pool without some members."""
    return BackendPool(backend.name, tuple(m for m in backend.members if m.name not in names), drain_s)


def left(leaving: Leaving) -> list[tuple[str, str, float]]:
    """Return (rule, member, until) of everything that leaves."""
    return [(p.row.rule.name, m.name, p.until_s) for p in leaving.partings for m in p.row.pool.members]


BOTH = pool("web", "10.1.0.11", "10.1.0.12")
RULE = row(BOTH, VIP)
NAME = RULE.rule.name


def with_pool(found: Row, backend: BackendPool) -> Row:
    """Return a rule over another pool."""
    return replace(found, pool=backend)


def test_a_removed_member_leaves_for_the_drain_period_of_its_pool() -> None:
    """The period is that of the new configuration, and nothing is left when it is over."""
    leaving = Leaving().followed([RULE], [with_pool(RULE, shrunk(BOTH, "m1", drain_s=60))], 1000.0)
    assert left(leaving) == [(NAME, "m1", 1060.0)]
    assert leaving.next_s == 1060.0
    assert leaving.over(1059.0) == ()
    over = leaving.over(1060.0)
    assert leaving.without(over) == Leaving()


def test_a_reload_does_not_prolong_a_parting() -> None:
    """Whatever else changes, who left once has the time that was given then."""
    without = with_pool(RULE, shrunk(BOTH, "m1"))
    leaving = Leaving().followed([RULE], [without], 0.0)
    again = leaving.followed([without], [replace(without, symmetric=True)], 100.0)
    assert left(again) == left(leaving) == [(NAME, "m1", 300.0)]
    removed = again.followed([without], [], 200.0)
    assert left(removed) == [(NAME, "m1", 300.0), (NAME, "m0", 500.0)]


def test_who_comes_back_has_never_left() -> None:
    """A member that is in the pool again with its address keeps its connections for good."""
    without = with_pool(RULE, shrunk(BOTH, "m1"))
    leaving = Leaving().followed([RULE], [without], 0.0)
    assert leaving.followed([without], [RULE], 100.0) == Leaving()


def test_another_address_is_another_member() -> None:
    """The old one leaves; its name is in the pool all the same."""
    moved = BackendPool("web", (BOTH.members[0], Member("m1", ip_address("10.1.0.99"))))
    leaving = Leaving().followed([RULE], [with_pool(RULE, moved)], 0.0)
    assert [str(m.address) for m in leaving.rows[0].pool.members] == ["10.1.0.12"]
    assert leaving.followed([with_pool(RULE, moved)], [with_pool(RULE, moved)], 1.0) == leaving


def test_a_draining_member_has_the_same_time() -> None:
    """It is in the pool still; when it drained before, nothing starts again."""
    drained = replace(BOTH.members[1], admin_state=AdminState.DRAIN)
    draining = with_pool(RULE, BackendPool("web", (BOTH.members[0], drained)))
    leaving = Leaving().followed([RULE], [draining], 0.0)
    assert left(leaving) == [(NAME, "m1", 300.0)]
    assert Leaving().followed([draining], [replace(draining, symmetric=True)], 400.0) == Leaving()
    assert leaving.followed([draining], [RULE], 100.0) == Leaving()


def test_a_removed_rule_leaves_with_all_its_members() -> None:
    """One that is there again in time goes on with them."""
    leaving = Leaving().followed([RULE], [], 0.0)
    assert [name for _, name, _ in left(leaving)] == ["m0", "m1"]
    assert leaving.followed([], [RULE], 10.0) == Leaving()


def test_a_rule_that_moves_to_another_frontend_leaves_the_old_one() -> None:
    """Its name is in force elsewhere; connections to the old address have their time."""
    leaving = Leaving().followed([RULE], [row(BOTH, OTHER)], 0.0)
    assert [str(found.key.address) for found in leaving.rows] == [VIP]


def test_another_pool_or_port_or_delivery_is_another_way() -> None:
    """Connections go on as they were delivered."""
    for changed in (
        with_pool(RULE, replace(BOTH, name="green")),
        row(BOTH, VIP, 80, 8080),
        replace(RULE, delivery=Delivery.FLOATING),
    ):
        assert len(left(Leaving().followed([RULE], [changed], 0.0))) == 2


def test_only_tcp_connections_stay() -> None:
    """A UDP rule has none, but for members that drain; a rule for all protocols has some."""
    dns = row(BOTH, VIP, 53, protocol=Protocol.UDP)
    assert Leaving().followed([dns], [], 0.0) == Leaving().followed([dns], [with_pool(dns, shrunk(BOTH, "m1"))], 0.0)
    drained = BackendPool("web", (replace(BOTH.members[0], admin_state=AdminState.DRAIN), BOTH.members[1]))
    assert [name for _, name, _ in left(Leaving().followed([dns], [with_pool(dns, drained)], 0.0))] == ["m0"]
    assert len(left(Leaving().followed([ha(BOTH, VIP)], [], 0.0))) == 2


def test_members_are_named_once() -> None:
    """Rules share their pools."""
    assert len(list(member_names([RULE, row(BOTH, OTHER)]))) == 2
