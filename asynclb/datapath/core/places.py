"""Addresses as C compares them, and the hash table of what the image says of them. Pure."""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from asynclb.datapath.core.layout import CONSTANTS
from asynclb.net.address import Address, Prefix

NONE = CONSTANTS["NONE"]
_MASK = 0xFFFF_FFFF_FFFF_FFFF
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_MAPPED = 0xFFFF << 32
_PLACE = struct.Struct("=QQHBBIII")
_FIRST_PLACES = 16  # a power of two; doubled until no address needs more than PROBES looks


def mapped(address: Address) -> tuple[int, int]:
    """Return an address as the two words that C compares: IPv4 as ::ffff:a.b.c.d."""
    number = int(address)
    return (0, _MAPPED | number) if address.version == 4 else (number >> 64, number & _MASK)


def unmapped(high: int, low: int) -> Address:
    """Return the address that two words stand for."""
    if high == 0 and low >> 32 == 0xFFFF:
        return IPv4Address(low & 0xFFFF_FFFF)
    return IPv6Address(high << 64 | low)


def place_hash(words: tuple[int, int], port: int, protocol: int, kind: int) -> int:
    """Return where a place's probes begin, before the mask. C twin: place_hash in lookup.h."""
    high, low = words
    mixed = high ^ ((low << 29 | low >> 35) & _MASK) ^ (port << 16 | protocol << 8 | kind)
    mixed = mixed * _GOLDEN & _MASK
    mixed = (mixed ^ mixed >> 32) * _GOLDEN & _MASK
    return mixed >> 32


@dataclass(slots=True)
class Place:
    entry: int = NONE
    reverse: int = NONE
    flags: int = 0


PlaceKey = tuple[tuple[int, int], int, int, int]


def allow_ranges(prefixes: Iterable[Prefix]) -> list[tuple[int, int]]:
    """Return the sorted, disjoint ranges of 128-bit numbers that prefixes cover, IPv4 as mapped."""
    ends = []
    for prefix in prefixes:
        base = _MAPPED if prefix.version == 4 else 0
        ends.append((base | int(prefix.network_address), base | int(prefix.broadcast_address)))
    ranges: list[tuple[int, int]] = []
    for first, last in sorted(ends):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
        else:
            ranges.append((first, last))
    return ranges


def place_table(places: Mapping[PlaceKey, Place]) -> bytes:
    """Return the hash table of places: as small as possible, so that each is found within PROBES looks."""
    pack = _PLACE.pack
    hashed = [
        (
            place_hash(words, port, protocol, kind),
            pack(*words, port, protocol, kind, place.entry, place.reverse, place.flags),
        )
        for (words, port, protocol, kind), place in places.items()
    ]
    count = _FIRST_PLACES
    while count < 2 * len(places) or (table := _try_places(hashed, count)) is None:
        count *= 2
    return table


def _try_places(hashed: Iterable[tuple[int, bytes]], count: int) -> bytes | None:
    empty = bytes(_PLACE.size)
    table = [empty] * count
    for start, packed in hashed:
        for index in range(start, start + CONSTANTS["PROBES"]):
            if table[index & (count - 1)] is empty:
                table[index & (count - 1)] = packed
                break
        else:
            return None
    return b"".join(table)
