"""Keeps what sources told of over a restart, so that a process that starts beside a dead name server has its members.

Laws:
  1. What is kept is what is in force: it is written after it became active, whole or not at all.
  2. It is taken at a start for a pool that still has the same source, and until that source answers.
  3. Members are read as strictly as from their source: a file that was tampered with refuses its pool, not the start.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from asynclb.control.keep import keep
from asynclb.control.prepare import Discovered
from asynclb.errors import ConfigError
from asynclb.events import Emit, Event
from asynclb.model import Member, Model

FILE_NAME = "members.json"

Check = Callable[..., tuple[Member, ...]]
"""Reads members by the rules of the configuration: `config.check_members`."""


class MemberMemory(Protocol):
    """Where the controller keeps discovered members between two lives of the process."""

    def keep(self, model: Model, discovered: Discovered) -> None:
        """Keep these members instead."""


class _NoMemory:
    def keep(self, model: Model, discovered: Discovered) -> None:
        """Keep nothing."""


NO_MEMORY: MemberMemory = _NoMemory()


class MemberFile:
    """A `MemberMemory` in the state directory. Does I/O: call it in a thread."""

    def __init__(self, directory: Path, check: Check, emit: Emit) -> None:
        self._path = directory / FILE_NAME
        self._check = check
        self._emit = emit

    def read(self, model: Model) -> Discovered:
        """Return the members that are kept of pools that have the same source as then."""
        try:
            kept = json.loads(self._path.read_text(encoding="ascii"))
            return {pool: self._members(pool, one["members"]) for pool, one in kept.items() if _same(model, pool, one)}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
            self._tell("the members of the last run cannot be read, so pools wait for their sources", error)
            return {}

    def keep(self, model: Model, discovered: Discovered) -> None:
        """Write the members."""
        kept = {
            pool: {"source": _source(model, pool), "members": [_shown(member) for member in members]}
            for pool, members in discovered.items()
        }
        try:
            keep(self._path, json.dumps(kept, indent=1))
        except OSError as error:
            self._tell("discovered members cannot be kept, so a restart waits for their sources", error)

    def _members(self, pool: str, members: list[Mapping[str, Any]]) -> tuple[Member, ...]:
        parts = {str(member["name"]): member for member in members}
        return self._check(parts, source=f"{self._path}: {pool}")

    def _tell(self, what: str, error: Exception) -> None:
        remedy = f"make {self._path} a file that this process can read and write ($STATE_DIRECTORY), or remove it"
        self._emit(Event.HOST_LIMIT, what=what, value=f"{self._path}: {error}", remedy=remedy)


def _same(model: Model, pool: str, kept: Mapping[str, Any]) -> bool:
    return bool(kept["source"] == _source(model, pool))


def _source(model: Model, pool: str) -> str:
    """Return what a pool's source is called, or '' where it has none."""
    found = model.backend_pools.get(pool)
    return str(found.members_from.source) if found is not None and found.members_from is not None else ""


def _shown(member: Member) -> Mapping[str, Any]:
    """Return a member as a configuration would have it."""
    shown: dict[str, Any] = {"name": member.name, "address": str(member.address), "weight": member.weight}
    shown |= {"priority": member.priority, "admin_state": str(member.admin_state)}
    return shown | ({"zone": member.zone} if member.zone is not None else {})
