"""The table of IPv4 flows, as programs fill it and as the process walks through it."""

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import CDLL
from pathlib import Path

import pytest

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS, Conn
from asynclb.datapath.kernel import flows as flows_module
from asynclb.datapath.kernel.flows import BATCH, Part, flows_in, walk
from asynclb.datapath.kernel.programs import FlowLimits, State
from asynclb.datapath.kernel.tally import is_late
from asynclb.datapath.kernel.upkeep import now_ms
from asynclb.native.libbpf import Libbpf
from asynclb.net.flowhash import Distribution
from tests.property.test_core_oracle import make_world
from tests.property.test_outbound_oracle import make_world as make_outbound_world
from tests.unit.core.loaded import SETS, XDP_VERDICTS, Loaded
from tests.unit.core.world import CLIENTS, SERVERS, Packet, tcp
from tests.unit.kernel.flow_maps import GROUP, REST, WAYS, flow_maps, put_four, set_of
from tests.unit.kernel.test_sweep import NOW_MS, flow, four

VIP, HA_VIP, CLIENT = "203.0.113.10", "203.0.113.20", "198.51.100.7"
MEMBER6, SERVER6 = "2001:db8:1::11", "2001:db8:9::80"
MEMBER, SERVER, OWN_PORTS = "10.1.0.11", "198.51.100.80", 64
FEW_PORTS = 16
SYN, ACK = 2, 16
ANSWERS = CONSTANTS["FLOW_RETURN"]
AtOnce = Callable[..., list[Counter[str]]]
ROOM = SETS * WAYS
_CLONE_NEWNET = 0x4000_0000


@pytest.fixture
def programs(shared: Loaded) -> Iterator[Loaded]:
    """Give the test the programs with a table of 64 sets, a rule for TCP, and nothing counted yet."""
    shared.hook, everywhere = "xdp", os.sched_getaffinity(0)
    shared.show(make_world(7, Distribution.FIVE_TUPLE))
    shared.reset_counts()
    shared.next_tick()
    yield shared
    shared.thread.submit(os.sched_setaffinity, 0, everywhere).result()


def send(programs: Loaded, port: int, flags: int = SYN) -> str:
    """Let a client's packet come in; return its verdict."""
    return programs.run(frame_of(port, flags), CLIENTS)[0]


def frame_of(port: int, flags: int = SYN) -> bytes:
    """Return a frame of a client's connection."""
    return bytes(tcp(CLIENT, port, VIP, 80, flags))


def state_of(programs: Loaded) -> State:
    """Return the programs' maps of flows."""
    return State({name: programs.object.map(name) for name in ("flows4", "rests4", "marks4", "flows6")})


def ports(programs: Loaded) -> list[int]:
    """Return the client's ports of all flows."""
    return [layout.Key4.from_buffer_copy(key).source_port for key in keys(programs.bpf, state_of(programs))]


def keys(bpf: Libbpf, state: State) -> list[bytes]:
    """Return the keys of all IPv4 flows."""
    return [part.key(index) for part in walk(bpf, state, 0) for index in range(part.count)]


