"""Questions: the core and the BPF programs name the member that packets go to, and nothing is left behind."""

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from asynclb import native
from asynclb.datapath.ask import frame_of, question_of
from asynclb.datapath.core import Core
from asynclb.datapath.core.values import Asked, Verdict
from asynclb.datapath.kernel.ask import ask
from asynclb.net.drop import Drop
from asynclb.net.flow import Flow
from asynclb.tables.lookup import choose
from asynclb.tables.row import Delivery
from tests.unit.core.loaded import Loaded
from tests.unit.core.world import ANYONE, CLIENTS, SECOND, World, ha, pool, row, tcp, world

pytestmark = pytest.mark.skipif(not native.available, reason=native.reason)

VIP, ALICE = "203.0.113.10", "198.51.100.7"
MEMBERS = tuple(f"10.1.0.{number}" for number in range(11, 17))


def made() -> World:
    """Return a world with a bit of everything."""
    return world(
        row(pool("web", *MEMBERS), VIP, 80, 8080),
        row(pool("web6", "2001:db8:1::11", "2001:db8:1::12"), "2001:db8::10"),
        row(pool("nobody"), "203.0.113.40"),
        row(pool("closed", "10.1.0.21"), "203.0.113.50", allow=()),
        ha(pool("all", "10.1.0.31"), "203.0.113.60", delivery=Delivery.FLOATING),
    )


def flow(port: int, to: str = VIP, dport: int = 80) -> Flow:
    """Return a client's TCP flow."""
    client = ALICE if ":" not in to else "2001:db8:9::7"
    return Flow(ip_address(client), port, ip_address(to), dport, 6)


@pytest.fixture
def core() -> Iterator[Core]:
    """Give the test a core."""
    found = made().core()
    yield found
    found.close()


def asked(core: Core, question: Flow) -> Asked:
    """Ask the core."""
    return core.ask(frame_of(question), ifindex=CLIENTS, now_ns=SECOND)


def test_the_core_names_the_member_that_the_tables_choose(core: Core) -> None:
    """For many flows, and it keeps and counts none of them."""
    there = made()
    entry = next(iter(there.tables.entries.values()))
    for port in range(1000, 1200):
        verdict = choose(there.tables.seed, entry, flow(port))
        assert not isinstance(verdict, Drop)
        member = there.plan.members["web", verdict.member.name]
        assert asked(core, flow(port)) == Asked(Verdict.TX, None, member)
    assert core.flow_count() == 0
    assert core.counters().rules == core.counters().members == core.counters().drops == {}


def test_reasons(core: Core) -> None:
    """Who would be dropped hears why, and that is not counted either."""
    assert asked(core, flow(1, "203.0.113.40")).reason is Drop.NO_ELIGIBLE_MEMBER
    assert asked(core, flow(1, "203.0.113.50")).reason is Drop.SOURCE_NOT_ALLOWED
    assert asked(core, flow(1, VIP, 81)).reason is Drop.NO_RULE
    assert asked(core, flow(1, "203.0.113.99")).verdict is Verdict.PASS
    core.set_next_hop(0, None)
    assert Drop.NEXT_HOP_UNRESOLVED in {asked(core, flow(port)).reason for port in range(100)}
    assert core.counters().drops == {}


def test_a_flow_that_is_there_is_known(core: Core) -> None:
    """Its member is told, and that it is by the flow."""
    core.process(bytes(tcp(ALICE, 4000, VIP, 80)), ifindex=CLIENTS, now_ns=SECOND)
    core.process(bytes(tcp(ALICE, 4000, VIP, 80, 16)), ifindex=CLIENTS, now_ns=SECOND)
    assert asked(core, flow(4000)).known
    assert not asked(core, flow(4001)).known


def test_questions_about_rows() -> None:
    """A client is chosen who is allowed; without any there is no question."""
    rows = {str(key.address): entry.row for key, entry in made().tables.entries.items()}
    question = question_of(rows[VIP])
    assert question is not None
    assert any(question.source in prefix for prefix in ANYONE)
    assert question_of(rows["203.0.113.50"]) is None


def test_the_programs_say_the_same(core: Core, shared: Loaded) -> None:
    """Of every flow, with both families, and of every reason."""
    shared.show(made())
    shared.reset_counts()
    for question in (
        *(flow(port) for port in range(1000, 1050)),
        *(flow(port, "2001:db8::10") for port in range(1000, 1010)),
        *(flow(1, "203.0.113.40"), flow(1, "203.0.113.50"), flow(1, VIP, 81), flow(1, "203.0.113.99")),
        flow(1, "203.0.113.60", 7),
    ):
        assert of_programs(shared, question) == asked(core, question)
    assert shared.drops() == {}


def of_programs(programs: Loaded, question: Flow) -> Asked:
    """Ask the programs, in their network namespace."""
    program = programs.object.program("asynclb_ask")
    return programs.thread.submit(ask, programs.bpf, program, frame_of(question), CLIENTS).result()
