"""What operators say of members while the process runs, laid over what the file says. Pure.

Laws:
  1. An override keeps the file's word on its member as it was then. It stays over reloads for as long as the file says
     the same of that member; a file that changes or removes the member has the last word, and ends the override.
  2. An override that says what the file says is none.
  3. Overrides end with the process: what is to last is written into the file.
  4. With `compat: azure` an override says nothing that the file may not say.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from asynclb.errors import Problem
from asynclb.model import EXTENDED, AdminState, BackendPool, Compat, Member, Model, unknown_to_azure

MemberId = tuple[str, str]
"""(pool, member)."""


@dataclass(frozen=True, slots=True)
class MemberChange:
    """What an operator asks of a member; None leaves that as it is."""

    admin_state: AdminState | None = None
    weight: int | None = None


@dataclass(frozen=True, slots=True)
class Override:
    """What holds instead of the file's word on one member, since when and by whom.

    Units: `at_s` seconds since the epoch, for people. `filed` is the member as the file has it.
    """

    filed: Member
    change: MemberChange
    by: str
    at_s: float

    @property
    def member(self) -> Member:
        """The member as it is to be."""
        state, weight = self.change.admin_state, self.change.weight
        return replace(
            self.filed,
            admin_state=self.filed.admin_state if state is None else state,
            weight=self.filed.weight if weight is None else weight,
        )


Overrides = Mapping[MemberId, Override]


def find_member(model: Model, pool: str, member: str) -> Member | None:
    """Return a pool's member by name, or None."""
    members = model.backend_pools[pool].members if pool in model.backend_pools else ()
    return next((found for found in members if found.name == member), None)


def amend(overrides: Overrides, name: MemberId, filed: Member, change: MemberChange, by: str, at_s: float) -> Overrides:
    """Return the overrides with one more change to a member, on top of what was asked of it before."""
    before = overrides[name].change if name in overrides else MemberChange()
    wanted = MemberChange(
        before.admin_state if change.admin_state is None else change.admin_state,
        before.weight if change.weight is None else change.weight,
    )
    override = Override(filed, wanted, by, at_s)
    if override.member == filed:
        return without(overrides, name)
    return {**overrides, name: override}


def without(overrides: Overrides, name: MemberId) -> Overrides:
    """Return the overrides but for one member's, which is the file's again."""
    return {key: override for key, override in overrides.items() if key != name}


def still_meant(overrides: Overrides, filed: Model) -> Overrides:
    """Return the overrides of members of which the file says what it said."""
    return {name: found for name, found in overrides.items() if find_member(filed, *name) == found.filed}


def lay_over(filed: Model, overrides: Overrides) -> Model:
    """Return the model with overridden members in place of the file's; pools without any stay the same objects."""
    pools = {pool for pool, _ in overrides}
    return replace(
        filed,
        backend_pools={
            name: _lay_over(pool, overrides) if name in pools else pool for name, pool in filed.backend_pools.items()
        },
    )


def unknown_here(filed: Model, overrides: Overrides, *, since_before: bool = False) -> tuple[Problem, ...]:
    """Return what Azure does not know in overrides, where the configuration wants what Azure does.

    `since_before`: they were made when that was allowed, so that the remedy is to end them.
    """
    if filed.compat is not Compat.AZURE:
        return ()
    problems = []
    for (pool, name), override in overrides.items():
        member = override.member
        path = ("backend_pools", pool, "members", filed.backend_pools[pool].members.index(override.filed))
        for found in unknown_to_azure(member.weight, member.priority, member.admin_state):
            remedy = f"`asynclb set {pool}/{name} --reset` before, {EXTENDED}" if since_before else found.remedy
            law = f"{override.by} has said this of the running member, and {found.law}" if since_before else found.law
            problems.append(Problem((*path, found.key), str(found.value), law, remedy))
    return tuple(problems)


def _lay_over(pool: BackendPool, overrides: Overrides) -> BackendPool:
    def find(member: Member) -> Member:
        override = overrides.get((pool.name, member.name))
        return member if override is None else override.member

    return replace(pool, members=tuple(find(member) for member in pool.members))


def same_changes(one: Overrides, other: Overrides) -> bool:
    """Return whether two sets of overrides ask the same of the same members."""
    return {name: found.change for name, found in one.items()} == {name: found.change for name, found in other.items()}
