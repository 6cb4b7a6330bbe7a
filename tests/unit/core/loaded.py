"""The BPF programs of the core, loaded, and run on frames that go nowhere (BPF_PROG_TEST_RUN)."""

import errno
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ctypes import CDLL, Structure, sizeof
from dataclasses import dataclass, field
from functools import cache
from mmap import PAGESIZE, mmap
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from asynclb import native
from asynclb.datapath.core import NextHop, build_image, layout
from asynclb.datapath.core.layout import CONSTANTS
from asynclb.datapath.host import Capability, missing
from asynclb.datapath.kernel.programs import Entry, choose, connect, set_seed
from asynclb.native.libbpf import Batch, BpfError, Libbpf, LibbpfMissingError, Object
from asynclb.net.drop import Drop
from tests.unit.core.world import CLIENTS, OURS, SERVERS, World

OBJECT = Path(native.__file__).with_name("_kernel.bpf.o")
_HOOKS = ("asynclb_xdp", "asynclb_xdp_plain", "asynclb_tc")
PROGRAMS = (*(f"{hook}{more}" for hook in _HOOKS for more in ("", "6", "_any")), "asynclb_tc_bare", "asynclb_ask")
CAPACITY, SLACK = 1 << 20, 4096
XDP_VERDICTS = {1: "drop", 2: "pass", 3: "tx", 4: "tx"}
TC_VERDICTS = {2: "drop", 0xFFFF_FFFF: "pass", 7: "tx"}
_CLONE_NEWNET = 0x4000_0000
_CHECKSUM_COMPLETE = 4  # BPF_F_TEST_SKB_CHECKSUM_COMPLETE, Linux 6.17
_FLOW_MAPS: tuple[tuple[str, int, type[Structure]], ...] = (
    ("flows4", 4, layout.FlowSet),
    ("flows6", sizeof(layout.Key), layout.Flow),
    ("fragments", sizeof(layout.FragmentKey), layout.Fragment),
)
SETS = 64
"""Of IPv4's flows: few, for what looks at all of them takes its time from fragments, which are held for a second."""


@cache
def unavailable() -> str:
    """Return why the programs cannot be loaded here, or nothing. The smallest of them is tried.

    Raises: BpfError -> the verifier refuses it, which is no reason to skip a test.
    """
    if not OBJECT.exists():
        return "the BPF object is not built"
    try:
        with Libbpf().open_object(OBJECT.read_bytes(), "asynclb") as opened:
            choose(opened, (Entry.ASK,))
            opened.load()
    except LibbpfMissingError as error:
        return str(error)
    except BpfError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS) and not missing(Capability.CAP_PERFMON):
            raise
        return str(error)
    return ""


def need_programs() -> None:
    """Skip the test where the programs cannot be loaded at all."""
    if why := unavailable():
        pytest.skip(why)


