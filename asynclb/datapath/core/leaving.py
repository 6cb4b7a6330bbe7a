"""Members and rules that leave: whose established TCP connections go on, and until when. Pure.

Laws:
  1. A member that leaves a rule's pool, or drains, takes no new flows. Its TCP connections go on until the pool's drain
     period is over, and then both ends get a reset.
  2. Flows of other protocols move to another member with their next packet, as when a probe fails; a member that
     drains keeps them as long as connections.
  3. A rule that is removed leaves with all its members, one that gets another backend port with those on the old one.
  4. (pool, name, address) is what a flow stays with: a member that changes its address leaves, and another one comes.
  5. What comes back in time is as if it had never left.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from asynclb.model import AdminState, BackendPool, Member
from asynclb.net.address import Address
from asynclb.net.flow import Protocol
from asynclb.tables.row import FrontendKey, Row

MemberName = tuple[str, str, Address]
"""(pool, member, address): a member that changes its address is another one to its flows."""

_Pools = dict[tuple[int, int], BackendPool]
"""What is left of a pool beside another: rules share pools, so each pair is compared once."""


@dataclass(frozen=True, slots=True)
class Parting:
    """A rule as it was, its pool holding only the members that leave it. Units: a monotonic clock's seconds."""

    row: Row
    until_s: float


@dataclass(frozen=True, slots=True)
class Leaving:
    """Everything that leaves at one time. Owner: none, it is a value; a datapath holds the one in force."""

    partings: tuple[Parting, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rules as they were, with the members that leave."""
        return tuple(parting.row for parting in self.partings)

    @property
    def next_s(self) -> float | None:
        """When the first drain period is over."""
        return min((parting.until_s for parting in self.partings), default=None)

    def over(self, now_s: float) -> tuple[Parting, ...]:
        """Return the partings whose time is over."""
        return tuple(parting for parting in self.partings if parting.until_s <= now_s)

    def without(self, partings: Iterable[Parting]) -> "Leaving":
        """Return what is left when these have been carried out."""
        done = {id(parting) for parting in partings}
        return Leaving(tuple(parting for parting in self.partings if id(parting) not in done))

    def followed(self, old: Iterable[Row], new: Iterable[Row], now_s: float) -> "Leaving":
        """Return what leaves once the rows `new` have taken the place of the rows `old`.

        Cost: rules and pools that are the same objects are not looked into.
        """
        after = {row.key: row for row in new}
        pools: _Pools = {}
        going = _still_going(self.partings, after)
        known = {(p.row.key, p.row.rule.backend_port): p.row.pool for p in going}
        for row in old:
            now = after.get(row.key)
            if now is row:
                continue
            pool = _leavers(row, now, pools)
            if row.key.protocol is Protocol.UDP:
                pool = _draining(pool, now)
            earlier = known.get((row.key, row.rule.backend_port))
            if earlier is not None:
                pool = _except(pool, earlier)
            if pool.members:
                going.append(Parting(replace(row, pool=pool), now_s + _drain_period_s(row, now)))
        return Leaving(tuple(going))


def member_names(rows: Iterable[Row]) -> Iterable[MemberName]:
    """Yield the members of every row's pool, each pool once."""
    for pool in {id(row.pool): row.pool for row in rows}.values():
        for member in pool.members:
            yield pool.name, member.name, member.address


def _still_going(partings: Iterable[Parting], after: Mapping[FrontendKey, Row]) -> list[Parting]:
    """Return the partings without those who came back."""
    pools: _Pools = {}
    going = []
    for parting in partings:
        pool, now = parting.row.pool, after.get(parting.row.key)
        if now is not None and _same_way(parting.row, now):
            key = id(pool), id(now.pool)
            if key not in pools:
                stay = {(m.name, m.address) for m in now.pool.members if m.admin_state is not AdminState.DRAIN}
                pools[key] = _only(pool, [m for m in pool.members if (m.name, m.address) not in stay])
            pool = pools[key]
        if pool.members:
            going.append(parting if pool == parting.row.pool else replace(parting, row=replace(parting.row, pool=pool)))
    return going


def _leavers(row: Row, now: Row | None, pools: _Pools) -> BackendPool:
    """Return the pool with the members that leave the rule as it was, or begin to drain."""
    if now is None or not _same_way(row, now):
        return row.pool
    if now.pool is row.pool:
        return _only(row.pool, [])
    key = id(row.pool), id(now.pool)
    if key not in pools:
        here = {(m.name, m.address): m for m in now.pool.members}
        pools[key] = _only(row.pool, [m for m in row.pool.members if _leaves(m, here.get((m.name, m.address)))])
    return pools[key]


def _leaves(member: Member, now: Member | None) -> bool:
    return now is None or (now.admin_state is AdminState.DRAIN and member.admin_state is not AdminState.DRAIN)


def _draining(pool: BackendPool, now: Row | None) -> BackendPool:
    """Return the pool with those of its members that the rule has still: they drain."""
    here = set() if now is None else {(member.name, member.address) for member in now.pool.members}
    return _only(pool, [member for member in pool.members if (member.name, member.address) in here])


def _same_way(row: Row, now: Row) -> bool:
    """Return whether flows of the one reach a member as flows of the other do."""
    same_port = row.key.protocol is Protocol.ALL or row.rule.backend_port == now.rule.backend_port
    return same_port and row.pool.name == now.pool.name and row.delivery is now.delivery


def _drain_period_s(row: Row, now: Row | None) -> float:
    return (now.pool if now is not None and now.pool.name == row.pool.name else row.pool).drain_period_s


def _only(pool: BackendPool, members: Iterable[Member]) -> BackendPool:
    return replace(pool, members=tuple(members))


def _except(pool: BackendPool, others: BackendPool) -> BackendPool:
    known = {(member.name, member.address) for member in others.members} if pool.name == others.name else set()
    return _only(pool, [member for member in pool.members if (member.name, member.address) not in known])
