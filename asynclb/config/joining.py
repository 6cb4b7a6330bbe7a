"""Members that sources told of, put behind those of the configuration.

The whole is then checked as if all of them had been written there: limits, families, ports and whatever else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from asynclb.config.draft import Draft, PoolDraft, pool_draft
from asynclb.config.schema import MemberSpec
from asynclb.errors import Problem
from asynclb.model import Member

Discovered = Mapping[str, Sequence[Member]]
"""Pool -> the members that its source told of."""


def join(draft: Draft, discovered: Discovered) -> Draft:
    """Return the draft with the members of pools that have a source; those of other pools are left out."""
    pools = {
        name: _joined(pool, discovered[name]) if pool.spec.members_from is not None and name in discovered else pool
        for name, pool in draft.pools.items()
    }
    return replace(draft, pools=pools)


def attribute(problem: Problem, draft: Draft, discovered: Discovered) -> Problem:
    """Return a problem of a joined draft so that it names the source of the member that it is about."""
    match problem.path:
        case ("backend_pools", str(name), "members", int(index), *key) if name in discovered:
            position = index - _first(draft.pools[name])
            if 0 <= position < len(discovered[name]):
                member = discovered[name][position]
                where = f"member {member.name} ({member.address}), which the source tells of"
                rule = f"{where}, `{key[0]}`: {problem.rule}" if key else f"{where}: {problem.rule}"
                return replace(problem, path=("backend_pools", name, "members_from"), names=(), rule=rule)
    return problem


def _joined(pool: PoolDraft, members: Sequence[Member]) -> PoolDraft:
    specs = {index: _spec(member) for index, member in enumerate(members, _first(pool))}
    return pool_draft(pool.spec, {**pool.members, **specs}, whole=False)


def _first(pool: PoolDraft) -> int:
    return max(pool.members, default=-1) + 1


def _spec(member: Member) -> MemberSpec:
    """Return the member as the configuration would have it; its values were checked when the source told of it."""
    return MemberSpec.model_construct(
        name=member.name,
        address=member.address,
        weight=member.weight,
        priority=member.priority,
        admin_state=member.admin_state,
        zone=member.zone,
    )
