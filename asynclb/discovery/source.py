"""What a source of members is: something that says answers and failures until it is cancelled."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from asynclb.errors import ConfigError
from asynclb.model import Member


@dataclass(frozen=True, slots=True)
class Answer:
    """Who the members are, all of them.

    Order: stable for as long as the members are the same ones. `ports` are those that the source names beside the
    members; rules have ports of their own, so these only serve to warn. `notes` are what the source left out, and why.
    """

    members: tuple[Member, ...]
    ports: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer, as an operator reads it."""

    error: str


Finding = Answer | Failure
Say = Callable[[Finding], None]


class Source(Protocol):
    """A source of members. New kinds are a file here and a line in `kinds.py`."""

    async def run(self, say: Say) -> None:
        """Say every answer and every failure until cancelled.

        Cancel: connections and files are closed.
        Raises: nothing that the world outside can cause; that is said.
        """


class CheckMembers(Protocol):
    """Reads members by the rules of the configuration; `config.check_members` does."""

    def __call__(self, parts: Mapping[str, Any], *, source: str) -> tuple[Member, ...]:
        """Return the members. Raises: ConfigError -> with every problem."""


class ReadMembers(Protocol):
    """Reads a file of members by the rules of the configuration; `config.read_members` does."""

    def __call__(self, text: bytes, *, file: str) -> tuple[Member, ...]:
        """Return the members. Raises: ConfigError -> with every problem and its line."""


_TOLD = 3  # problems of one answer that are worth reading at once


def wrong_answer(error: ConfigError) -> Failure:
    """Return the failure of a source whose answer is wrong in itself."""
    told = "; ".join(str(problem) for problem in error.problems[:_TOLD])
    more = len(error.problems) - _TOLD
    return Failure(f"{told}; and {more} more" if more > 0 else told)
