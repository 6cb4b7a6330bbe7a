"""What the doctor says of one thing."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    FAIL = "fail"
    """What was asked for cannot work."""
    WARN = "warn"
    """It works, but less well than it could, or only by luck."""
    OK = "ok"

    @property
    def rank(self) -> int:
        """The worse, the lower."""
        return list(Level).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found there, and the command that mends it ('' where all is well)."""

    level: Level
    subject: str
    found: str
    mend: str = ""
