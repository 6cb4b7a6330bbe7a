"""What the controller's one task can be told to do, each command with the future that its answer goes into."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from asynclb.control.overrides import MemberChange, MemberId
from asynclb.control.prepare import Discovered, Parsed
from asynclb.control.status import Change, Reload
from asynclb.model import Member, MembersFrom

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReloadCommand:
    """Read the configuration again, unless it is handed in, if the expected generation is active."""

    trigger: str
    answer: "asyncio.Future[Reload]"
    parsed: Parsed | None
    expected: int | None
    discovered: Discovered = field(default_factory=dict)
    """At the start: what sources told of last, in an earlier life of the process or just now."""


@dataclass(frozen=True, slots=True)
class MemberCommand:
    """Lay a change over the file's word on a member, or take it back (None), if the expected generation is active."""

    name: MemberId
    change: MemberChange | None
    by: str
    expected: int | None
    answer: "asyncio.Future[Change]"


@dataclass(frozen=True, slots=True)
class SourceCommand:
    """Have the members that a source told of in its pool, if the pool still has this source."""

    pool: str
    members_from: MembersFrom
    members: tuple[Member, ...]
    answer: "asyncio.Future[Change]"


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """Have the tables follow what the probes say."""


Command = ReloadCommand | MemberCommand | SourceCommand | HealthChanged


async def answer(future: "asyncio.Future[T]", work: Awaitable[T]) -> None:
    """Do the work and answer with what became of it; whoever has stopped waiting is not answered.

    Raises: what the work raises, after those who wait were told that there will be no answer.
    """
    try:
        result = await work
    except BaseException:
        future.cancel()
        raise
    if not future.done():
        future.set_result(result)
