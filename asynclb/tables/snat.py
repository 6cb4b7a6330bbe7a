"""SNAT ports: which ports of which frontend addresses a member's own connections leave from.

Laws:
  1. An address has 64,000 ports in aligned blocks of 8, less a block for each one that holds a port of a rule on that
     address, whether or not the block is among those that are given out: ports below 1,024 never are.
  2. Two members never have the same block of an address, but where the rule says that they share all of them.
  3. A member keeps its blocks for as long as it is in the pool, the rule has the address, no rule takes the block away
     and its number of ports does not fall below them; whoever comes and goes beside it.
  4. A member's ports are spread evenly over the rule's addresses, as far as there is room.
  5. Blocks are a function of (the blocks before, the configuration); with nothing before, of the configuration alone.

Source: Azure Load Balancer, outbound rules and outbound connections. Which 64,000 ports, it does not say: here they are
the lowest free ones from 1,024 on.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from asynclb.model import BackendPool
from asynclb.net.address import Address, Prefix
from asynclb.net.flow import Protocol

BLOCK = 8
PORTS_PER_ADDRESS = 64_000
MAX_FRONTENDS = 16
"""Addresses that one rule may use: the core looks at each of them when the ones before have no port left."""
MOST_BY_DEFAULT = 1_024
HIGH = 0.75
"""Of a member's ports in use: from here on somebody is told. Source: Azure, health event HighSnatPortUsage."""
_FIRST_BLOCK, _LAST_BLOCK = 1_024 // BLOCK, 65_535 // BLOCK
_DEFAULTS = ((50, 1_024), (100, 512), (200, 256), (400, 128), (800, 64), (1_000, 32), (2_000, 16))

Ranges = Iterable[tuple[int, int]]
"""First and last port of rules on one address."""


@dataclass(frozen=True, slots=True)
class SnatSlice:
    """A member's ports of one frontend address. Block 200 is ports 1,600 to 1,607."""

    frontend: str
    address: Address
    blocks: tuple[int, ...]

    @property
    def ports(self) -> int:
        """Number of ports."""
        return len(self.blocks) * BLOCK

    def __contains__(self, port: int) -> bool:
        return port // BLOCK in self.blocks


@dataclass(frozen=True, slots=True)
class SnatRule:
    """What becomes of the connections that a pool's members open themselves.

    Without `protocols` nothing is translated: nothing goes out. Order: a member's slices are used one after the other.
    """

    name: str
    pool: BackendPool
    protocols: tuple[Protocol, ...]
    slices: Mapping[str, tuple[SnatSlice, ...]]
    """By the member's name."""
    direct: tuple[Prefix, ...] = ()
    """Destinations that members reach with their own address."""
    idle_timeout_s: float = 240.0
    tcp_reset: bool = False
    shared: bool = False

    @property
    def sources(self) -> tuple[Address, ...]:
        """The addresses that connections leave from, each once."""
        return tuple(dict.fromkeys(part.address for parts in self.slices.values() for part in parts))

    @property
    def place(self) -> str:
        """What the members are counted under, beside their pool's name: `pool>rule`, which no pool is called."""
        return f"{self.pool.name}>{self.name}"


def blocks_of(ranges: Ranges) -> frozenset[int]:
    """Return the blocks that hold a port of the ranges."""
    return frozenset(block for first, last in ranges for block in range(first // BLOCK, last // BLOCK + 1))


def free_blocks(ranges: Ranges) -> tuple[int, ...]:
    """Return the blocks of an address that SNAT may use, lowest first, given the ports of the rules there."""
    taken = blocks_of(ranges)
    free = [block for block in range(_FIRST_BLOCK, _LAST_BLOCK + 1) if block not in taken]
    return tuple(free[: max(0, PORTS_PER_ADDRESS // BLOCK - len(taken))])


def default_ports(members: int, addresses: int) -> int:
    """Return the ports for each member when the operator gives no number, by the size of the pool.

    Azure's table ends at 1,000 members; beyond, the halving goes on.
    """
    by_size = next((ports for most, ports in _DEFAULTS if members <= most), BLOCK)
    return min(by_size * addresses, MOST_BY_DEFAULT)


Place = tuple[str, str]
"""(rule, member)"""
Block = tuple[Address, int]
Blocks = Mapping[Place, Sequence[Block]]
"""What every member has, by (rule, member)."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one rule asks for: so many blocks for each member, anywhere on these addresses."""

    rule: str
    members: tuple[str, ...]
    addresses: tuple[Address, ...]
    blocks: int


def allot(
    demands: Sequence[Demand], free: Mapping[Address, Collection[int]], before: Blocks
) -> Mapping[Place, tuple[Block, ...]] | None:
    """Return blocks for every member of every demand, or None if the addresses do not have them.

    `free` are the blocks of every address. Order: a member's are sorted by the demand's addresses, then by number.
    Cost: linear in blocks.
    """
    found = _allot(demands, free, before)
    return found if found is not None or not before else _allot(demands, free, {})


def _allot(
    demands: Sequence[Demand], free: Mapping[Address, Collection[int]], before: Blocks
) -> Mapping[Place, tuple[Block, ...]] | None:
    kept = {place: blocks for demand in demands for place, blocks in _kept(demand, free, before)}
    taken = {block for blocks in kept.values() for block in blocks}
    left = {
        a: [block for block in sorted(blocks, reverse=True) if not taken or (a, block) not in taken]
        for a, blocks in free.items()
    }
    found: dict[Place, tuple[Block, ...]] = {}
    for demand in demands:
        for number, member in enumerate(demand.members):
            had = kept[demand.rule, member]
            added = _take(demand, number, had, left)
            if added is None:
                return None
            order = demand.addresses.index
            found[demand.rule, member] = tuple(sorted((*had, *added), key=lambda block: (order(block[0]), block[1])))
    return found


def _kept(
    demand: Demand, free: Mapping[Address, Collection[int]], before: Blocks
) -> Iterator[tuple[Place, tuple[Block, ...]]]:
    usable = {address: frozenset(free[address]) for address in demand.addresses}
    for member in demand.members:
        had = [block for block in before.get((demand.rule, member), ()) if block[1] in usable.get(block[0], ())]
        yield (demand.rule, member), tuple(had[: demand.blocks])


def _take(demand: Demand, number: int, had: Sequence[Block], left: Mapping[Address, list[int]]) -> list[Block] | None:
    """Take what a member lacks: from each address its even share first, then from whoever has most."""
    count = len(demand.addresses)
    turned = [demand.addresses[(number + step) % count] for step in range(count)]
    added: list[Block] = []
    for step, address in enumerate(turned):
        share = demand.blocks // count + (step < demand.blocks % count) - sum(1 for block in had if block[0] == address)
        share = min(share, demand.blocks - len(had) - len(added), len(left[address]))
        added += [(address, left[address].pop()) for _ in range(share)]
    while len(had) + len(added) < demand.blocks:
        most = max(turned, key=lambda address: len(left[address]))
        if not left[most]:
            return None
        added.append((most, left[most].pop()))
    return added


def slices_of(blocks: Iterable[Block], frontends: Mapping[Address, str]) -> tuple[SnatSlice, ...]:
    """Return blocks as slices, one for each address, in the blocks' order."""
    parts: dict[Address, list[int]] = {}
    for address, block in blocks:
        parts.setdefault(address, []).append(block)
    return tuple(SnatSlice(frontends[address], address, tuple(numbers)) for address, numbers in parts.items())
