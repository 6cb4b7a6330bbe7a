"""The way from a file to a model: read, draft, check, build, in that order, stopping only where nothing can follow."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from os import PathLike, strerror
from pathlib import Path as FilePath

from asynclb.config.again import Known, known_members
from asynclb.config.build import build
from asynclb.config.checks import check
from asynclb.config.draft import Draft, draft
from asynclb.config.joining import Discovered, attribute, join
from asynclb.config.reader import MAX_BYTES, read
from asynclb.config.report import Report
from asynclb.config.source import SourceMap
from asynclb.errors import ConfigError, Problem
from asynclb.model import Model


@dataclass(frozen=True, slots=True)
class Parsed:
    """A configuration that passed every check of its own.

    `warnings` are worth an operator's attention and refuse nothing; `source` places later findings in the file;
    `digest` is the SHA-256 of the text, in hexadecimal; `draft` is what is written, without members from elsewhere.
    """

    model: Model
    warnings: tuple[Problem, ...]
    source: SourceMap
    digest: str
    draft: Draft

    def with_members(self, discovered: Discovered) -> "Parsed":
        """Return the configuration with these members in the pools that have a source, instead of any before.

        Raises: ConfigError -> it is not sound with them; problems of a member name its source.
        Cost: that of the checks, not of the text: less than a tenth of `parse`.
        """
        report = Report(self.source)
        joined = join(self.draft, discovered)
        check(joined, report)
        if report.problems:
            raise ConfigError(attribute(problem, self.draft, discovered) for problem in report.problems)
        return replace(self, model=build(joined), warnings=report.warnings)

    def known_members(self) -> Mapping[str, Known]:
        """Return the members that are written here, by their pool, for the configuration that comes next."""
        root = self.source.root.value
        pools = root.get("backend_pools") if isinstance(root, dict) else None
        if not isinstance(pools, dict):
            return {}
        return {name: known_members(pools.get(name), pool.members) for name, pool in self.draft.pools.items()}


class Loader:
    """Reads a file again and again, and validates once what stays in it. Owner: who calls it, one call at a time."""

    def __init__(self) -> None:
        self._last: Parsed | None = None

    def load(self, path: str | PathLike[str]) -> Parsed:
        """Do as `load`. A text that is read again, as when a signal and a watch tell of it, is only checked again."""
        text, last = _text(path), self._last
        if last is not None and last.digest == _digest(text) and last.source.file == str(path):
            return last.with_members({})
        self._last = parse(text, file=str(path), before=last)
        return self._last


def parse(text: bytes, *, file: str, before: Parsed | None = None) -> Parsed:
    """Read a configuration from its text; `file` is what problems call it. `before` changes the time that it takes.

    Raises: ConfigError -> anything is wrong; it carries every problem, in the order of the file.
    Cost: 1,500 rules over 5,000 members take about 0.5 s; `tests/bench/config_bench.py`.
    """
    reading = read(text, file=file)
    source = SourceMap(file, reading.root)
    report = Report(source)
    for problem in reading.problems:
        report.add(replace(problem, names=source.names(problem.path)))
    known = before.known_members() if before is not None else {}
    found = draft(reading.root.value, report, known)
    check(found, report)
    if report.problems:
        raise ConfigError(report.problems)
    return Parsed(build(found), report.warnings, source, _digest(text), found)


def load(path: str | PathLike[str]) -> Parsed:
    """Read a configuration from a file.

    Raises: ConfigError -> the file cannot be read, or anything in it is wrong.
    """
    return parse(_text(path), file=str(path))


def _digest(text: bytes) -> str:
    return sha256(text).hexdigest()


def _text(path: str | PathLike[str]) -> bytes:
    """Return what is in a file. Raises: ConfigError -> it cannot be read."""
    try:
        with FilePath(path).open("rb") as file:
            return file.read(MAX_BYTES + 1)  # one more, so that `read` sees that there is more
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise ConfigError([_unreadable(str(path), error)]) from None


_REMEDIES = {
    errno.ENOENT: "check the name, or begin with a copy of conf/asynclb.yaml",
    errno.ENOTDIR: "check the name: a part of it is no directory",
    errno.EISDIR: "name the file in it, as in `asynclb.yaml`",
    errno.EACCES: "let the user who runs asynclb read it, with `chmod` or `chown`",
    errno.ELOOP: "mend the symbolic link",
    errno.EMFILE: "raise the limit of open files, with `ulimit -n`",
}


def _unreadable(path: str, error: OSError | ValueError) -> Problem:
    number = error.errno if isinstance(error, OSError) else None
    said = strerror(number).lower() if number is not None else str(error)
    remedy = _REMEDIES.get(number or 0, "check the file")
    return Problem((), "", f"the file cannot be read: {said}", remedy, path)
