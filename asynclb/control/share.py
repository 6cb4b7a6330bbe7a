"""Keeps one object for what two configurations have in common. Pure.

Equal parts of the old and the new model become the same object, so that comparing rows and reusing pool tables is a
matter of identity: without this, a reload with 1,500 rules on one pool of 5,000 members compares 7.5 million members.
"""

from dataclasses import replace
from typing import TypeVar

from asynclb.model import BackendPool, Model
from asynclb.tables.snat import SnatRule

T = TypeVar("T")


def share(new: Model, old: Model) -> Model:
    """Return a model equal to `new` that uses `old`'s objects wherever they are equal."""
    rules = {rule.name: rule for rule in old.rules}
    return replace(
        new,
        frontends={name: _same(frontend, old.frontends.get(name)) for name, frontend in new.frontends.items()},
        probes={name: _same(probe, old.probes.get(name)) for name, probe in new.probes.items()},
        backend_pools={
            name: _share_pool(pool, old.backend_pools.get(name)) for name, pool in new.backend_pools.items()
        },
        rules=tuple(_same(rule, rules.get(rule.name)) for rule in new.rules),
    )


def share_rules(new: tuple[SnatRule, ...], old: tuple[SnatRule, ...]) -> tuple[SnatRule, ...]:
    """Return outbound rules equal to `new` that use `old`'s objects wherever they are equal."""
    known = {rule.name: rule for rule in old}
    return tuple(_same(rule, known.get(rule.name)) for rule in new)


def _share_pool(new: BackendPool, old: BackendPool | None) -> BackendPool:
    if old is None:
        return new
    known = {member.name: member for member in old.members}
    members = tuple(_same(member, known.get(member.name)) for member in new.members)
    return _same(replace(new, members=members), old)


def _same(new: T, old: T | None) -> T:
    return old if old is not None and new == old else new
