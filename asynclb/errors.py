"""What an operator can get wrong, said once and said completely.

A `Problem` names the object, the value found there, the rule it breaks and the remedy. Problems are
collected, never raised one by one; a `ConfigError` carries all of them and refuses the whole input.
Our own bugs are ordinary exceptions and end the task group they happen in.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest

Path = tuple[str | int, ...]
"""Where something stands in a configuration: keys and list positions, as in `("rules", 0, "protocol")`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, with its remedy.

    Shape: `names` has beside each step of `path` the name of what stands at that position of a list, or ''.
    Units: `line` and `column` count from 1; 0 where the position is not known.
    """

    path: Path
    value: str
    rule: str
    remedy: str
    file: str = ""
    line: int = 0
    column: int = 0
    code: str = ""
    names: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Spell the path for programs: `rules[0].protocol`."""
        return _spell(self.path)

    @property
    def what(self) -> str:
        """Spell the path for operators, who know a rule by its name: `rules[0] (web).protocol`."""
        return _spell(self.path, self.names)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: " if self.file else ""
        where = f"{self.what}: " if self.path else ""
        value = f"{self.value!r}: " if self.value else ""
        code = f" [{self.code}]" if self.code else ""
        return f"{place}{where}{value}{self.rule}{code}; {self.remedy}"


def _spell(path: Path, names: tuple[str, ...] = ()) -> str:
    text = ""
    for step, name in zip_longest(path, names[: len(path)], fillvalue=""):
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
        text += f" ({name})" if name else ""
    return text


class AsynclbError(Exception):
    """The base of every error that is shown to an operator without a traceback."""


class ConfigError(AsynclbError):
    """A configuration was refused; `problems` says everything that is wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ApplyError(AsynclbError):
    """A datapath could not take a delta and went back to what it executed before."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class HostError(AsynclbError):
    """This host lacks something that was asked for: a capability, a library, a kernel feature.

    The message names what is missing, what for, and the command that mends it.
    """
