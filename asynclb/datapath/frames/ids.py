"""Small numbers for names: the core counts by number, and a number stays with its name while the process lives."""

from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)
_NONE = -1


class Ids(Generic[Name]):
    """Numbers given out in order, and again once they were given back. Owner: the datapath.

    Raises: LookupError -> more names than numbers, from `of`; nothing was given out then.
    """

    def __init__(self, limit: int, known: Mapping[Name, int] | None = None) -> None:
        """Go on with the numbers that are known from before, if there are any."""
        self._limit = limit
        self._ids: dict[Name, int] = dict(known or {})
        self._free: list[int] = sorted(set(range(self.used)) - set(self._ids.values()), reverse=True)
        self._names: Mapping[int, Name] | None = None

    @property
    def used(self) -> int:
        """One more than the highest number in use."""
        return max(self._ids.values(), default=-1) + 1

    def of(self, names: Iterable[Name]) -> Mapping[Name, int]:
        """Return every name's number, giving one to each that has none."""
        found = {name: self._ids.get(name, _NONE) for name in names}
        fresh = [name for name, number in found.items() if number == _NONE]
        if len(self._ids) + len(fresh) > self._limit:
            message = f"{len(self._ids) + len(fresh)} are wanted and there is room for {self._limit}"
            raise LookupError(message)
        if fresh:
            self._names = None
        for name in fresh:
            found[name] = self._ids[name] = self._free.pop() if self._free else len(self._ids)
        return found

    def give_back(self, name: Name) -> None:
        """Let a name's number be used again."""
        self._names = None
        self._free.append(self._ids.pop(name))

    def known(self) -> dict[Name, int]:
        """Return the numbers by their names, as they are now."""
        return dict(self._ids)

    def names(self) -> Mapping[int, Name]:
        """Return the names by their numbers, as they are now. Cost: nothing until one comes or goes."""
        if self._names is None:
            self._names = {number: name for name, number in self._ids.items()}
        return self._names