def test_a_flow_to_every_second_way(programs: Loaded) -> None:
    """None is lost, each is there once, and what follows in it finds it."""
    wanted = list(range(2_000, 2_000 + ROOM // 2))
    for _ in range(2):
        assert {send(programs, port) for port in wanted} == {"tx"}
        assert {send(programs, port, ACK) for port in wanted} == {"tx"}
    assert sorted(ports(programs)) == wanted
    assert (programs.totals().made, programs.totals().over) == (len(wanted), 0)
    assert programs.count("rule_counts", 0).packets_in == 4 * len(wanted)


def test_more_flows_than_ways(programs: Loaded) -> None:
    """The table is full and no fuller; every packet passes; connections are not given up for unanswered SYNs."""
    open_ones = list(range(2_000, 2_000 + ROOM // 2))
    for port in open_ones:
        send(programs, port)
        send(programs, port, ACK)
    assert {send(programs, port) for port in range(10_000, 10_000 + 5 * ROOM)} == {"tx"}
    there = ports(programs)
    assert len(there) == len(set(there)) <= ROOM
    assert len(there) > ROOM * 0.9
    lost = set(open_ones) - set(there)
    assert len(lost) < len(open_ones) * 0.05  # those whose sets have nothing but connections
    assert programs.totals().made == len(open_ones) + 5 * ROOM


def test_who_gives_its_way(programs: Loaded) -> None:
    """Flows that are over go first, and are not counted as given up."""
    for port in range(2_000, 2_000 + 4 * ROOM):
        send(programs, port)
        send(programs, port, ACK)
    full, before = len(ports(programs)), programs.totals()
    programs.later(1_000_000)
    assert {send(programs, port) for port in range(20_000, 20_000 + ROOM // 4)} == {"tx"}
    after = programs.totals()
    assert after.over - before.over == after.made - before.made - (len(ports(programs)) - full)
    assert set(range(20_000, 20_000 + ROOM // 4)) <= set(ports(programs))


def test_an_old_syn_gives_its_way(programs: Loaded) -> None:
    """A SYN that nobody answered for three seconds goes before one of now, and one before a connection over sooner."""
    for port in range(2_000, 2_000 + 4 * ROOM):
        send(programs, port)
    table = programs.object.map("flows4")
    for number in range(SETS):
        record = set_of(programs.bpf, state_of(programs), number)
        for way in range(WAYS):
            flow_of = layout.Flow.from_buffer(record.way[way])
            if way == WAYS - 1:
                flow_of.deadline_ms -= 3_000
            elif number % 2:
                flow_of.state, flow_of.deadline_ms = Conn.ESTABLISHED, flow_of.deadline_ms - 20_000
        programs.bpf.update(table, struct.pack("=I", number), bytes(record))
    old = {
        layout.Key4.from_buffer_copy(bytes(record.way[WAYS - 1].word)).source_port
        for record in (set_of(programs.bpf, state_of(programs), number) for number in range(SETS))
    }
    before = set(ports(programs))
    for port in range(40_000, 40_000 + SETS // 2):
        send(programs, port)
    gone = before - set(ports(programs))
    assert len(gone) >= SETS // 4
    assert len(gone & old) > len(gone) * 0.8  # a set whose old one has gone gives another


def test_a_protocol_without_a_number(programs: Loaded) -> None:
    """Protocol 0 to HA ports has a key of zeroes but for its addresses: it is a flow like any other."""
    frame = bytes(Packet(CLIENT, HA_VIP, 0, bytes(24)))
    assert {programs.run(frame, CLIENTS)[0] for _ in range(3)} == {"tx"}
    assert ports(programs) == [0]
    assert (programs.totals().made, programs.totals().over) == (1, 0)


def own_ports(programs: Loaded) -> list[int]:
    """Return the ports that members' own connections have which are not over."""
    found = [each.flow for each in flows_in(programs.bpf, state_of(programs))]
    own = [each for each in found if each.flags & CONSTANTS["FLOW_SNAT"] and not each.flags & ANSWERS]
    return [each.hairpin_port for each in own if not is_late(each.deadline_ms, now_ms())]


@pytest.fixture
def at_once(programs: Loaded) -> Iterator[AtOnce]:
    """Let two processors run frames from an interface at the same time, and return how often what came of them."""
    namespace = programs.thread.submit(os.open, "/proc/thread-self/ns/net", os.O_RDONLY).result()
    cpus = sorted(os.sched_getaffinity(0))
    program = programs.object.program(programs.xdp)

    def begin(cpu: int, *, enter: bool) -> None:
        if enter:
            assert CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) == 0
        os.sched_setaffinity(0, {cpu})

    def run(frames: Sequence[bytes], context: bytes) -> Counter[str]:
        runs = (programs.bpf.test_run(program, frame, context=context) for frame in frames)
        return Counter(XDP_VERDICTS[each.code] for each in runs)

    def both(interface: int, *halves: Sequence[bytes]) -> list[Counter[str]]:
        context = struct.pack("=6I", 0, len(halves[0][0]), 0, interface, 0, 0)
        running = [thread.submit(run, frames, context) for thread, frames in zip(threads, halves, strict=True)]
        return [each.result() for each in running]

    with ThreadPoolExecutor(1) as other:
        threads = (programs.thread, other)
        programs.thread.submit(begin, cpus[0], enter=False).result()
        other.submit(begin, cpus[-1], enter=True).result()
        yield both
    os.close(namespace)


def test_two_processors_at_once(programs: Loaded, at_once: AtOnce) -> None:
    """Flows that begin on both at once are there once, none of their packets is lost, and the counters agree."""
    frames = [frame_of(port) for port in range(2_000, 2_000 + ROOM // 4)]
    assert [set(each) for each in at_once(CLIENTS, frames, frames)] == [{"tx"}, {"tx"}]
    found = ports(programs)
    assert sorted(found) == list(range(2_000, 2_000 + ROOM // 4))
    assert programs.totals().made - programs.totals().over == len(found)


@pytest.mark.parametrize(("member", "server"), [(MEMBER, SERVER), (MEMBER6, SERVER6)])
def test_two_processors_want_one_port(programs: Loaded, at_once: AtOnce, member: str, server: str) -> None:
    """A member's connections that begin on both at once get a port each, of no more than they need.

    Also where all ports are those of connections that are over.
    """
    programs.show(make_outbound_world(7, FEW_PORTS))
    for number in range(100):
        firsts = (2_000 + FEW_PORTS * number, 32_000 + FEW_PORTS * number)
        halves = ([bytes(tcp(member, port, server, 443, SYN)) for port in range(n, n + FEW_PORTS // 2)] for n in firsts)
        assert at_once(SERVERS, *halves) == [Counter({"pass": FEW_PORTS // 2})] * 2
        taken = own_ports(programs)
        assert len(taken) == len(set(taken)) == FEW_PORTS
        if number % 8 == 7:
            programs.clear()
        else:
            programs.later(1_000_000)


def test_who_sees_its_key_twice_takes_it_back(programs: Loaded) -> None:
    """A port whose key is there once more, as if another processor had put it in meanwhile, is left for the next."""
    programs.show(make_outbound_world(7, OWN_PORTS))
    frame = bytes(tcp(MEMBER, 2_000, SERVER, 443, SYN))
    assert programs.run(frame, SERVERS)[0] == "pass"
    (port,) = own_ports(programs)
    for number in range(SETS):
        record = set_of(programs.bpf, state_of(programs), number)
        answers = [way for way in range(WAYS) if layout.Flow.from_buffer(record.way[way]).flags & ANSWERS]
        if answers:
            record.way[(answers[0] + 1) % WAYS] = record.way[answers[0]]
            programs.bpf.update(programs.object.map("flows4"), struct.pack("=I", number), bytes(record))
    programs.later(1_000_000)
    assert programs.run(frame, SERVERS)[0] == "pass"
    assert own_ports(programs) == [port + 1]
    answered = [layout.Key4.from_buffer_copy(key).destination_port for key in keys(programs.bpf, state_of(programs))]
    assert sorted(answered) == [443, port, port + 1]


@pytest.fixture(params=["native", "python"])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the walk use the native library, or its twins."""
    if request.param == "python":
        monkeypatch.setattr(flows_module, "library", lambda: None)
    return str(request.param)


@pytest.fixture
def state(bpf: Libbpf) -> Iterator[State]:
    """Give the test tables for 20,000 flows, empty."""
    found = flow_maps(bpf, 20_000)
    yield found
    found.close()


@pytest.mark.usefixtures("twin")
def test_a_walk_sees_every_flow_once(bpf: Libbpf, state: State) -> None:
    """In parts of a bounded size, with their values, wherever they lie."""
    for number in range(6_000):
        put_four(bpf, state, four(number), flow(1_000, member=number))
    seen = {}
    for part in walk(bpf, state, 0):
        assert 0 < part.count <= BATCH
        for index in range(part.count):
            found = part.read(index)
            assert found is not None
            seen[part.key(index)] = found.member
    assert seen == {four(number): number for number in range(6_000)}
    assert len(keys(bpf, state)) == 6_000


@pytest.mark.usefixtures("twin")
def test_marks_follow_the_flows(bpf: Libbpf, state: State) -> None:
    """A walk that finds a group empty clears its mark, and the next does not look there; a flow's group keeps it."""
    put_four(bpf, state, four(1), flow(1_000))
    for group in range(FlowLimits(flows4=20_000).groups):
        bpf.update(state["marks4"], struct.pack("=I", group), struct.pack("=Q", 1))
    for _ in range(2):
        assert keys(bpf, state) == [four(1)]
        marks = [bpf.lookup(state["marks4"], struct.pack("=I", group), 8) for group in range(_groups(bpf, state))]
        assert sum(mark != bytes(8) for mark in marks) == 1


@pytest.mark.usefixtures("twin")
def test_a_walk_maps_little_where_flows_have_gone(bpf: Libbpf) -> None:
    """Windows that are marked, and have no flow any more, are let go of as others are."""
    state = flow_maps(bpf, 200_000)
    for group in range(_groups(bpf, state)):
        bpf.update(state["marks4"], struct.pack("=I", group), struct.pack("=Q", 1))
    last = _groups(bpf, state) * GROUP - 1
    record = layout.FlowSet()
    record.way[0] = layout.FlowWay.from_buffer_copy(flow(1_000)[: REST.offset] + four(1))
    bpf.update(state["flows4"], struct.pack("=I", last), bytes(record))
    for part in walk(bpf, state, 0):
        assert part.key(0) == four(1)
        maps = Path("/proc/self/maps").read_text()
        assert 0 < maps.count("bpf-map") <= 1 + 2 * 8  # marks, and eight windows of both maps
    state.close()


def _groups(bpf: Libbpf, state: State) -> int:
    return bpf.map_info(state["flows4"]).max_entries // GROUP


@pytest.mark.usefixtures("twin")
def test_only_what_was_seen_is_deleted(bpf: Libbpf, state: State) -> None:
    """A way that another flow has got meanwhile is left to it; one that is silenced is so in the table."""
    for number in range(3):
        put_four(bpf, state, four(number), flow(1_000, state=Conn.ESTABLISHED))
    parts = walk(bpf, state, 0)
    part = next(parts)
    first, second, third = sorted(range(3), key=part.key)
    assert part.delete(first)
    assert not part.delete(first)
    assert part.read(first) is None
    part.silence(second)
    silent = part.read(second)
    assert silent is not None
    assert silent.flags & CONSTANTS["FLOW_OVER"]
    _replace(bpf, state, part, third)
    assert part.read(third) is None
    assert not part.delete(third)
    part.silence(third)
    assert sorted(keys(bpf, state)) == sorted([part.key(second), four(99)])
    others = [found.read(index) for found in walk(bpf, state, 0) for index in range(found.count)]
    assert sum(bool(other is not None and other.flags) for other in others) == 1


def _replace(bpf: Libbpf, state: State, part: Part, index: int) -> None:
    """Put another flow where one was."""
    words = struct.unpack("=QQ", part.key(index))
    for number in range(bpf.map_info(state["flows4"]).max_entries):
        record = set_of(bpf, state, number)
        for way in range(WAYS):
            if tuple(record.way[way].word) == words:
                record.way[way] = layout.FlowWay.from_buffer_copy(
                    bytes(layout.Flow(deadline_ms=NOW_MS))[: REST.offset] + four(99)
                )
                bpf.update(state["flows4"], struct.pack("=I", number), bytes(record))
                return
    raise AssertionError("the flow is not there")
