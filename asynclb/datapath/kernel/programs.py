"""Loaded programs, and the maps that they work on.

Two kinds of maps. `State` is what is known of flows and what was counted: it goes from one generation of programs to
the next, and from one process to the next. The tables (`control`, `images`, `hops`) belong to one generation of
programs, which is loaded aside, filled, and then put in the place of the other: link by link, each packet meeting the
old program with the old tables or the new one with the new. That is how tables outgrow their map, how a restarted
process takes over, and how another version does.

Within a generation, tables are published in one of two images that programs see mapped: the one that nobody reads is
written, one aligned word says which is current, and the other may be written again after a grace period.
"""

import hashlib
import mmap
import os
import platform
import re
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from ctypes import CDLL, c_long, sizeof
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from struct import pack
from typing import Any

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS
from asynclb.datapath.core.values import MAX_MEMBERS, MAX_NEXT_HOPS, MAX_RULES
from asynclb.datapath.host import Capability, missing
from asynclb.datapath.kernel.refusals import TELLS_LENGTH
from asynclb.native.libbpf import Libbpf, MapInfo, Object
from asynclb.net.drop import Drop

OBJECT = Path(__file__).parents[2] / "native" / "_kernel.bpf.o"
STATE_MAPS = (
    *("flows4", "rests4", "marks4", "flows6", "fragments"),
    *("rule_counts", "member_counts", "drops", "totals", "interfaces", "appliances"),
)
TABLES = ("control", "images", "hops")
SLACK = 4_096
"""Bytes behind an image: what a masked offset may reach beyond its last byte."""
SMALLEST_IMAGE = 1 << 20


class Entry(StrEnum):
    """The programs of the object, by who begins them. The kernel verifies each for itself, for some 100 ms."""

    TC = "tc"
    BARE = "bare"
    """tc, where frames have no link header."""
    XDP = "xdp"
    ASK = "ask"
    """Questions of the process."""


_WAYS_FOR_FIVE = 12
"""For five flows: a million takes 192 MB, and one in 2,400 of them finds no free way (core/sets.h)."""
_SETTINGS = ".rodata.settings"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMES = {Entry.TC: "asynclb_tc", Entry.BARE: "asynclb_tc_bare", Entry.ASK: "asynclb_ask"}
_XDP = ("asynclb_xdp", "asynclb_xdp_plain")
_TAILS: Mapping[Entry, str] = {Entry.TC: "tails_tc", Entry.XDP: "tails_xdp"}
"""The maps of tail calls, by who makes them. The kernel empties one that has neither a holder nor a pin."""
_GRACE_S = 0.02  # where the kernel offers no grace period: no program runs for so long
_MEMBARRIER_GLOBAL = 1  # linux/membarrier.h
_MEMBARRIER: Mapping[str, int] = {"x86_64": 324, "aarch64": 283}


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """How many flows there certainly is room for; beyond that, some make room for new ones (core/sets.h)."""

    flows4: int = 1_000_000
    flows6: int = 250_000

    @property
    def groups(self) -> int:
        """How many groups of sets IPv4 flows have."""
        return -(-_WAYS_FOR_FIVE * self.flows4 // (5 * CONSTANTS["SET_WAYS"] * CONSTANTS["SET_GROUP"]))


class State:
    """Descriptors of the maps that outlive programs. Owner: the datapath."""

    def __init__(self, maps: Mapping[str, int]) -> None:
        self.maps = dict(maps)

    def __getitem__(self, name: str) -> int:
        return self.maps[name]

    def close(self) -> None:
        """Let go of the maps."""
        for fd in self.maps.values():
            os.close(fd)
        self.maps.clear()


def room_of(sets: int) -> int:
    """Return how many IPv4 flows there certainly is room for in so many sets."""
    return sets * CONSTANTS["SET_WAYS"] * 5 // _WAYS_FOR_FIVE


def layout_digest() -> int:
    """Return the number that an object and pinned maps must have been made by."""
    return layout.digest(drop.name for drop in Drop)


def read_object(path: Path = OBJECT) -> bytes:
    """Return the object that the package was built with. Raises: OSError -> it was not built."""
    return path.read_bytes()


def kernel_release() -> tuple[int, ...]:
    """Return the first two numbers of the kernel's version."""
    return tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])


