"""What the next process has to know of this one: which numbers rules and members have in the maps, and the layout.

It lies in a map of its own, pinned beside the others, and is replaced whole before an image uses a new number: after
kill -9 at any point every number in a flow or counter has a name.

Shape: pages of 4,096 bytes: a length, then compressed JSON.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from asynclb.datapath.kernel.pins import Pins
from asynclb.native.libbpf import Libbpf, MapType
from asynclb.net.address import Address

NAME = "remembered"
_PAGE = 4_096
_LENGTH = struct.Struct("=I")

MemberName = tuple[str, str, Address]
"""(pool, member, address)"""


@dataclass(frozen=True, slots=True)
class Remembered:
    """The numbers in use. `layout` is the digest of the layout that the maps beside it were made by."""

    layout: int
    rules: Mapping[str, int] = field(default_factory=dict)
    members: Mapping[MemberName, int] = field(default_factory=dict)
    sources: Mapping[Address, int] = field(default_factory=dict)
    """Addresses that members' own connections leave from."""

    def encoded(self) -> bytes:
        """Return it as bytes."""
        members = [[pool, name, str(address), number] for (pool, name, address), number in self.members.items()]
        sources = {str(address): number for address, number in self.sources.items()}
        document = {"layout": self.layout, "rules": self.rules, "members": members, "sources": sources}
        return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 1)

    @classmethod
    def decoded(cls, data: bytes) -> "Remembered":
        """Return what was encoded. Raises: ValueError -> it is something else."""
        try:
            found: Any = json.loads(zlib.decompress(data))
            members = {(pool, name, ip_address(address)): int(n) for pool, name, address, n in found["members"]}
            sources = {ip_address(address): int(n) for address, n in found.get("sources", {}).items()}
            rules = {str(name): int(n) for name, n in found["rules"].items()}
            return cls(int(found["layout"]), rules, members, sources)
        except (zlib.error, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not what asynclb remembers: {error}") from error


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
