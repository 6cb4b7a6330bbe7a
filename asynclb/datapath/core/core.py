"""The typed wrapper of the native core: owns the memory, calls C, returns values.

Laws:
  1. The memory belongs to one `Core` and is used by one thread; C keeps no pointer beyond it but to rings attached.
  2. Publishing is one assignment: a frame meets the old image or the new one. The image before is kept until the next.
  3. A library built from another layout.py is not used.
"""

import mmap
from collections.abc import Iterable, Iterator
from ctypes import Array, addressof, byref, c_char, c_uint8, c_uint32, c_uint64, memmove, sizeof
from typing import Any

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS, Verdict
from asynclb.datapath.core.memory import DROPS, FlowMemory, core_library, flow_view
from asynclb.datapath.core.parting import Going
from asynclb.datapath.core.reset import reset_frames
from asynclb.datapath.core.values import Asked, Batch, CoreCounters, FlowView, NextHop, Reset, Result, Swept
from asynclb.net.drop import Drop

__all__ = ["DROPS", "Core", "Going", "RxRing"]

_NONE = CONSTANTS["NONE"]
_RESETS = 512  # resets that one call of sweep can report; it goes on with the next call

Staged = Array[c_uint64]
"""An image that fits, in the core's own memory."""


class RxRing:
    """A mapped TPACKET_V2 receive ring and how far it has been read. Owner: the datapath that mapped it."""

    def __init__(
        self, ring: mmap.mmap, *, ifindex: int, frame_size: int, frame_count: int, vnet_header: bool = True
    ) -> None:
        """Read `frame_count` frames of `frame_size` from the start of `ring`.

        `vnet_header`: the socket has PACKET_VNET_HDR, so that 10 bytes of virtio_net_hdr stand before each frame.
        """
        self._view = _view(ring, 0)
        vnet_bytes = CONSTANTS["VNET_BYTES"] if vnet_header else 0
        self.record = layout.Ingress(addressof(self._view), ifindex, frame_size, frame_count, 0, vnet_bytes, 0)
        self.place = byref(self.record)

    @property
    def ready(self) -> bool:
        """Whether the next frame belongs to user space."""
        place = self.record.ring + self.record.head * self.record.frame_size
        return bool(c_uint32.from_address(place).value & 1)

    def seek(self) -> None:
        """Go to the oldest frame: whoever read this ring before may have stopped anywhere.

        The kernel fills a ring in order, so waiting frames are one run, which begins behind the longest free stretch;
        a short one is a frame that is being written.
        """
        first, step, count = self.record.ring, self.record.frame_size, self.record.frame_count
        waiting = [i for i in range(count) if c_uint32.from_address(first + i * step).value & 1]
        if waiting:
            before = [waiting[-1] - count, *waiting]
            self.record.head = max(zip(waiting, before, strict=False), key=lambda pair: pair[0] - pair[1])[0]

    def close(self) -> None:
        """Let go of the mapping, so that its owner can close it."""
        del self._view


