"""Maglev with weights: which member owns which slot of a pool's table.

Every member has a permutation of the slots, made from the seed and its name. Members take turns; in its turn a
member takes the first slot of its permutation that is still free. So everyone gets the share that its turns give
it, and when a member comes or goes most slots keep their owner: each owner still asks for them early.

Turns by weight: time passes in rounds, and the heaviest member has one turn in each. Another member with the
weight w has had `round(k * w / heaviest)` turns after k rounds, and one at least: the first round is everyone's.

Laws (M slots, N members, W the sum of their weights; every member here has a weight above 0):
  1. Shares follow weights: a member whose fair share is s = M * w / W slots owns s slots give or take
     2 + s * N / M, and one slot at least. As M > 100 N up to 5,000 members, that is a hundredth and two slots.
     Proof: after k rounds each has had x = k * w / heaviest turns, less a half at most and plus one at most (the
     first round), so all together k * W / heaviest, less N / 2 and plus N at most. The table is full in the round
     where this passes M, so that x differs from s by no more than s * N / M, and by one round's turn.
     Equal weights differ by one slot at most.
  2. Slots depend on the seed, the size and the set of (name, weight); not on order, addresses or history.
  3. The size depends on the pool as configured, not on who is eligible: a failing probe never resizes a table,
     which would move nearly every flow.
  4. One member's coming, going or new weight moves the slots that it must, and few of the others': 3 % at most
     (tests/property/test_tables_disruption.py).
  5. The native library and `fill_python` give the same slots.

Why the name and not the address: a member that is replaced under its name (a new machine, a new address) takes
over the slots of the old one, and nobody else's flows move. In every pool a name has the same permutation, so
rules over the same members agree on who takes a client.

Source: Eisenbud et al., Maglev: A Fast and Reliable Software Network Load Balancer (NSDI 2016), section 3.4.
Balinski and Young, Fair Representation, for rounding each share to the nearest (Webster's method).
"""

from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from heapq import heapreplace
from itertools import groupby
from typing import NamedTuple

from asynclb import native
from asynclb.model import Member

SIZES = (16_381, 65_537, 262_147, 655_373)
"""The sizes a table can have, all prime, about four times apart.

Few and far apart, because passing from one to the next moves nearly every flow. The smallest keeps a pool of three
at 32 KiB; the largest has 131 slots for each of 5,000 members and is filled in some 20 ms. A pool of
1,000 has the one before it: a member that fails is out of it twice as soon.
"""

_SLOTS_PER_MEMBER = 260  # one member's change then moves 2 % of the others' slots at most as measured; with 100, 3 %
_SLOTS_OF_LIGHTEST = 10  # so that even the lightest member's share is within about a tenth of its weight
_FREE = 0xFFFF


def table_size(members: Iterable[Member]) -> int:
    """Return the size of a pool's table: 260 slots for each member and 10 for the lightest one, or the largest size.

    `members` are all of the pool's, eligible or not.
    """
    weights = [member.weight for member in members]
    lightest = min((weight for weight in weights if weight > 0), default=1)
    needed = max(_SLOTS_PER_MEMBER * len(weights), _SLOTS_OF_LIGHTEST * sum(weights) // lightest)
    return next((size for size in SIZES if size >= needed), SIZES[-1])


class Turns(NamedTuple):
    """What a fill works on. Shape: one item per member. Order: by weight, heaviest first, then by name."""

    ids: "array[int]"
    """The member's index in order of names, which is what the slots will hold."""
    weights: "array[int]"
    positions: "array[int]"
    """The member's next choice: at first its offset."""
    skips: "array[int]"
    """How far it is from one choice to the next."""


def make_slots(members: Sequence[tuple[str, int]], size: int, seed: int) -> "array[int]":
    """Return the slots of a table over `members`, each a name and a weight above 0, sorted by name.

    Shape: `size` indexes into `members`.
    Raises: ValueError -> more members than slots, or than a slot can tell apart.
    """
    if not 0 < len(members) <= min(size, _FREE):
        raise ValueError(f"a table of {size} slots cannot serve {len(members)} members")
    turns = take_numbers(members, size, seed)
    return native.maglev_fill(size, *turns) if native.available else fill_python(size, turns)


def take_numbers(members: Sequence[tuple[str, int]], size: int, seed: int) -> Turns:
    """Put the members into the order of their turns and work out their permutations."""
    order = sorted(range(len(members)), key=lambda index: -members[index][1])
    choices = [permutation(seed, members[index][0], size) for index in order]
    return Turns(
        array("H", order),
        array("I", [members[index][1] for index in order]),
        array("I", [offset for offset, _ in choices]),
        array("I", [skip for _, skip in choices]),
    )


def permutation(seed: int, name: str, size: int) -> tuple[int, int]:
    """Return (offset, skip): a member's choices are offset, offset + skip, ... modulo the size.

    As the size is prime, every slot is among them.
    """
    digest = blake2b(name.encode(), digest_size=16, key=seed.to_bytes(8, "little")).digest()
    offset, skip = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    return offset % size, 1 + skip % (size - 1)


def fill_python(size: int, turns: Turns) -> "array[int]":
    """Fill a table. The native twin is `asynclb_maglev_fill` in native/maglev.c.

    Members of equal weight take their turns together, as a group; a heap holds the round of each group's next turn.
    Cost: about 30 times the native twin's: 0.5 s for 5,000 members and 655,373 slots.
    """
    ids, weights, positions, skips = turns
    slots = array("H", [_FREE]) * size
    groups = [list(group) for _, group in groupby(range(len(ids)), key=weights.__getitem__)]
    heap = [(1, group[0], 0, group) for group in groups]
    filled = 0
    while True:
        _, first, taken, group = heap[0]
        for index in group:
            position, skip = positions[index], skips[index]
            while slots[position] != _FREE:
                position = (position + skip) % size
            slots[position] = ids[index]
            positions[index] = (position + skip) % size
            filled += 1
            if filled == size:
                return slots
        heapreplace(heap, (_next_due(taken + 1, weights[first], weights[0]), first, taken + 1, group))


def _next_due(taken: int, weight: int, heaviest: int) -> int:
    """Return the round in which `round(k * weight / heaviest)` passes the turns taken."""
    return -((2 * taken + 1) * heaviest // (-2 * weight))
