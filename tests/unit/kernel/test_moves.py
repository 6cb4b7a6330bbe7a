"""Flows that go to another member: found once, from what passes saw before and after tables were published."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS
from asynclb.datapath.kernel.flows import Part, full_key, walk
from asynclb.datapath.kernel.moves import Moves, losing
from asynclb.datapath.kernel.programs import State
from asynclb.model import AdminState, BackendPool, Health
from asynclb.native.libbpf import Libbpf
from asynclb.tables.compile import compile_tables
from asynclb.tables.tables import Tables
from tests.unit.core.world import pool, row
from tests.unit.kernel.flow_maps import flow_maps, put_four
from tests.unit.kernel.test_sweep import NOW_MS, flow, four, six

DOWN, UP = 3, 4
"""Members: the one whose flows move, and who gets them."""


@pytest.fixture
def state(bpf: Libbpf) -> Iterator[State]:
    """Give the test the tables of flows, empty."""
    found = flow_maps(bpf, 20_000)
    yield found
    found.close()


def whole_pass(
    moves: Moves, bpf: Libbpf, state: State, now_ms: int = NOW_MS, *, keep: bool = True
) -> list[tuple[int, int, int]]:
    """Take a pass for one in which every flow may have begun; return (port, member, packets) of those that moved."""
    found = []
    moves.passing(now_ms, keep=keep)
    for family in range(2):
        for part in walk(bpf, state, family):
            moves.saw(part)
            found += [(key.source_port, before.member, before.packets_in) for key, before in _moved(moves, part)]
    moves.passed()
    return found


def _moved(moves: Moves, part: Part) -> Iterator[tuple[layout.Key, layout.Flow]]:
    for index in range(part.count):
        key, now = full_key(part.kind, part.key(index)), part.read(index)
        assert now is not None
        if (before := moves.moved(key, now)) is not None:
            yield key, before


def test_a_flow_that_moved_is_found_once(bpf: Libbpf, state: State) -> None:
    """It is returned as the pass before knew it, over IPv4 and IPv6; who stays, and who was not there, is not."""
    moves = Moves()
    for number in range(3):
        put_four(bpf, state, four(number), flow(500, member=DOWN, created_s=10, packets_in=7))
    bpf.update(state["flows6"], six(9), flow(500, member=DOWN, created_s=10, packets_in=8))
    assert whole_pass(moves, bpf, state) == []
    moves.published((DOWN,), NOW_MS)
    assert not moves.is_watching
    for number in (1, 5):
        put_four(bpf, state, four(number), flow(500, member=UP, created_s=12))
    bpf.update(state["flows6"], six(9), flow(500, member=UP, created_s=12))
    assert whole_pass(moves, bpf, state) == [(1_025, DOWN, 7), (1_033, DOWN, 8)]
    assert moves.is_watching
    assert whole_pass(moves, bpf, state) == []


def test_what_is_no_move(bpf: Libbpf, state: State) -> None:
    """A flow that ended for another reason, began anew with its member, was late, or is a member's own connection."""
    moves = Moves()
    for number, left_ms, flags in ((0, 500, 0), (1, 500, 0), (2, -1, 0), (3, 500, CONSTANTS["FLOW_SNAT"])):
        put_four(bpf, state, four(number), flow(left_ms, member=DOWN, created_s=10, flags=flags))
    whole_pass(moves, bpf, state)
    moves.published((DOWN,), NOW_MS)
    moves.passing(NOW_MS, keep=True)
    moves.over(full_key(layout.Key4, four(0)))
    for number, member in ((0, UP), (1, DOWN), (2, UP), (3, UP)):
        put_four(bpf, state, four(number), flow(500, member=member, created_s=12))
    assert whole_pass(moves, bpf, state) == []
    assert not moves.is_watching


def test_only_what_lost_new_flows_is_watched(bpf: Libbpf, state: State) -> None:
    """A change that takes nothing from a flow's member leaves it alone, and so does one that nobody listened before."""
    moves = Moves()
    put_four(bpf, state, four(0), flow(500, member=DOWN, created_s=10))
    moves.published((DOWN,), NOW_MS)
    whole_pass(moves, bpf, state)
    moves.published((), NOW_MS)
    moves.published((UP,), NOW_MS)
    whole_pass(moves, bpf, state)
    assert not moves.is_watching
    moves.published((DOWN,), NOW_MS)
    moves.stop()
    whole_pass(moves, bpf, state)
    assert not moves.is_watching


def test_a_pass_that_is_not_kept(bpf: Libbpf, state: State) -> None:
    """It finds who has moved since one that was."""
    moves = Moves()
    put_four(bpf, state, four(0), flow(500, member=DOWN, created_s=10, packets_in=7))
    whole_pass(moves, bpf, state)
    put_four(bpf, state, four(1), flow(500, member=DOWN, created_s=11))
    whole_pass(moves, bpf, state, keep=False)
    moves.published((DOWN,), NOW_MS)
    for number in range(2):
        put_four(bpf, state, four(number), flow(500, member=UP, created_s=12))
    assert whole_pass(moves, bpf, state, keep=False) == [(1_024, DOWN, 7)]


def test_more_flows_than_are_kept(bpf: Libbpf, state: State) -> None:
    """Nothing is kept of a pass that saw too many; with fewer again, moves are found again."""
    moves = Moves(most=2)
    for number in range(3):
        put_four(bpf, state, four(number), flow(500, member=DOWN, created_s=10))
    whole_pass(moves, bpf, state)
    moves.published((DOWN,), NOW_MS)
    whole_pass(moves, bpf, state)
    assert not moves.is_watching
    for part in walk(bpf, state, 0):
        part.delete(0)
    whole_pass(moves, bpf, state)
    moves.published((DOWN,), NOW_MS)
    whole_pass(moves, bpf, state)
    assert moves.is_watching


def test_what_is_watched_in_vain_is_let_go(bpf: Libbpf, state: State) -> None:
    """Nothing is watched for much longer than it could be silent."""
    moves = Moves()
    put_four(bpf, state, four(0), flow(500, member=DOWN, created_s=10))
    whole_pass(moves, bpf, state)
    moves.published((DOWN,), NOW_MS)
    for _ in range(64):
        whole_pass(moves, bpf, state, (NOW_MS + 400) & 0xFFFF_FFFF)
    assert moves.is_watching
    for _ in range(64):
        whole_pass(moves, bpf, state, (NOW_MS + 600) & 0xFFFF_FFFF)
    assert not moves.is_watching


def test_who_loses_new_flows() -> None:
    """Members that served a rule and do not any more, by their numbers; nobody where the tables are the same ones."""
    web, other = pool("web", "10.1.0.11", "10.1.0.12"), pool("other", "10.1.0.13")
    off = tuple(replace(member, admin_state=AdminState.DRAIN) for member in web.members[:1])
    less = replace(web, members=(*off, *web.members[1:]))

    def tables(generation: int, *pools: BackendPool) -> Tables:
        rows = [row(one, f"203.0.113.{10 + index}", 80, 80) for index, one in enumerate(pools)]
        return compile_tables(rows, Health({}), seed=7, generation=generation)

    before = tables(1, web, other)
    members = {5: ("web", "m0", web.members[0].address), 6: ("web", "m1", web.members[1].address)}
    members |= {7: ("other", "m0", other.members[0].address)}
    assert losing(before, tables(2, less, other), members) == (5,)
    assert losing(before, before, members) == ()
