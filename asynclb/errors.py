"""What an operator can get wrong, said once and said completely.

A `Problem` names the object, the value found there, the rule it breaks and the remedy. Problems are
collected, never raised one by one; a `ConfigError` carries all of them and refuses the whole input.
Our own bugs are ordinary exceptions and end the task group they happen in.
"""

from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""Where something stands in a configuration: keys and list positions, as in `("rules", 0, "protocol")`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, with its remedy.

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

    @property
    def where(self) -> str:
        """Spell the path as an operator would: `rules[0].protocol`."""
        text = ""
        for step in self.path:
            text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
        return text

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: " if self.file else ""
        where = f"{self.where}: " if self.path else ""
        value = f"{self.value!r}: " if self.value else ""
        code = f" [{self.code}]" if self.code else ""
        return f"{place}{where}{value}{self.rule}{code}; {self.remedy}"


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