def capacity_for(size: int) -> int:
    """Return the capacity of an image map for tables of this many bytes: a power of two, with room to grow."""
    return max(SMALLEST_IMAGE, 1 << (2 * size - 1).bit_length())


def grace_period() -> None:
    """Return when every program run that had begun has ended. Blocks for some 20 ms; call it in a thread.

    membarrier(2) waits for readers as the kernel itself does before it frees what they may hold, so that a program
    on a processor that stands still (a virtual machine's) is waited for too.
    """
    libc = CDLL(None, use_errno=True)
    number = _MEMBARRIER.get(platform.machine())
    if number is not None and libc.syscall(c_long(number), c_long(_MEMBARRIER_GLOBAL), c_long(0), c_long(0)) == 0:
        return
    time.sleep(_GRACE_S)


def tails(entry: Entry, first: str) -> dict[int, str]:
    """Return the programs that the first one of an entry calls at its end, by their places in its map."""
    if entry not in _TAILS:
        return {}
    return {CONSTANTS["TAIL_SIX"]: f"{first}6", CONSTANTS["TAIL_ANY"]: f"{first}_any"}


def choose(opened: Object, entries: Collection[Entry]) -> dict[Entry, str]:
    """Let the programs be loaded that this process may load, and return the first one of each entry.

    Where CAP_PERFMON is missing XDP asks the kernel for the length of each frame, which costs 11 ns.
    """
    plain = bool(missing(Capability.CAP_PERFMON) and missing(Capability.CAP_SYS_ADMIN))
    firsts = {**_NAMES, Entry.XDP: _XDP[plain]}
    for entry, first in (*firsts.items(), (Entry.XDP, _XDP[not plain])):
        is_wanted = entry in entries and firsts[entry] == first
        for name in (first, *tails(entry, first).values()):
            opened.choose(name, load=is_wanted)
    return {entry: first for entry, first in firsts.items() if entry in entries}


def connect(bpf: Libbpf, opened: Object, firsts: Mapping[Entry, str]) -> dict[int, int]:
    """Let programs that are loaded find whom they call at their ends; return the maps that say so, by their ids.

    Raises: BpfError.
    """
    found = {}
    for entry in firsts.keys() & _TAILS.keys():
        fd = opened.map(_TAILS[entry])
        for place, name in tails(entry, firsts[entry]).items():
            bpf.update(fd, pack("=I", place), pack("=I", opened.program(name)))
        found[bpf.map_info(fd).id] = fd
    return found


