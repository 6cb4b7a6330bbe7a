"""What has to be probed and which findings stay true over a reload; which sources have to be asked. Pure."""

from collections.abc import Iterable, Mapping

from asynclb.discovery import Feed
from asynclb.health.target import Target, same_question
from asynclb.model import Health, Model, TargetId
from asynclb.tables.row import Row


def targets_of(model: Model, rows: Iterable[Row]) -> Mapping[TargetId, Target]:
    """Return each (pool, member, probe) that a rule depends on, once."""
    targets: dict[TargetId, Target] = {}
    for pool, probe_name in dict.fromkeys((row.pool.name, row.rule.probe) for row in rows):
        if probe_name is None:
            continue
        for member in model.backend_pools[pool].members:
            key = (pool, member.name, probe_name)
            targets[key] = Target(key, member.address, model.probes[probe_name])
    return targets


def still_true(health: Health, before: Mapping[TargetId, Target], after: Mapping[TargetId, Target]) -> Health:
    """Return what is known of targets that a reload leaves as they are.

    A member that keeps its name but moves to another address has to prove itself again.
    """
    kept = {
        key: found
        for key, found in health.targets.items()
        if key in before and key in after and (before[key] == after[key] or same_question(before[key], after[key]))
    }
    return Health(kept)


def feeds_of(model: Model) -> Mapping[str, Feed]:
    """Return what to ask for each pool that has a source."""
    ports: dict[str, set[int]] = {}
    for rule in model.rules:
        ports.setdefault(rule.backend_pool, set()).add(rule.backend_port)
    for nat in model.inbound_nat_rules:
        ports.setdefault(nat.backend_pool, set()).add(nat.backend_port)
    return {
        name: Feed(pool.members_from, frozenset(ports.get(name, ())))
        for name, pool in model.backend_pools.items()
        if pool.members_from is not None
    }
