"""What stands in a configuration as it stood in the one before it. Pure.

A big configuration changes in a few places, and members are what it has most of. A part is validated by itself, so one
that was sound is sound still; doing it again would take a third of the time of reading.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from asynclb.config.schema import MemberSpec
from asynclb.config.source import Value


@dataclass(frozen=True, slots=True)
class Known:
    """The sound members of a pool by their names, each with what was written."""

    members: Mapping[Value, tuple[dict[str, Value], MemberSpec]] = field(default_factory=dict)

    def find(self, written: Value) -> MemberSpec | None:
        """Return the member that was written in the very same way, or None."""
        if not isinstance(written, dict) or not isinstance(name := written.get("name"), str):
            return None
        before, spec = self.members.get(name, _NOBODY)
        return spec if written == before and _same_types(written, before) else None


_NOBODY: tuple[dict[str, Value], MemberSpec | None] = ({}, None)


def known_members(pool: Value, sound: Mapping[int, MemberSpec]) -> Known:
    """Return the members of a pool in which nothing was wrong: as it was written, and the members by position."""
    members = pool.get("members") if isinstance(pool, dict) else None
    if not isinstance(members, list):
        return Known()
    pairs = ((members[index], spec) for index, spec in sound.items() if index < len(members))
    return Known({spec.name: (written, spec) for written, spec in pairs if isinstance(written, dict)})


def _same_types(one: dict[str, Value], other: dict[str, Value]) -> bool:
    """Tell 1 from true, which are equal to Python. Keys in another order count as another member."""
    return all(type(a) is type(b) for a, b in zip(one.values(), other.values(), strict=True))
