"""Laws of the slots: shares follow weights, inputs alone decide, two implementations agree."""

from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asynclb import native
from asynclb.model import Member
from asynclb.tables.maglev import SIZES, fill_python, make_slots, table_size, take_numbers
from tests.unit.tables.world import pool, row, tables, with_members

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
WEIGHTS = st.integers(1, 5) | st.integers(1, 1000) | st.integers(1, 2**32 - 1)
MEMBERS = st.dictionaries(NAMES, WEIGHTS, min_size=1, max_size=40).map(lambda found: sorted(found.items()))
SEEDS = st.integers(0, 2**64 - 1)
SIZE = SIZES[0]
QUICK = settings(max_examples=60, deadline=None)


@given(MEMBERS, SEEDS)
@example([("a", 1), ("b", 1000)], 0)
@example([("a", 2**32 - 1), *((f"b{i}", 1) for i in range(39))], 2**64 - 1)
@QUICK
def test_shares_follow_weights(members: list[tuple[str, int]], seed: int) -> None:
    """Law 1 of maglev.py: within a hundredth and two slots of the fair share, and nobody without a slot."""
    counts = Counter(make_slots(members, SIZE, seed))
    total = sum(weight for _, weight in members)
    for index, (_, weight) in enumerate(members):
        fair = SIZE * weight / total
        assert abs(counts[index] - fair) <= 2 + fair * len(members) / SIZE
        assert counts[index] >= 1


@given(MEMBERS, SEEDS)
@QUICK
def test_native_and_python_agree(members: list[tuple[str, int]], seed: int) -> None:
    """Law 5 of maglev.py: the same slots from both."""
    if native.available:
        slots = native.maglev_fill(SIZE, *take_numbers(members, SIZE, seed))
        assert slots == fill_python(SIZE, take_numbers(members, SIZE, seed))


@given(st.data(), MEMBERS, SEEDS)
@QUICK
def test_the_order_of_rules_and_members_does_not_matter(
    data: st.DataObject, members: list[tuple[str, int]], seed: int
) -> None:
    """Two nodes whose configurations list the same things in another order have equal tables, entry for entry."""
    web = pool("web", dict(members))
    shuffled = with_members(web, *data.draw(st.permutations(web.members)))
    ports = data.draw(st.permutations(range(1, 5)))
    one = tables(*(row(web, port=port) for port in range(1, 5)), seed=seed)
    other = tables(*(row(shuffled, port=port) for port in ports), seed=seed)
    assert [entry.table for entry in one.entries.values()] == [entry.table for entry in other.entries.values()]
    assert list(one.entries) == list(other.entries)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=300))
@QUICK
def test_a_table_has_slots_enough_for_its_members(weights: list[int]) -> None:
    """A size is 100 slots a member and 10 for the lightest, unless it is the largest; order does not matter."""
    address = pool("web", {"m": 1}).members[0].address
    members = [Member(f"m{i}", address, weight) for i, weight in enumerate(weights)]
    size = table_size(members)
    assert size in SIZES
    assert size == table_size(reversed(members))
    if size != SIZES[-1]:
        positive = [weight for weight in weights if weight] or [1]
        assert size >= 100 * len(weights)
        assert size * min(positive) >= 10 * sum(weights) - min(positive)


@pytest.mark.skipif(not native.available, reason=native.reason)
def test_native_and_python_fill_the_largest_table_alike() -> None:
    """5,000 members of mixed weights get the same 655,373 slots from both."""
    named = sorted((f"m{i}", 1 + i % 7) for i in range(5000))
    turns = take_numbers(named, SIZES[-1], 7)
    assert native.maglev_fill(SIZES[-1], *take_numbers(named, SIZES[-1], 7)) == fill_python(SIZES[-1], turns)
