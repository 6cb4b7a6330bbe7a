"""What a change to the members comes to, before anything is prepared. Pure.

Operators lay overrides over members, sources tell of members. Each asks for the configuration that is active with
something else beside it, or is refused, or changes nothing.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from asynclb.control.active import Active
from asynclb.control.commands import MemberCommand, SourceCommand
from asynclb.control.edges import Notice
from asynclb.control.overrides import Overrides, amend, find_member, same_changes, unknown_here, without
from asynclb.control.prepare import Discovered, Parsed
from asynclb.control.status import Change
from asynclb.errors import ConfigError, Problem
from asynclb.events import Event
from asynclb.model import MembersFrom, Model


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be active, and why: `cause` is the generation's."""

    parsed: Parsed
    overrides: Overrides
    discovered: Discovered
    cause: str


def member_change(active: Active, command: MemberCommand, at_s: float) -> Wanted | Change:
    """Return what an operator's word on a member asks for."""
    generation = active.tables.generation
    if command.expected is not None and command.expected != generation:
        return Change("stale", generation)
    filed = find_member(active.parsed.model, *command.name) if active.parsed is not None else None
    if active.parsed is None or filed is None:
        return Change("unknown", generation)
    if command.change is None:
        overrides = without(active.overrides, command.name)
    else:
        overrides = amend(active.overrides, command.name, filed, command.change, command.by, at_s)
    if same_changes(overrides, active.overrides):
        return Change("unchanged", generation)
    asked = {name: override for name, override in overrides.items() if name == command.name}
    if problems := unknown_here(active.parsed.model, asked):
        return Change("refused", generation, tuple(map(active.parsed.source.locate, problems)))
    return Wanted(active.parsed, overrides, active.discovered, "member")


def source_change(active: Active, command: SourceCommand) -> Wanted | Change:
    """Return what a source's answer asks for.

    Raises: ConfigError -> the configuration is not sound with these members.
    """
    generation = active.tables.generation
    pool = active.model.backend_pools.get(command.pool)
    if active.parsed is None or pool is None or pool.members_from != command.members_from:
        return Change("stale", generation)
    before = active.discovered.get(command.pool)
    if command.members == before:
        return Change("unchanged", generation)
    if before and not command.members and not command.members_from.allow_empty:
        return Change("refused", generation, (_emptied(command.pool, command.members_from, len(before)),))
    discovered = {**active.discovered, command.pool: command.members}
    return Wanted(active.parsed.with_members(discovered), active.overrides, discovered, "source")


def with_discovered(parsed: Parsed, discovered: Discovered) -> tuple[Parsed, Discovered]:
    """Return a configuration with the members of its pools that have a source, and these members.

    Raises: ConfigError -> it is not sound with them.
    """
    kept = {pool: members for pool, members in discovered.items() if has_source(parsed.model, pool)}
    return (parsed.with_members(kept) if kept else parsed), kept


def what_fits(parsed: Parsed, discovered: Discovered) -> tuple[Parsed, Discovered, tuple[Problem, ...]]:
    """As `with_discovered`, without the pools whose members do not fit, and with the reasons.

    For the start: better to begin without what was remembered than not to begin.
    """
    try:
        return *with_discovered(parsed, discovered), ()
    except ConfigError:
        return _one_by_one(parsed, discovered)


def _one_by_one(parsed: Parsed, discovered: Discovered) -> tuple[Parsed, Discovered, tuple[Problem, ...]]:
    """As `what_fits`. Cost: all is checked again with each pool."""
    problems: list[Problem] = []
    joined, kept = with_discovered(parsed, {})
    for pool in discovered:
        try:
            joined, kept = with_discovered(parsed, {**kept, pool: discovered[pool]})
        except ConfigError as error:
            problems.extend(error.problems)
    return joined, kept, tuple(problems)


def has_source(model: Model, pool: str) -> bool:
    """Return whether a pool has members from elsewhere."""
    return pool in model.backend_pools and model.backend_pools[pool].members_from is not None


def _emptied(pool: str, members_from: MembersFrom, members: int) -> Problem:
    rule = f"{members_from.source} has no members left, and the pool has {members} from there; they stay"
    remedy = "mend the source, or write `allow_empty: true` if it is right"
    return Problem(("backend_pools", pool, "members_from"), "", rule, remedy, code="SOURCE_EMPTY")


_NAMED = 10  # members that an event names: more are a number


def source_notices(before: Active, after: Active) -> Iterator[Notice]:
    """Yield a notice for each pool whose source's members are others than before."""
    for pool, members in after.discovered.items():
        was = {member.name: member for member in before.discovered.get(pool, ())}
        now = {member.name: member for member in members}
        members_from = after.model.backend_pools[pool].members_from
        if was == now or members_from is None:
            continue
        fields = {
            "pool": pool,
            "source": str(members_from.source),
            "members": len(now),
            "added": _first(now.keys() - was.keys()),
            "removed": _first(was.keys() - now.keys()),
            "changed": _first({name for name in now.keys() & was.keys() if now[name] != was[name]}),
        }
        yield Notice(Event.MEMBERS_DISCOVERED, fields)


def _first(names: Collection[str]) -> tuple[str, ...]:
    """Return the first names, and how many more there are."""
    told = tuple(sorted(names)[:_NAMED])
    return (*told, f"and {len(names) - _NAMED} more") if len(names) > _NAMED else told