class Core:
    """The native core with its memory. Owner: one datapath, one thread.

    Raises: RuntimeError -> the native library is not available, or was built from another layout.
    """

    def __init__(
        self,
        max_flows: int = 1_000_000,
        *,
        max_rules: int = 8_192,
        max_members: int = 65_536,
        max_next_hops: int = 65_536,
        shared: int | None = None,
    ) -> None:
        """Make a core; with `shared`, the descriptor of a memory file, its flows and counters are kept there."""
        self._library = core_library()
        self.max_rules, self.max_members, self.max_next_hops = max_rules, max_members, max_next_hops
        self._flows = FlowMemory(max_flows, max_rules, max_members, shared)
        memory = self._memory = self._flows.record
        self._maps: list[mmap.mmap] = []
        self._hops = self._map("hops", layout.Hop, max_next_hops)
        self._fragments = self._map("fragments", layout.Fragment, _product("FRAGMENT_SETS", "FRAGMENT_WAYS"))
        self._held = self._map("held", layout.Held, CONSTANTS["HELD"])
        self._clients = self._map("clients", layout.Client, CONSTANTS["CLIENTS"])
        self._appliances = self._map("appliances", c_uint64, CONSTANTS["APPLIANCES"])
        memory.hop_limit = max_next_hops
        self._image: Staged | None = None
        self._before: Staged | None = None
        self._egresses: dict[int, tuple[int, Any]] = {}
        self._batch = layout.BatchRecord()
        self._dirty: dict[int, tuple[int, ...]] = {}  # interfaces by the egresses' bits, until there are others
        self._place, self._batch_place = byref(memory), byref(self._batch)
        self._receive = self._library.asynclb_core_receive
        self._resets = (layout.KeyedFlow * _RESETS)()

    def stage(self, image: bytes) -> Staged:
        """Take an image in, to be published. Raises: ValueError -> it is damaged, or does not fit this core."""
        buffer = (c_uint64 * (len(image) // 8 + 1))()
        memmove(buffer, image, len(image))
        if not self._library.asynclb_core_fits(byref(self._memory), byref(buffer), c_uint64(len(image))):
            raise ValueError("the image of the tables is damaged or does not fit the core's limits")
        return buffer

    def publish(self, image: bytes | Staged) -> None:
        """Let every frame from here on meet this image. Raises: as `stage`, if it was not staged; the old one stays."""
        buffer = self.stage(image) if isinstance(image, bytes) else image
        size = layout.Image.from_buffer(buffer).size
        self._library.asynclb_core_publish(byref(self._memory), byref(buffer), c_uint64(size))
        self._before, self._image = self._image, buffer

    def set_next_hop(self, index: int, hop: NextHop | None) -> None:
        """Replace a next hop in place; None is unresolved. Raises: IndexError -> beyond `max_next_hops`."""
        if not 0 <= index < self.max_next_hops:
            raise IndexError(f"next hop {index} is beyond the {self.max_next_hops} that this core has")
        record = layout.Hop()
        if hop is not None:
            record.ifindex, record.mtu, record.resolved = hop.ifindex, hop.mtu, hop.resolved
            record.destination[:], record.source[:] = hop.destination, hop.source
        self._library.asynclb_core_set_hop(byref(self._memory), c_uint32(index), byref(record))

    def set_interface(self, ifindex: int, link: bytes, mtu: int = 0) -> None:
        """Say which link address is ours on an interface; else it is learnt from next hops and from frames.

        `mtu` is that of what is sent there, 0 when it is not known.
        """
        self._library.asynclb_core_set_interface(byref(self._memory), c_uint32(ifindex), link, c_uint32(mtu))

    def forget_interface(self, ifindex: int) -> None:
        """Forget an interface that has gone: there is room for 64, and one that comes back is another one."""
        known = self._memory.interfaces
        used = [index for index, interface in enumerate(known) if interface.ifindex]
        for index in used:
            if known[index].ifindex == ifindex:  # the list ends where an entry is empty
                known[index] = known[used[-1]]
                known[used[-1]] = layout.Interface()
                return

    def wanted_next_hops(self) -> tuple[int, ...]:
        """Return the unresolved next hops that frames were dropped for since the last call: resolve them."""
        indexes = (c_uint32 * 256)()
        count = self._library.asynclb_core_wanted(byref(self._memory), byref(indexes), c_uint32(len(indexes)))
        return tuple(indexes[:count])

    def process(
        self,
        frame: bytes,
        *,
        ifindex: int,
        now_ns: int,
        csum_start: int | None = None,
        csum_offset: int = 0,
        segment: int = 0,
    ) -> Result:
        """Decide one frame; `csum_start` (from the frame's start) says that its checksum is partial there.

        `segment`: the kernel is yet to cut the frame into segments with so many bytes of payload; 0: it is whole.
        """
        data = (c_uint8 * len(frame)).from_buffer_copy(frame) if frame else (c_uint8 * 1)()
        answer = layout.Answer()
        self._library.asynclb_core_process(
            *(byref(self._memory), byref(data), c_uint32(len(frame)), c_uint32(ifindex)),
            *(c_uint32(_NONE if csum_start is None else csum_start), c_uint32(csum_offset)),
            *(c_uint32(segment), c_uint64(now_ns), byref(answer)),
        )
        released = tuple(self._released(answer, now_ns)) if answer.release else ()
        return _result(answer, bytes(data)[: answer.length or len(frame)], released)

    def ask(self, frame: bytes, *, ifindex: int, now_ns: int) -> Asked:
        """Return who would get a frame. Nothing is sent, kept or counted."""
        data, answer = (c_uint8 * len(frame)).from_buffer_copy(frame), layout.Answer()
        self._library.asynclb_core_ask(
            *(byref(self._memory), byref(data), c_uint32(len(frame)), c_uint32(ifindex)),
            *(c_uint64(now_ns), byref(answer)),
        )
        member, known = answer.member, CONSTANTS["MEMBER_KNOWN"]
        return Asked(
            Verdict(answer.verdict),
            DROPS[answer.reason - 1] if answer.reason else None,
            None if member == _NONE else member & ~known,
            member != _NONE and bool(member & known),
        )

    def _released(self, first: layout.Answer, now_ns: int) -> Iterator[Result]:
        answer = layout.Answer()
        while True:
            place = self._library.asynclb_core_release(
                byref(self._memory), byref(first), c_uint64(now_ns), byref(answer)
            )
            if not place:
                return
            held = layout.Held.from_address(place)
            yield _result(answer, bytes(held.data[: held.length]), ())

    def attach_egress(
        self, ifindex: int, ring: mmap.mmap, frame_size: int, frame_count: int, *, offset: int = 0, vnet: bool = True
    ) -> None:
        """Send frames for `ifindex` through the TPACKET_V2 transmit ring at `offset` of `ring`; at most 64 of them.

        `vnet`: the socket has PACKET_VNET_HDR.
        Raises: ValueError -> there are 64 already, or one for this interface.
        """
        vnet_bytes = CONSTANTS["VNET_BYTES"] if vnet else 0
        self._attach(ifindex, _view(ring, offset), layout.Egress(0, ifindex, frame_size, frame_count, 0, vnet_bytes, 1))

    def attach_buffer(self, ifindex: int, buffer: mmap.mmap) -> None:
        """Write frames for `ifindex` into a buffer, one behind the other, until they are collected.

        Raises: ValueError -> as `attach_egress`.
        """
        egress = layout.Egress(0, ifindex, 0, len(buffer), 0, CONSTANTS["VNET_BYTES"], 1)
        self._attach(ifindex, _view(buffer, 0), egress)

    def _attach(self, ifindex: int, view: Any, egress: layout.Egress) -> None:
        free = next((i for i, egress in enumerate(self._memory.egresses) if not egress.used), None)
        if free is None or ifindex in self._egresses:
            raise ValueError(f"interface {ifindex} cannot have a transmit ring: {len(self._egresses)} are attached")
        egress.ring = addressof(view)
        self._egresses[ifindex] = (free, view)
        self._dirty.clear()
        self._memory.egresses[free] = egress

    def detach_egress(self, ifindex: int) -> None:
        """Forget a transmit ring; frames for it are dropped with a reason."""
        index, _ = self._egresses.pop(ifindex)
        self._memory.egresses[index] = layout.Egress()
        self._dirty.clear()

    def receive(self, rx: RxRing, budget: int, now_ns: int) -> Batch:
        """Take at most `budget` frames off the ring, decide each, give it back, fill the egress rings."""
        frames, dirty = self.take(rx, budget, now_ns)
        batch = self._batch
        return Batch(
            frames=frames,
            passed=batch.passed,
            dropped=batch.dropped,
            sent=batch.sent,
            held=batch.held,
            dirty=dirty,
            more=bool(batch.more),
        )

    def take(self, rx: RxRing, budget: int, now_ns: int) -> tuple[int, tuple[int, ...]]:
        """Do what `receive` does at a fifth of its cost, and return only how many frames came, and where some leave."""
        batch = self._batch
        self._receive(self._place, rx.place, budget, c_uint64(now_ns), self._batch_place)
        dirty = batch.dirty
        found = self._dirty.get(dirty)
        if found is None:
            egresses = self._memory.egresses
            found = tuple(egresses[i].ifindex for i in range(dirty.bit_length()) if dirty >> i & 1)
            self._dirty[dirty] = found
        return batch.frames, found

    def collect(self, ifindex: int, outlet: layout.Outlet, now_ns: int) -> tuple[int, bool]:
        """Take the frames that wait for an interface from the outlet's tail on; return how many, and if all are plain.

        Plain frames are complete, and without a virtio_net_hdr; if one is not, all of them have it.
        Of those that the guard has to see, `msg_controllen` is that of one number, else 0; and the padding behind
        `msg_len` has the number of the note that was made, from 1, or 0 (note.h). An outlet without notes has none.
        """
        index = self._egresses[ifindex][0]
        count = int(self._library.asynclb_core_collect(self._place, index, byref(outlet), c_uint64(now_ns)))
        return abs(count), count < 0

    def sweep(self, now_ns: int, budget: int) -> Swept:
        """Visit at most `budget` buckets (9 flows each) of the flow table, and expire what is past its deadline."""
        done, before = c_uint32(), self._memory.expired
        count = self._library.asynclb_core_sweep(
            *(byref(self._memory), c_uint64(now_ns), c_uint32(budget)),
            *(byref(self._resets), c_uint32(_RESETS), byref(done)),
        )
        resets = tuple(self._reset(self._resets[index]) for index in range(count))
        return Swept(self._memory.expired - before, resets, bool(done.value))

    def _reset(self, keyed: layout.KeyedFlow) -> Reset:
        """Make the frames that tell both ends; none for an end whose link address is not known."""
        flow = keyed.flow
        hop, ours = self._member_hop(flow.member), self._interface(flow.ifindex)
        return Reset(flow_view(keyed), reset_frames(keyed, hop, ours, self._member_address(flow.member)))

    def _member_record(self, member: int) -> layout.MemberRecord | None:
        if self._image is None:
            return None
        head = layout.Image.from_buffer(self._image)
        if member >= head.members.count:
            return None
        offset = head.members.offset + member * sizeof(layout.MemberRecord)
        record = layout.MemberRecord.from_buffer(self._image, offset)
        return record if record.flags & CONSTANTS["MEMBER_PRESENT"] else None

    def _member_hop(self, member: int) -> layout.Hop | None:
        record = self._member_record(member)
        if record is None or record.next_hop >= self.max_next_hops:
            return None
        hop: layout.Hop = self._hops[record.next_hop]
        return hop if hop.resolved else None

    def _member_address(self, member: int) -> tuple[int, int] | None:
        record = self._member_record(member)
        return None if record is None else (record.address.high, record.address.low)

    def _interface(self, ifindex: int) -> bytes | None:
        return next((bytes(i.link) for i in self._memory.interfaces if i.ifindex == ifindex), None)

    def part(self, going: Going, cursor: int, budget: int, *, last: bool) -> tuple[tuple[Reset, ...], int | None]:
        """Visit at most `budget` buckets for flows that end, and return resets for both ends of connections.

        Two passes make resets that ends accept though data was under way: the first silences connections and tells who
        listens, the last removes what ends and tells again, with what the ends have acknowledged since. The ids in
        `going` may be used again after the last. Returns the cursor for the next call, or None at the end.
        """
        place = c_uint32(cursor)
        count = self._library.asynclb_core_part(
            *(byref(self._memory), going.fates, going.words, c_uint32(len(going.words)), c_uint32(last)),
            *(byref(place), c_uint32(budget), byref(self._resets), c_uint32(_RESETS)),
        )
        resets = tuple(self._reset(self._resets[index]) for index in range(count))
        return resets, place.value if place.value < self._memory.bucket_count else None

    def release_ids(self, rules: Iterable[int], members: Iterable[int]) -> CoreCounters:
        """Return what was counted under these ids and begin again at zero, so that others may have them."""
        return self._flows.release_ids(rules, members)

    def counters(self) -> CoreCounters:
        """Return a snapshot of the counters that are not zero."""
        return self._flows.counters()

    def flows(self, cursor: int = 0, limit: int = 1_000) -> tuple[list[FlowView], int | None]:
        """Return at most `limit` (9 at least) flows and the cursor for the next ones, or None at the end."""
        return self._flows.flows(cursor, limit)

    def listen(self, *, ends: bool, starts: bool, sample: int = 1) -> None:
        """Let flows that end, and that begin, be told of, one of so many; or no more."""
        self._flows.listen(ends=ends, starts=starts, sample=sample)

    def untold(self) -> int:
        """Return how many were not told of since the beginning."""
        return self._flows.untold()

    def told(self) -> Array[layout.ToldFlow]:
        """Take what was told since the last call."""
        return self._flows.told()

    def snat_marks(self, sources: int, now_ns: int) -> bytearray:
        """Return which SNAT ports are in use, as `FlowMemory.snat_marks` does."""
        return self._flows.snat_marks(sources, now_ns)

    def count_drop(self, reason: Drop) -> None:
        """Count a frame that the core sent and nobody could take."""
        self._flows.count_drop(reason)

    def flow_count(self) -> int:
        """Return how many flows are open."""
        return self._flows.flow_count()

    def close(self) -> None:
        """Give the memory back. Nothing may be called afterwards."""
        self._memory = layout.CoreMemory()
        self._egresses.clear()
        del self._hops, self._fragments, self._held, self._appliances, self._clients
        for memory in self._maps:
            memory.close()
        self._maps.clear()
        self._flows.close()

    def _map(self, name: str, kind: Any, count: int) -> Any:
        """Map zeroed memory for `count` items; pages are taken from the system when they are first used."""
        memory = mmap.mmap(-1, max(count * sizeof(kind), mmap.PAGESIZE))
        self._maps.append(memory)
        items = (kind * count).from_buffer(memory)
        setattr(self._memory, name, addressof(items))
        return items


def _view(ring: mmap.mmap, offset: int) -> Any:
    return (c_char * (len(ring) - offset)).from_buffer(ring, offset)


def _product(*names: str) -> int:
    product = 1
    for name in names:
        product *= CONSTANTS[name]
    return product


def _result(answer: layout.Answer, frame: bytes, released: tuple[Result, ...]) -> Result:
    reason = DROPS[answer.reason - 1] if answer.reason else None
    return Result(Verdict(answer.verdict), reason, answer.ifindex, frame, released)
