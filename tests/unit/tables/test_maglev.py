"""Maglev: sizes, permutations, shares by weight, and two implementations that agree."""

from collections import Counter
from ipaddress import IPv4Address
from random import Random

import pytest

from asynclb import native
from asynclb.model import Member
from asynclb.tables.maglev import SIZES, fill_python, make_slots, permutation, table_size, take_numbers
from tests.unit.tables.world import SEED


def members(*weights: int) -> list[Member]:
    """Return members of these weights."""
    return [Member(f"m{i}", IPv4Address("10.0.0.1") + i, weight) for i, weight in enumerate(weights)]


def share_bound(fair: float, count: int, size: int) -> float:
    """Return how far a member's slots may be from its fair share: law 1 of the module."""
    return 2 + fair * count / size


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_prime(size: int) -> None:
    """A size that is not prime would leave slots out of a member's permutation."""
    assert all(size % divisor for divisor in range(2, int(size**0.5) + 1))


@pytest.mark.parametrize(
    ("weights", "size"),
    [
        ((), 16_381),
        ((1,), 16_381),
        ((1,) * 63, 16_381),
        ((1,) * 64, 65_537),
        ((1,) * 253, 262_147),
        ((1,) * 1_009, 655_373),
        ((1,) * 5000, 655_373),
        ((7,) * 10, 16_381),
        ((1, 1000), 16_381),
        ((1, 2000), 65_537),
        ((1, *(1000,) * 100), 655_373),
        ((0, 1, 1), 16_381),
        ((0, 0), 16_381),
    ],
)
def test_the_size_follows_the_members_and_the_lightest_weight(weights: tuple[int, ...], size: int) -> None:
    """There are 260 slots for each member and 10 for the lightest one, as long as a size has that many."""
    assert table_size(members(*weights)) == size


def test_a_permutation_visits_every_slot() -> None:
    """Offset and skip reach each slot once, as the size is prime."""
    offset, skip = permutation(SEED, "web-1", 16_381)
    assert len({(offset + i * skip) % 16_381 for i in range(16_381)}) == 16_381


def test_permutations_depend_on_seed_and_name() -> None:
    """Another installation, or another member, prefers other slots."""
    found = {permutation(seed, name, 65_537) for seed in (0, 1, 2**64 - 1) for name in ("web-1", "web-2", "wéb")}
    assert len(found) == 9


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100, 163])
def test_equal_weights_differ_by_one_slot_at_most(count: int) -> None:
    """Members of one weight share the table out evenly."""
    slots = make_slots([(f"m{i:03}", 5) for i in range(count)], 16_381, SEED)
    counts = Counter(slots)
    assert len(counts) == count
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(
    "weights",
    [
        [1, 1000],
        [1000, 1, 1, 1],
        [1] * 150 + [1000],
        [999, 1000] * 80,
        [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
        [2**32 - 1, 1, 2**31],
        list(range(1, 160)),
    ],
    ids=str,
)
def test_shares_follow_weights_within_the_bound(weights: list[int]) -> None:
    """Even where weights differ a thousandfold and more, shares are as law 1 says, and nobody is left out."""
    size, total = 16_381, sum(weights)
    counts = Counter(make_slots([(f"m{i:03}", w) for i, w in enumerate(weights)], size, SEED))
    for index, weight in enumerate(weights):
        fair = size * weight / total
        assert abs(counts[index] - fair) <= share_bound(fair, len(weights), size)
        assert counts[index] >= 1


@pytest.mark.skipif(not native.available, reason=native.reason)
@pytest.mark.parametrize("seed", range(8))
def test_native_and_python_fill_alike(seed: int) -> None:
    """For pools of all sizes and weights the two implementations give the same slots."""
    random = Random(seed)
    count = random.choice([1, 2, 3, 20, 163])
    named = sorted((f"m{i}", random.choice([1, 1, 2, 3, 1000, random.randrange(1, 2**32)])) for i in range(count))
    turns = take_numbers(named, SIZES[0], seed)
    assert native.maglev_fill(SIZES[0], *take_numbers(named, SIZES[0], seed)) == fill_python(SIZES[0], turns)


def test_a_pool_that_no_slot_can_number_is_refused() -> None:
    """Slots have 16 bits, one value of which means free."""
    with pytest.raises(ValueError, match="cannot serve 65536 members"):
        make_slots([(f"m{i:05}", 1) for i in range(65_536)], SIZES[-1], SEED)
    with pytest.raises(ValueError, match="cannot serve 0 members"):
        make_slots([], SIZES[0], SEED)
