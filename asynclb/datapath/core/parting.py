"""Which flows end when their members' time is over, by number. C twin: parting.h."""

from collections.abc import Iterable
from ctypes import c_uint8, c_uint32, c_uint64
from dataclasses import dataclass
from typing import Any

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS

HUSH_S = 0.2
"""From silence to the last resets: delayed acknowledgements come within 40 ms, and then over the wire."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Which flows end: some by (rule, member, port on the member, 0 for HA ports), and all of some members."""

    flows: tuple[tuple[int, int, int], ...] = ()
    members: tuple[int, ...] = ()


class Going:
    """What ends, in C's form. Made once, for both passes over the flows."""

    def __init__(self, flows: Iterable[tuple[int, int, int]], members: Iterable[int], *, max_members: int) -> None:
        """Take flows and members as `Ending` names them."""
        self.fates = (c_uint8 * max_members)()
        words = sorted({rule << 40 | member << 16 | port for rule, member, port in flows})
        self.words = (c_uint64 * len(words))(*words)
        for word in words:
            self.fates[word >> 16 & 0xFF_FFFF] = CONSTANTS["PART_SOME"]
        for member in members:
            self.fates[member] = CONSTANTS["PART_ALL"]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What C's functions take of it."""
        return self.fates, c_uint32(len(self.fates)), self.words, c_uint32(len(self.words))

    def has(self, flow: layout.Flow) -> bool:
        """Return whether a flow ends. C twin: is_parting."""
        fate = self.fates[flow.member] if flow.member < len(self.fates) else 0
        if fate != CONSTANTS["PART_SOME"]:
            return bool(fate == CONSTANTS["PART_ALL"])
        return (flow.rule << 40 | flow.member << 16 | flow.target_port) in self.words
