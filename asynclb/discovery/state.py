"""What is known of a source, as a value. Pure.

state      answer    failure
waiting    up        failed
up         up        failed
failed     up        failed
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from asynclb.discovery.source import Answer, Failure, Finding
from asynclb.errors import Problem
from asynclb.model import MembersFrom


class SourceState(StrEnum):
    """Whether a source answers."""

    WAITING = "waiting"
    """It has said nothing yet."""
    UP = "up"
    FAILED = "failed"
    """Its last members stay."""


class Result(StrEnum):
    """What became of an answer."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """A source as operators see it.

    `error` is why it does not answer, or ''; `problems` why its last answer was refused; `warnings` what was taken
    otherwise than it was said. `updates` counts answers by what became of them.
    Units: seconds since the epoch, 0 for never: `since_s` of the state, `answered_s` of the last answer.
    """

    members_from: MembersFrom
    since_s: float
    state: SourceState = SourceState.WAITING
    error: str = ""
    answered_s: float = 0.0
    result: Result | None = None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    updates: Mapping[Result, int] = field(default_factory=lambda: dict.fromkeys(Result, 0))

    @property
    def well(self) -> bool:
        """Whether it answers, and what it says is in force."""
        return self.state is SourceState.UP and self.result is not Result.REFUSED


def heard(status: SourceStatus, finding: Finding, now_s: float) -> SourceStatus:
    """Return the status after the source said something."""
    state = SourceState.FAILED if isinstance(finding, Failure) else SourceState.UP
    since_s = status.since_s if state is status.state else now_s
    if isinstance(finding, Failure):
        return replace(status, state=state, since_s=since_s, error=finding.error)
    return replace(status, state=state, since_s=since_s, error="", answered_s=now_s)


def settled(
    status: SourceStatus, result: Result, problems: tuple[Problem, ...], warnings: tuple[str, ...]
) -> SourceStatus:
    """Return the status after an answer was applied, or found to be nothing new, or refused."""
    updates = {**status.updates, result: status.updates[result] + 1}
    return replace(status, result=result, problems=problems, warnings=warnings, updates=updates)


def warnings_of(answer: Answer, backend_ports: frozenset[int]) -> tuple[str, ...]:
    """Return what an operator should know of an answer that was taken."""
    if not (other := sorted(answer.ports - backend_ports)):
        return answer.notes
    told, rules = ", ".join(map(str, other)), ", ".join(map(str, sorted(backend_ports))) or "none"
    return (*answer.notes, f"the source names port {told}, which is ignored: rules of the pool deliver to {rules}")
