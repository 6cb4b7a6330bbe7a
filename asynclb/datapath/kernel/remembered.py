"""What the next process has to know of this one: numbers and their names, who was balanced, who leaves, the layout.

It lies in a map of its own, pinned beside the others, and is replaced whole before an image uses a new number: after
kill -9 at any point every number in a flow or counter has a name, and whoever the next configuration does not have any
more is known, so that his connections get their time.

Shape: pages of 4,096 bytes: a length, then compressed JSON.
"""

import json
import struct
import zlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from asynclb.datapath.base import Counters
from asynclb.datapath.core.leaving import Leaving, MemberName
from asynclb.datapath.frames.numbers import Numbers, RuleName
from asynclb.datapath.kernel.pins import Pins
from asynclb.datapath.kernel.written import (
    read_counters,
    read_names,
    read_rows,
    write_counters,
    write_names,
    write_rows,
)
from asynclb.native.libbpf import Libbpf, MapType
from asynclb.net.address import Address
from asynclb.tables.row import Row

Name = TypeVar("Name", bound=Hashable)
NAME = "remembered"
_PAGE = 4_096
_LENGTH = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Remembered:
    """The numbers in use, and what they were used for.

    `layout` is the digest of the layout that the maps beside it were made by. Rows are no more than what those who
    leave need: `leaving` has until when, by a clock that only a start of the host resets, as it does the maps.
    """

    layout: int
    rules: Mapping[RuleName, int] = field(default_factory=dict)
    members: Mapping[MemberName, int] = field(default_factory=dict)
    sources: Mapping[Address, int] = field(default_factory=dict)
    """Addresses that members' own connections leave from."""
    rows: tuple[Row, ...] = ()
    leaving: Leaving = field(default_factory=Leaving)
    past: Counters = field(default_factory=Counters)
    """What was counted under numbers that were given back."""

    @classmethod
    def of(cls, layout: int, numbers: Numbers, rows: tuple[Row, ...], leaving: Leaving) -> "Remembered":
        """Return what is to be remembered of these."""
        known = (numbers.rules.known(), numbers.members.known(), numbers.sources.known())
        return cls(layout, *known, rows, leaving, numbers.past)

    def numbers(self) -> Numbers:
        """Return the numbers, to be gone on with."""
        numbers = Numbers(self.rules, self.members, self.sources, self.past)
        numbers.entered(self.rows, self.leaving)
        return numbers

    def fresh(self, before: "Remembered") -> tuple[list[int], list[int]]:
        """Return the numbers of rules and of members that are another name's than before."""
        return _fresh(self.rules, before.rules), _fresh(self.members, before.members)

    def encoded(self) -> bytes:
        """Return it as bytes."""
        document = {
            "layout": self.layout,
            **write_names(self.rules, self.members, self.sources),
            **write_rows(self.rows, self.leaving, self.members),
            "past": write_counters(self.past),
        }
        return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 1)

    @classmethod
    def decoded(cls, data: bytes) -> "Remembered":
        """Return what was encoded. Raises: ValueError -> it is something else."""
        try:
            found: Any = json.loads(zlib.decompress(data))
            rules, members, sources = read_names(found)
            rows, leaving = read_rows(found, members)
            return cls(int(found["layout"]), rules, members, sources, rows, leaving, read_counters(found["past"]))
        except (zlib.error, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"not what asynclb remembers: {error}") from error


def _fresh(now: Mapping[Name, int], before: Mapping[Name, int]) -> list[int]:
    return [number for name, number in now.items() if before.get(name) != number]


def remember(bpf: Libbpf, pins: Pins, what: Remembered) -> int:
    """Put it under its name, in place of what was there, and return the map's descriptor."""
    data = what.encoded()
    data = _LENGTH.pack(len(data)) + data
    pages = range(0, len(data), _PAGE)
    fd = bpf.create_map(MapType.ARRAY, NAME, 4, _PAGE, len(pages))
    for number, start in enumerate(pages):
        bpf.update(fd, _LENGTH.pack(number), data[start : start + _PAGE].ljust(_PAGE, b"\0"))
    pins.keep(fd, NAME)
    return fd


def recall(bpf: Libbpf, fd: int) -> Remembered:
    """Read it. Raises: ValueError, BpfError -> there is nothing that could be understood."""
    info = bpf.map_info(fd)
    if info.type != MapType.ARRAY or info.value_size != _PAGE:
        raise ValueError("the map is another one's")
    pages = (bpf.lookup(fd, _LENGTH.pack(number), _PAGE) for number in range(info.max_entries))
    data = b"".join(page or b"" for page in pages)
    (length,) = _LENGTH.unpack_from(data)
    return Remembered.decoded(data[_LENGTH.size : _LENGTH.size + length])
