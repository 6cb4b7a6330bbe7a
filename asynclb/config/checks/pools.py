"""Pools: members of one family, each once."""

from asynclb.config.draft import Draft, PoolDraft
from asynclb.config.report import Report
from asynclb.errors import Path
from asynclb.net.address import Address


def check_pools(draft: Draft, report: Report) -> None:
    """Refuse members that stand twice and families that mix; warn of pools that take nothing."""
    for name, pool in draft.pools.items():
        path = ("backend_pools", name)
        _twice(pool, path, report)
        _families(pool, path, report)
        if not pool.whole:
            continue
        if not pool.members:
            report.warning(path, "", "the pool has no members, so its rules drop everything", "add members")
        elif all(member.weight == 0 for member in pool.members.values()):
            rule = "every member has weight 0, so the pool takes no new flows"
            report.warning(path, "", rule, "give one of them a weight of 1 or more")


def _twice(pool: PoolDraft, path: Path, report: Report) -> None:
    names: dict[str, int] = {}
    addresses: dict[Address, str] = {}
    for index, member in pool.members.items():
        where = (*path, "members", index)
        first = names.setdefault(member.name, index)
        if first != index:
            line = report.source.place((*path, "members", first, "name"))[0]
            rule = f"another member of the pool has this name, at line {line}"
            report.problem((*where, "name"), member.name, rule, "rename one of the two")
            continue
        other = addresses.setdefault(member.address, member.name)
        if other != member.name:
            remedy = "keep one of the two; to give it a larger share, raise its `weight`"
            report.problem((*where, "address"), member.address, f"member {other} of the pool has this address", remedy)


def _families(pool: PoolDraft, path: Path, report: Report) -> None:
    members = iter(pool.members.items())
    _, first = next(members, (0, None))
    if first is None:
        return
    for index, member in members:
        if member.address.version != first.address.version:
            rule = f"the pool's first member is IPv{first.address.version}; a pool has one address family"
            remedy = "move it to a pool of its own, with a frontend and rules of its family"
            report.problem((*path, "members", index, "address"), member.address, rule, remedy)
            return