class Programs:
    """One generation of programs with tables of its own. Owner: the datapath, which closes it."""

    def __init__(
        self,
        bpf: Libbpf,
        code: bytes,
        state: State,
        limits: FlowLimits,
        capacity: int,
        entries: Collection[Entry] = tuple(Entry),
    ) -> None:
        """Load it over the maps of `state`, and add to that those that it did not have. What is not loaded is -1.

        Cost: some 200 ms for each of `entries`; call it in a thread.
        Raises: BpfError -> the kernel refused. ValueError -> the object was built from another layout.
        """
        self._bpf = bpf
        self.capacity = capacity
        self.entries = frozenset(entries)
        self._object = bpf.open_object(code, "asynclb")
        self._views: list[mmap.mmap] = []
        self._beside: list[Programs] = []
        try:
            self._size(limits, state)
            firsts = choose(self._object, self.entries)
            self._object.load()
            self.tails = connect(bpf, self._object, firsts)
            loaded = {entry: self._object.program(first) for entry, first in firsts.items()}
            self.tc, self.bare, self.xdp, self.ask = (loaded.get(entry, -1) for entry in Entry)
            self._images = self._mapped("images", 2 * (capacity + SLACK))
            self.control = self._object.map("control")
            self._control = layout.KernelControl.from_buffer(self._mapped("control", sizeof(layout.KernelControl)))
            self.hops: Any = (layout.Hop * MAX_NEXT_HOPS).from_buffer(
                self._mapped("hops", MAX_NEXT_HOPS * sizeof(layout.Hop))
            )
        except BaseException:
            self._object.close()
            raise
        for name in STATE_MAPS:
            if name not in state.maps:
                state.maps[name] = os.dup(self._object.map(name))

    def add(self, bpf: Libbpf, code: bytes, state: State, limits: FlowLimits, entries: Collection[Entry]) -> None:
        """Load those besides tc that are not there yet, over the same maps and tables.

        Cost: some 200 ms for each of `entries`; call it in a thread. Raises: BpfError -> nothing has changed.
        """
        tables = {name: self._object.map(name) for name in TABLES}
        more = Programs(bpf, code, State({**state.maps, **tables}), limits, self.capacity, entries)
        self._beside.append(more)
        self.entries |= more.entries
        self.tails |= more.tails
        self.bare, self.xdp, self.ask = max(self.bare, more.bare), max(self.xdp, more.xdp), max(self.ask, more.ask)

    def write(self, image: bytes) -> None:
        """Write tables where no program looks. Cost: a copy; call it in a thread when it is large.

        Raises: ValueError -> they are larger than `capacity`.
        """
        if len(image) > self.capacity:
            raise ValueError(f"tables of {len(image)} bytes do not fit an image of {self.capacity}")
        start = (1 - self._control.active) * (self.capacity + SLACK)
        self._images[start : start + len(image)] = image

    def flip(self, generation: int) -> None:
        """Make what was written current: one aligned store, whole for every program run.

        `generation` is written down for the next process, which goes on from there.
        """
        self._control.reserved[0] = generation
        self._control.active = 1 - self._control.active

    def stand_aside(self, aside: bool) -> None:
        """Let XDP leave all frames to tc, or decide again: one aligned store."""
        self._control.flags = CONSTANTS["CONTROL_ASIDE"] if aside else 0

    def close(self) -> None:
        """Let go of programs and tables; links that have them go on."""
        for programs in self._beside:
            programs.close()
        del self.hops, self._control, self._images
        for view in self._views:
            with suppress(BufferError):  # the last reference to a view may live in a traceback
                view.close()
        self._object.close()

    def _size(self, limits: FlowLimits, state: State) -> None:
        settings = layout.KernelSettings.from_buffer_copy(self._object.initial(_SETTINGS))
        if settings.layout_digest != layout_digest():
            raise ValueError("the BPF object was built from another layout; build it again")
        settings.image_mask = self.capacity - 1
        settings.rule_limit = settings.rule_limit or MAX_RULES
        settings.member_limit = settings.member_limit or MAX_MEMBERS
        settings.xdp_length = kernel_release() >= TELLS_LENGTH
        settings.sets = self._sets(limits, state)
        settings.seed[:] = set_seed()
        self._object.set_initial(_SETTINGS, bytes(settings))
        self._object.set_value_size("images", self.capacity + SLACK)
        self._object.set_entries("flows4", settings.sets)
        self._object.set_entries("rests4", settings.sets * CONSTANTS["SET_WAYS"])
        self._object.set_entries("marks4", settings.sets // CONSTANTS["SET_GROUP"])
        self._object.set_entries("flows6", limits.flows6)
        for name, fd in state.maps.items():
            self._object.reuse(name, fd)

    def _sets(self, limits: FlowLimits, state: State) -> int:
        """Return how many sets there are, or are to be made."""
        if "flows4" in state.maps:
            return self._bpf.map_info(state["flows4"]).max_entries
        return limits.groups * CONSTANTS["SET_GROUP"]

    def _mapped(self, name: str, size: int) -> mmap.mmap:
        view = mmap.mmap(self._object.map(name), -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        self._views.append(view)
        return view


def set_seed() -> tuple[int, ...]:
    """Return what chooses a flow's set: nobody outside knows it, and every process of one boot finds the same flows.

    Maps do not outlive the boot. Source: random(4), boot_id.
    """
    words = hashlib.blake2b(_BOOT_ID.read_bytes(), digest_size=32, person=b"asynclb flows").digest()
    return tuple(int.from_bytes(words[start : start + 8], "little") | 1 for start in range(0, 32, 8))


def last_generation(bpf: Libbpf, control: int) -> int:
    """Return the generation that was published last through a control map."""
    value = bpf.lookup(control, bytes(4), sizeof(layout.KernelControl))
    return 0 if value is None else int(layout.KernelControl.from_buffer_copy(value).reserved[0])


def same_shape(bpf: Libbpf, code: bytes, maps: Mapping[str, int]) -> bool:
    """Return whether maps that were found are those that the object would make, but for how many entries they have."""
    with bpf.open_object(code, "asynclb") as opened:
        return all(_shape(bpf.map_info(fd)) == opened.shape(name) for name, fd in maps.items())


def _shape(info: MapInfo) -> tuple[int, int, int]:
    return info.type, info.key_size, info.value_size