@dataclass
class Loaded:
    """The programs with maps of their own, in a network namespace of their own. Owner: a test."""

    bpf: Libbpf
    object: Object
    thread: ThreadPoolExecutor
    views: list[mmap] = field(default_factory=list)
    hook: str = "xdp"
    xdp: str = "asynclb_xdp"

    def __post_init__(self) -> None:
        """Map what the process writes."""
        self._images = self._mapped("images", 2 * (CAPACITY + SLACK))
        self._control = layout.KernelControl.from_buffer(self._mapped("control", sizeof(layout.KernelControl)))
        self._hops: Any = (layout.Hop * 65_536).from_buffer(self._mapped("hops", 65_536 * sizeof(layout.Hop)))

    def _mapped(self, name: str, size: int) -> mmap:
        view = mmap(self.object.map(name), -(-size // PAGESIZE) * PAGESIZE)
        self.views.append(view)
        return view

    def publish(self, image: bytes) -> None:
        """Let every frame from here on meet this image."""
        start = (1 - self._control.active) * (CAPACITY + SLACK)
        self._images[start : start + len(image)] = image
        self._control.active = 1 - self._control.active

    def set_hop(self, index: int, hop: NextHop | None, *, via_kernel: bool = False) -> None:
        """Replace a next hop."""
        record = layout.Hop()
        if hop is not None:
            record.ifindex, record.mtu, record.resolved, record.via_kernel = hop.ifindex, hop.mtu, 1, via_kernel
            record.destination[:], record.source[:] = hop.destination, hop.source
        self._hops[index] = record

    def set_interface(self, ifindex: int, link: bytes, flags: int = 3, *, mtu: int = 0) -> None:
        """Say which link address is ours, and what fits the link."""
        record = layout.Interface(ifindex, flags, mtu, 1)
        record.link[:] = link
        self.bpf.update(self.object.map("interfaces"), struct.pack("=I", ifindex), bytes(record))

    def next_tick(self) -> None:
        """Wait until the programs look interfaces up again: they remember them for a tick, 10 ms at most."""
        sleep(0.02)

    def set_appliances(self, links: set[bytes]) -> None:
        """Say whose frames have been through an appliance."""
        for link in links:
            word = 1 << 48 | int.from_bytes(link, "big")
            self.bpf.update(self.object.map("appliances"), struct.pack("=Q", word), bytes(4))

    def show(self, world: World) -> None:
        """Empty the maps of flows, and let the programs know a world, as `World.core` does."""
        self.clear()
        self.publish(build_image(world.tables, world.plan))
        for index, hop in world.hops.items():
            self.set_hop(index, hop)
        self.set_interface(CLIENTS, OURS)
        self.set_interface(SERVERS, world.hops[0].source)

    def run(self, frame: bytes, ifindex: int, *, gso: int = 0, summed: bool = False) -> tuple[str, bytes]:
        """Run a program on a frame; returns its verdict and the frame as it is then.

        `summed`: tc gets it with a sum over the packet (CHECKSUM_COMPLETE), and the kernel looks at that afterwards.
        Raises: BpfError -> EBADMSG: the sum is not that of the packet any more.
        """
        return self.thread.submit(self._run, frame, ifindex, gso, 1, summed=summed).result()[:2]

    def time(self, frame: bytes, ifindex: int, repeat: int) -> int:
        """Return the mean time of a run in ns. The frame is as the run before left it: use one that stays as it is."""
        return self.thread.submit(self._run, frame, ifindex, 0, repeat).result()[2]

    def _run(
        self, frame: bytes, ifindex: int, gso: int, repeat: int, *, summed: bool = False
    ) -> tuple[str, bytes, int]:
        if self.hook == "xdp":
            context = struct.pack("=6I", 0, len(frame), 0, ifindex, 0, 0)
            done = self.bpf.test_run(self.object.program(self.xdp), frame, context=context, repeat=repeat)
            return XDP_VERDICTS[done.code], done.data, done.duration_ns
        told = bytearray(192)
        struct.pack_into("=I", told, 40, ifindex)
        struct.pack_into("=I", told, 164, 2 if gso else 0)
        struct.pack_into("=I", told, 176, gso)
        flags = _CHECKSUM_COMPLETE if summed else 0
        program = self.object.program("asynclb_tc")
        done = self.bpf.test_run(program, frame, context=bytes(told), repeat=repeat, flags=flags)
        return TC_VERDICTS[done.code & 0xFFFF_FFFF], done.data, done.duration_ns

    def drops(self) -> dict[Drop, int]:
        """Return the drop counters that are not zero."""
        found = {}
        for number, reason in enumerate(Drop, 1):
            words = self._cpus("drops", number, 1)
            if any(words):
                found[reason] = sum(words)
        return found

    def count(self, name: str, index: int) -> layout.Count:
        """Return the sum of a rule's or a member's counters over all processors."""
        return layout.Count(*self._sums(name, index, layout.Count))

    def totals(self) -> layout.KernelTotals:
        """Return the sum of the counters of no rule over all processors."""
        return layout.KernelTotals(*self._sums("totals", 0, layout.KernelTotals))

    def _sums(self, name: str, index: int, kind: type[Structure]) -> list[int]:
        size = sizeof(kind) // 8
        words = self._cpus(name, index, size)
        return [sum(words[at::size]) for at in range(size)]

    def _cpus(self, name: str, index: int, words: int) -> tuple[int, ...]:
        count = words * self.bpf.possible_cpus()
        value = self.bpf.lookup(self.object.map(name), struct.pack("=I", index), 8 * count)
        return struct.unpack(f"={count}Q", value or bytes(8 * count))

    def reset_counts(self) -> None:
        """Set the drop counters, those of no rule, and those of the first rules and members, to zero."""
        count, totals = sizeof(layout.Count) // 8, sizeof(layout.KernelTotals) // 8
        first = (
            ("drops", len(Drop) + 1, 1),
            ("totals", 1, totals),
            ("rule_counts", 4, count),
            ("member_counts", 4, count),
        )
        for name, keys, words in first:
            for key in range(keys):
                value = bytes(8 * words * self.bpf.possible_cpus())
                self.bpf.update(self.object.map(name), struct.pack("=I", key), value)

    def flows(self) -> list[layout.Flow]:
        """Return what is in the maps of flows; of IPv4's not their `rest`."""
        found = list[layout.Flow]()
        for name, _, record in self._records():
            if isinstance(record, layout.FlowSet):
                found += [layout.Flow.from_buffer_copy(way) for way in record.way if way.word[1]]
            elif name == "flows6":
                found.append(record)
        return found

    def later(self, ms: int) -> None:
        """Let time pass: all deadlines come nearer."""
        for name, key, record in self._records():
            for each in record.way if isinstance(record, layout.FlowSet) else (record,):
                timed = layout.Flow.from_buffer(each) if isinstance(each, layout.FlowWay) else each
                timed.deadline_ms = timed.deadline_ms - ms & 0xFFFF_FFFF
            self.bpf.update(self.object.map(name), key, bytes(record))

    def clear(self) -> None:
        """Forget all flows and fragments."""
        for name, key, record in self._records():
            if isinstance(record, layout.FlowSet):
                self.bpf.update(self.object.map(name), key, bytes(sizeof(record)))
            else:
                self.bpf.delete(self.object.map(name), key)

    def _records(self) -> list[tuple[str, bytes, Any]]:
        found: list[tuple[str, bytes, Any]] = []
        for name, key_size, kind in _FLOW_MAPS:
            batch, more = Batch(key_size, sizeof(kind), 4_096), True
            while more:
                more = self.bpf.lookup_batch(self.object.map(name), batch)
                values = (kind * batch.count).from_buffer_copy(batch.values)
                found += [(name, batch.key(index), values[index]) for index in range(batch.count)]
        return [each for each in found if not isinstance(each[2], layout.FlowSet) or any(bytes(each[2]))]


@contextmanager
def loaded(*, flows: int = 1_000, capacity: int = CAPACITY, restrained: bool = False) -> Iterator[Loaded]:
    """Load the programs; frames come in by two interfaces of a namespace that ends with it.

    `restrained`: the thread that loads them has CAP_NET_ADMIN and CAP_BPF, and no other capability.
    """
    need_programs()
    bpf = Libbpf()
    with ThreadPoolExecutor(1) as thread, bpf.open_object(OBJECT.read_bytes(), "asynclb") as opened:
        thread.submit(_make_interfaces).result()
        if restrained:
            thread.submit(restrain).result()
        settings = layout.KernelSettings.from_buffer_copy(opened.initial(".rodata.settings"))
        settings.image_mask = capacity - 1
        settings.sets, settings.seed[:] = SETS, set_seed()
        opened.set_initial(".rodata.settings", bytes(settings))
        opened.set_value_size("images", capacity + SLACK)
        opened.set_entries("flows4", SETS)
        opened.set_entries("flows6", flows)
        firsts = thread.submit(choose, opened, Entry).result()
        thread.submit(opened.load).result()
        connect(bpf, opened, firsts)
        made = Loaded(bpf, opened, thread, xdp=firsts[Entry.XDP])
        yield made
        made.views.clear()


def restrain() -> None:
    """Give this thread's capabilities away but for two. Source: capset(2), version 3."""
    held = 1 << Capability.CAP_NET_ADMIN | 1 << Capability.CAP_BPF
    low, high = held & 0xFFFF_FFFF, held >> 32
    head, sets = struct.pack("=Ii", 0x2008_0522, 0), struct.pack("=6I", low, low, 0, high, high, 0)
    if CDLL(None, use_errno=True).capset(head, sets):
        raise PermissionError("capabilities cannot be given away")


def _make_interfaces() -> None:
    """Move this thread into a new namespace with the interfaces that the worlds speak of."""
    if CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise PermissionError("a network namespace cannot be made")
    for name, index in (("clients", CLIENTS), ("servers", SERVERS)):
        command = f"ip link add {name} index {index} type veth peer name {name}-end"
        subprocess.run(command.split(), check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)


assert CONSTANTS["INTERFACE_LINK"] | CONSTANTS["INTERFACE_REDIRECT"] == 3
