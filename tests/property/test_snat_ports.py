"""Laws of SNAT ports: sizes, no two members with one block, nothing of other rules, and members keep what they have."""

from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st

from asynclb.tables.snat import Demand, allot, blocks_of, free_blocks

ADDRESSES = tuple(IPv4Address("203.0.113.1") + i for i in range(3))

ranges = st.lists(st.tuples(st.integers(1, 65_535), st.integers(0, 40)), max_size=30).map(
    lambda found: [(first, min(first + more, 65_535)) for first, more in found]
)
members = st.lists(st.integers(0, 30).map(lambda i: f"m{i}"), max_size=12, unique=True).map(tuple)


@st.composite
def demands(draw: st.DrawFn) -> tuple[Demand, ...]:
    """Draw some rules' demands over three addresses."""
    return tuple(
        Demand(
            f"r{number}",
            draw(members),
            tuple(draw(st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=3, unique=True))),
            draw(st.sampled_from([1, 2, 3, 7, 128, 1000])),
        )
        for number in range(draw(st.integers(0, 3)))
    )


@settings(deadline=None)
@given(ranges)
def test_rules_ports_are_never_given_out(taken: list[tuple[int, int]]) -> None:
    """An address has 8,000 blocks less one for each that holds a rule's port, and none of those."""
    free = free_blocks(taken)
    blocks = blocks_of(taken)
    assert len(free) == 8_000 - len(blocks)
    assert not blocks.intersection(free)
    assert all(128 <= block < 8_192 for block in free)
    assert list(free) == sorted(set(free))


@settings(deadline=None, max_examples=60)
@given(demands(), demands(), ranges, ranges)
def test_allotments_are_disjoint_and_stable(
    first: tuple[Demand, ...], second: tuple[Demand, ...], one: list[tuple[int, int]], two: list[tuple[int, int]]
) -> None:
    """Every member has its number, nobody another's; after a change whoever stays keeps what may be kept."""
    free = {address: free_blocks(one) for address in ADDRESSES}
    before = allot(first, free, {})
    free = {address: free_blocks(two) for address in ADDRESSES}
    after = allot(second, free, before or {})
    if after is None:
        assert allot(second, free, {}) is None
        return
    every = [block for blocks in after.values() for block in blocks]
    assert len(every) == len(set(every))
    for demand in second:
        for member in demand.members:
            blocks = after[demand.rule, member]
            assert len(blocks) == demand.blocks
            assert all(address in demand.addresses and block in free[address] for address, block in blocks)
    fresh = allot(second, free, {})
    for place, had in (before or {}).items():
        rule = next((demand for demand in second if demand.rule == place[0]), None)
        if place in after and rule is not None and after != fresh:
            usable = [b for b in had if b[0] in rule.addresses and b[1] in free[b[0]]]
            assert set(usable[: rule.blocks]) <= set(after[place])
