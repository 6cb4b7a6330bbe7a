"""The one declaration of everything that C and Python share: structs, enumerations, constants.

ctypes lays a `Structure` out as C does, so the classes here are both the Python views and the source of the C header:
`header` writes `layout.h`, with an assertion of every size, when the native library is built. The build reads this
file by its path, before there is a package; hence it imports nothing of asynclb.

Addresses are pairs of 64-bit words, IPv4 as ::ffff:a.b.c.d. All numbers are in host order; `_be` would say otherwise.
Hash tables have powers of two places; every index is below a count in the same image. The image is one block that
never changes (magic, version, sections by offset and count): to publish it is one assignment, no frame meets a mixture.
"""

from collections.abc import Iterable
from ctypes import Array, Structure, c_uint8, c_uint16, c_uint32, c_uint64, sizeof
from enum import IntEnum
from typing import Any, Final
from zlib import crc32


class Verdict(IntEnum):
    """What becomes of a frame."""

    PASS = 0
    """Not ours: the host's own stack may have it."""
    DROP = 1
    """Ours, and goes nowhere; the reason says why."""
    TX = 2
    """Leaves by an interface, rewritten."""
    HOLD = 3
    """A fragment that came before its first: kept for a second at most, and decided together with it."""


class Kind(IntEnum):
    """What a `Place` in the image's hash table says about an address."""

    EMPTY = 0
    ADDRESS = 1
    """The address alone: its flags, its HA-ports entry, and the HA-ports entry whose member it is."""
    FRONTEND = 2
    """(VIP, port, protocol) -> the entry."""
    REVERSE = 3
    """(address that members answer from, backend port, protocol) -> the entry whose replies come from there."""
    INTERFACE = 4
    """(IP version, ifindex) -> the routed entry; the version stands in `high`, the ifindex in `low`."""
    LEFT = 5
    """As REVERSE, for members and rules that leave; port and protocol 0 for HA ports."""
    SNAT = 6
    """(member, protocol) -> the `Snat` of what it sends on its own account; protocol 0 for what they have in common."""


class Delivery(IntEnum):
    """How a flow reaches its member (asynclb.tables.row.Delivery)."""

    NAT = 0
    FLOATING = 1
    ROUTED = 2


class Distribution(IntEnum):
    """Which fields choose the member (asynclb.net.flowhash.Distribution)."""

    FIVE_TUPLE = 0
    SOURCE_IP = 1
    SOURCE_IP_PROTOCOL = 2


class Conn(IntEnum):
    """What is known of a TCP connection. `NONE` is that of flows of other protocols."""

    NONE = 0
    SYN = 1
    ESTABLISHED = 2
    FIN_IN = 3
    FIN_OUT = 4
    CLOSED = 5
    EXPIRED = 6
    """Idle for longer than its rule allows, and its ends were told: nothing passes until a SYN begins anew."""


class Told(IntEnum):
    """What is told of a flow: that it begins, or why it is over. The state says which end of a connection it is."""

    BEGUN, LATE = 0, 1  # the latter: past its deadline
    REPLACED, PARTED = 2, 3  # another flow took its place; its member's time was over


class Event(IntEnum):
    """What a TCP header says; a reset outweighs a SYN, a SYN a FIN."""

    OTHER = 0
    SYN = 1
    FIN = 2
    RST = 3


_HEARD: Final[dict[tuple[int, Event], tuple[Conn, ...]]] = {
    # (direction, event):     NONE             SYN              ESTABLISHED      FIN_IN       FIN_OUT      CLOSED
    (0, Event.OTHER): (Conn.ESTABLISHED, Conn.ESTABLISHED, Conn.ESTABLISHED, Conn.FIN_IN, Conn.FIN_OUT, Conn.CLOSED),
    (0, Event.SYN): (Conn.SYN, Conn.SYN, Conn.ESTABLISHED, Conn.FIN_IN, Conn.FIN_OUT, Conn.SYN),
    (0, Event.FIN): (Conn.FIN_IN, Conn.FIN_IN, Conn.FIN_IN, Conn.FIN_IN, Conn.CLOSED, Conn.CLOSED),
    (0, Event.RST): (Conn.CLOSED, Conn.CLOSED, Conn.CLOSED, Conn.CLOSED, Conn.CLOSED, Conn.CLOSED),
    (1, Event.OTHER): (Conn.ESTABLISHED, Conn.SYN, Conn.ESTABLISHED, Conn.FIN_IN, Conn.FIN_OUT, Conn.CLOSED),
    (1, Event.SYN): (Conn.SYN, Conn.SYN, Conn.ESTABLISHED, Conn.FIN_IN, Conn.FIN_OUT, Conn.CLOSED),
    (1, Event.FIN): (Conn.FIN_OUT, Conn.FIN_OUT, Conn.FIN_OUT, Conn.CLOSED, Conn.FIN_OUT, Conn.CLOSED),
    (1, Event.RST): (Conn.CLOSED, Conn.CLOSED, Conn.CLOSED, Conn.CLOSED, Conn.CLOSED, Conn.CLOSED),
}
TRANSITIONS: Final = {event: (*states, Conn.EXPIRED) for event, states in _HEARD.items()}
"""The TCP state table: direction 0 is from the client. A SYN on a closed tuple is a new flow (flow.h).

What has expired stays so, whatever it hears.
"""

REMEMBERED: Final = frozenset({Conn.ESTABLISHED, Conn.FIN_IN, Conn.FIN_OUT, Conn.EXPIRED})
"""States in which a flow past its deadline is remembered for EXPIRED_MS: its ends believe that it goes on."""

CONSTANTS: Final[dict[str, int]] = {
    "MAGIC": 0x41534C42,  # "ASLB"
    "LAYOUT_VERSION": 1,
    "NONE": 0xFFFF_FFFF,  # an index that means: there is none
    "PROBES": 8,  # places looked at for an address; the builder grows the table until that is enough
    "SEARCH_STEPS": 20,  # halvings of a sorted list, so at most a million ranges or members
    "WAYS": 9,  # flows a bucket: 9 x (64 + 40) bytes, tags and deadlines make 1,024
    "SET_WAYS": 4,  # flows a set, each a line of the cache
    "SET_GROUP": 64,  # sets that share a mark: four pages of memory
    "SET_CLAIMED": 0xFF << 40,  # the second word of a key whose way is being written: a kind that none has
    "SET_OVER_MS": 20_000,  # how long a flow that is over keeps its way from others: a pass has told of it by then
    "SET_SYN_MS": 2_000,  # ... and an unanswered SYN
    "TAIL_SIX": 0,  # tail calls of the kernel's programs: to who decides the usual packets of IPv6,
    "TAIL_ANY": 1,  # ... and to who decides any
    "ADDRESS_VIP": 1,
    "ADDRESS_LOCAL": 2,  # the host's own: what no rule takes passes to it
    "ADDRESS_MEMBER": 4,  # members answer from it: their own, or a VIP whose port changes
    "INTERFACE_LINK": 1,  # the link address is valid
    "INTERFACE_REDIRECT": 2,  # XDP can redirect to it; to others the host's own routing sends
    "INTERFACE_PEER": 4,  # tc hands frames to the other end of this veth, in another network namespace, at once
    "INTERFACE_TURN": 8,  # XDP can send by it what came by it: on a veth that takes a program at its other end
    "ADDRESS_LEFT": 8,  # there is a LEFT place for it
    "ADDRESS_OUTBOUND": 16,  # a member with a SNAT place
    "ADDRESS_SNAT": 32,  # a VIP that members' own connections leave from
    "MEMBER_PRESENT": 1,
    "MEMBER_ROUTED": 2,  # frames from its link address have been through it already
    "MEMBER_LEFT": 4,  # its pool has it no more
    "MEMBER_KNOWN": 0x8000_0000,  # in Answer.member
    "POOL_KEEPS": 0x8000_0000,  # in PoolMember.member: flows other than TCP may stay
    "POOL_MEMBER": 0x7FFF_FFFF,
    "ENTRY_SYMMETRIC": 1,
    "ENTRY_RESET": 2,  # tcp_reset
    "ENTRY_CLOSED": 4,  # the rule was removed: established connections only
    "ENTRY_ECHO": 8,  # not a rule's: pings of a public frontend, which are answered here
    "ENTRY_ECHO_UP": 16,  # ... with a reply
    "ENTRY_ECHO_DOWN": 32,  # ... with "host unreachable"
    "ENTRY_UNTRACKED": 64,  # the tables decide for UDP whenever they change
    "ENTRY_STAYS": 128,  # flows of every protocol stay with a member that goes down
    "ENTRY_MOVES": 256,  # ... leave it, TCP's too
    "KEY_SYMMETRIC": 1,  # in Key.kind: the ends are in order, lower first
    "KEY_OUTBOUND": 2,  # a member's own connection, or what comes back to it
    "FLOW_SWAPPED": 1,  # the client is the key's destination
    "FLOW_RESET": 2,
    "FLOW_HAIRPIN": 4,  # the client is a member of the pool; its source is translated
    "FLOW_NAT": 16,  # the member does not see the VIP
    "FLOW_RETURN": 8,  # the other half of a hairpin: its counters hold the client's address
    "FLOW_OVER": 32,  # its drain period is over: nothing passes, but for the resets that end it
    "FLOW_SNAT": 64,  # a member's own connection; with FLOW_RETURN the half that answers find
    "FLOW_BROKEN": 128,  # one of its ends reset it
    "CONTROL_ASIDE": 1,  # in KernelControl.flags: XDP leaves all frames to tc
    "TELL_ENDS": 1,  # in CoreMemory.tells: what is put in the ring of flows
    "TELL_STARTS": 2,
    "TOLD_ROOM": 16_384,  # flows that begin and end between two looks; a power of two; 1.8 MB
    "SNAT_RESET": 1,  # tcp_reset
    "SNAT_CLOSED": 2,  # members have no way out
    "SNAT_BLOCK": 8,
    "SNAT_SLICES": 16,  # addresses of one rule: tables/snat.py, MAX_FRONTENDS
    "SNAT_TRIES": 256,  # ports that are looked at on one address for one connection
    "SYN_MS": 30_000,  # how long an unanswered SYN is remembered: the client gives up or asks again by then
    "CLOSED_MS": 10_000,  # for last acknowledgements and repeats
    "EXPIRED_MS": 300_000,  # beyond the 200 s or so that an end repeats itself before it gives up
    "REMEMBERED": sum(1 << state for state in REMEMBERED),
    "ECHO_BYTES": 64,  # of ICMP: longer pings are not answered
    "VLAN_TAGS": 2,
    "EXTENSION_HEADERS": 8,  # RFC 8200 names six kinds, each once but for one
    "HAIRPIN_FIRST": 61_000,  # above Linux's own ephemeral ports (32768-60999)
    "HAIRPIN_PORTS": 4_096,
    "HAIRPIN_TRIES": 8,
    "FRAGMENT_SETS": 1_024,
    "FRAGMENT_WAYS": 8,
    "FRAGMENT_MS": 10_000,  # how long later fragments can follow their first; RFC 791 suggests 15 s, Linux 30 s
    "CLIENTS": 65_536,  # clients whose way back is remembered while the flow table is full
    "CLIENT_MS": 30_000,
    "HELD": 64,
    "HELD_MS": 1_000,
    "HELD_BYTES": 9_216,  # a jumbo frame; larger ones are dropped
    "EGRESSES": 64,
    "INTERFACES": 64,
    "APPLIANCES": 16_384,  # link addresses, hashed; more than three for each of 5,000 members
    "PART_SOME": 1,  # the fate of a member's flows in asynclb_core_part: those that are named
    "PART_ALL": 2,
    "QUOTE_BYTES": 256,  # of a packet that is too big: enough for its headers, and a bounded copy for BPF
    "ICMP_BURST": 50,  # messages of our own at once; Linux: icmp_msgs_burst
    "ICMP_MS": 1,  # the time that one more takes; Linux: icmp_msgs_per_sec is 1,000
    "VNET_BYTES": 10,  # struct virtio_net_hdr without mergeable buffers
}

_U8, _U16, _U32, _U64 = c_uint8, c_uint16, c_uint32, c_uint64


class Address(Structure):
    """An IPv6 or mapped IPv4 address as an integer."""

    _fields_ = (("high", _U64), ("low", _U64))


class Section(Structure):
    """A part of the image: bytes from its start, and how many items."""

    _fields_ = (("offset", _U32), ("count", _U32))


class Image(Structure):
    """The head of the image."""

    _fields_ = (
        ("magic", _U32),
        ("version", _U32),
        ("size", _U32),
        ("generation", _U32),
        ("key0", _U64),
        ("key1", _U64),
        ("places", Section),
        ("entries", Section),
        ("choices", Section),
        ("slots", Section),
        ("pools", Section),
        ("members", Section),
        ("allows", Section),
        ("snats", Section),
        ("slices", Section),
        ("blocks", Section),
        ("sources", Section),
    )


class Place(Structure):
    """One item of the hash table over addresses."""

    _fields_ = (
        ("address", Address),
        ("port", _U16),
        ("protocol", _U8),
        ("kind", _U8),
        ("entry", _U32),
        ("reverse", _U32),
        ("flags", _U32),
    )


class Entry(Structure):
    """One rule on one frontend. `slots` of the Maglev table are indexes into its part of `choices` (member ids).

    `leaving` is a part of `pools` as well: members that established TCP connections may stay with, by their own id,
    or by their name's number where frames are routed.
    """

    _fields_ = (
        ("vip", Address),
        ("rule", _U32),
        ("idle_ms", _U32),
        ("slots", Section),
        ("choices", Section),
        ("pool", Section),
        ("leaving", Section),
        ("allow", Section),
        ("return_hop", _U32),
        ("port", _U16),
        ("backend_port", _U16),
        ("delivery", _U8),
        ("distribution", _U8),
        ("flags", _U16),
        ("reserved", _U8 * 4),
    )


class PoolMember(Structure):
    """A member of a pool by its name's number in this image; each pool's are sorted by it."""

    _fields_ = (("identity", _U32), ("member", _U32))


class MemberRecord(Structure):
    """A member by its id."""

    _fields_ = (("address", Address), ("next_hop", _U32), ("identity", _U32), ("flags", _U32), ("reserved", _U32))


class Allow(Structure):
    """A range of sources, both ends included; an entry's are sorted and disjoint."""

    _fields_ = (("first", Address), ("last", Address))


class Snat(Structure):
    """What becomes of a member's own connections; `direct` are destinations, in `allows`, not translated to."""

    _fields_ = (
        ("rule", _U32),
        ("member", _U32),
        ("idle_ms", _U32),
        ("flags", _U32),
        ("slices", Section),
        ("direct", Section),
    )


class SnatSlice(Structure):
    """A member's ports of one address: `source` is its index, `first` that of a block in `blocks`, `count` of ports."""

    _fields_ = (("source", _U32), ("first", _U32), ("count", _U32), ("reserved", _U32))


class Hop(Structure):
    """A next hop: the only part of the tables that changes in place.

    `via_kernel`: frames take the host's own routing, because XDP cannot redirect there.
    """

    _fields_ = (
        ("ifindex", _U32),
        ("mtu", _U32),
        ("destination", _U8 * 6),
        ("source", _U8 * 6),
        ("resolved", _U8),
        ("wanted", _U8),
        ("via_kernel", _U8),
        ("reserved", _U8),
    )


class Key(Structure):
    """What names a flow: the client's side of it, or the two ends in order (KEY_SYMMETRIC)."""

    _fields_ = (
        ("source", Address),
        ("destination", Address),
        ("source_port", _U16),
        ("destination_port", _U16),
        ("protocol", _U16),
        ("kind", _U16),
    )


class FlowRest(Structure):
    """What few packets ask of a flow: TCP's acknowledgements, its begin, and the port that stands for its client."""

    _fields_ = (("ack_in", _U32), ("ack_out", _U32), ("created_s", _U32), ("hairpin_port", _U16), ("reserved", _U16))


class Flow(Structure):
    """A flow's state: one line of the cache. Bytes are of frames; packets and seconds are counted modulo 2^32.

    `generation` is compared modulo 2^16. `deadline_ms` is used where a flow is a map's value; a bucket keeps its own.
    """

    _anonymous_ = ("rest",)
    _fields_ = (
        ("bytes_in", _U64),
        ("bytes_out", _U64),
        *((name, _U32) for name in ("packets_in", "packets_out", "deadline_ms", "ifindex")),
        ("client_link", _U8 * 6),
        *((name, _U16) for name in ("member", "rule", "generation", "target_port")),
        ("state", _U8),
        ("flags", _U8),
        ("rest", FlowRest),
    )


class Bucket(Structure):
    """Nine flows. The tags (0: free) and deadlines fill one line and a bit, so a miss and a sweep touch little else."""

    _fields_ = (
        ("flow", Flow * 9),
        ("tag", _U32 * 9),
        ("deadline_ms", _U32 * 9),
        ("key", Key * 9),
        ("reserved", _U64 * 2),
    )


class ToldFlow(Structure):
    """A flow that begins or is over, for who listens."""

    _fields_ = (("key", Key), ("flow", Flow), ("told", _U32), ("reserved", _U32))


class KeyedFlow(Structure):
    """A copy of a flow for Python."""

    _fields_ = (("key", Key), ("flow", Flow))


class Fragment(Structure):
    """The ports that the first fragment of a datagram had."""

    _fields_ = (
        ("source", Address),
        ("destination", Address),
        ("id", _U32),
        ("deadline_ms", _U32),
        ("source_port", _U16),
        ("destination_port", _U16),
        ("protocol", _U16),
        ("used", _U16),
    )


class Client(Structure):
    """Where a client without a flow is: the interface and the link address that its last packet came from."""

    _fields_ = (
        ("address", Address),
        ("seen_ms", _U32),
        ("ifindex", _U32),
        ("link", _U8 * 6),
        ("used", _U16),
    )


class Held(Structure):
    """A fragment that waits for its first."""

    _fields_ = (
        ("source", Address),
        ("destination", Address),
        ("id", _U32),
        ("deadline_ms", _U32),
        ("protocol", _U32),
        ("length", _U32),
        ("ifindex", _U32),
        ("vlan", _U32),
        ("used", _U32),
        ("reserved", _U32),
        ("data", _U8 * 9_216),
    )


class Count(Structure):
    """Counters of a rule or of a member."""

    _fields_ = (
        ("packets_in", _U64),
        ("bytes_in", _U64),
        ("packets_out", _U64),
        ("bytes_out", _U64),
        ("syn", _U64),
        ("new_flows", _U64),
        ("flows", _U64),
        ("reserved", _U64),
    )


class IcmpLimit(Structure):
    """How many messages of our own may be sent at once, and since when the next is due."""

    _fields_ = (("tokens", _U32), ("filled_ms", _U32))


class Interface(Structure):
    """Our own link address on an interface: told (`fixed`), or learnt from frames sent to it. `mtu`: 0 if not known."""

    _fields_ = (("ifindex", _U32), ("flags", _U32), ("mtu", _U32), ("fixed", _U16), ("link", _U8 * 6))


class Key4(Structure):
    """The key of an IPv4 flow in the kernel: two words."""

    _fields_ = (
        ("source", _U32),
        ("destination", _U32),
        ("source_port", _U16),
        ("destination_port", _U16),
        ("protocol", _U8),
        ("kind", _U8),
        ("reserved", _U16),
    )


class FlowWay(Structure):
    """An IPv4 flow but for its `rest`, and its key: a `Key4` as two words; the second is 0 if the way is free."""

    _fields_ = (("state", _U64 * 6), ("word", _U64 * 2))


class FlowSet(Structure):
    """Flows whose keys name this set."""

    _fields_ = (("way", FlowWay * 4),)


class FragmentKey(Structure):
    """What names a datagram in the kernel's map of fragments, whose values are `Fragment`."""

    _fields_ = (("source", Address), ("destination", Address), ("id", _U32), ("protocol", _U32))


class KernelControl(Structure):
    """What the process tells the programs while they run: which of the two images is current, and who decides."""

    _fields_ = (("active", _U32), ("flags", _U32), ("reserved", _U64 * 7))


class KernelSettings(Structure):
    """What the loader tells the programs before they are loaded.

    `image_mask` is the images' capacity less one; `xdp_length` whether there is bpf_xdp_get_buff_len; `sets` how many.
    """

    _fields_ = (
        ("layout_digest", _U32),
        ("image_mask", _U32),
        ("rule_limit", _U32),
        ("member_limit", _U32),
        ("xdp_length", _U32),
        ("sets", _U32),
        ("seed", _U64 * 4),
    )


class KernelTotals(Structure):
    """Counters of no rule, for each processor: flows that got a place, and flows that were `over` when they lost it."""

    _fields_ = (("stateless", _U64), ("made", _U64), ("over", _U64))


class Egress(Structure):
    """A mapped TPACKET_V2 transmit ring; or, where `frame_size` is 0, a buffer of `frame_count` bytes (ring.h)."""

    _fields_ = (
        ("ring", _U64),
        ("ifindex", _U32),
        ("frame_size", _U32),
        ("frame_count", _U32),
        ("head", _U32),
        ("vnet_bytes", _U32),
        ("used", _U32),
    )


class Outlet(Structure):
    """What sends an egress' frames: `limit` each of struct iovec and struct mmsghdr, and what the guard was shown."""

    _fields_ = (
        ("vectors", _U64),
        ("messages", _U64),
        ("notes", _U64),
        ("note_sets", _U32),
        ("interval_ms", _U32),
        ("limit", _U32),
        ("tail", _U32),
    )


class Ingress(Structure):
    """A mapped TPACKET_V2 receive ring."""

    _fields_ = (
        ("ring", _U64),
        ("ifindex", _U32),
        ("frame_size", _U32),
        ("frame_count", _U32),
        ("head", _U32),
        ("vnet_bytes", _U32),
        ("reserved", _U32),
    )


class Answer(Structure):
    """What became of one frame. `release`: a first fragment was recorded, so held ones may go.

    `length` is not 0 when the frame is a message of our own in the place of the one that came. `member` answers a
    question (struct packet, `asked`): who would get it; MEMBER_KNOWN: by a flow that is there.
    """

    _fields_ = (
        *((name, _U32) for name in ("verdict", "reason", "ifindex", "release")),
        ("source", Address),
        ("destination", Address),
        *((name, _U32) for name in ("id", "protocol", "length", "member")),
    )


class BatchRecord(Structure):
    """What one batch did; `dirty` is a bit for each egress."""

    _fields_ = (
        ("dirty", _U64),
        ("frames", _U32),
        ("passed", _U32),
        ("dropped", _U32),
        ("sent", _U32),
        ("held", _U32),
        ("more", _U32),
    )


class CoreMemory(Structure):
    """The core: pointers to memory that Python owns, their limits, and the few words that change."""

    _fields_ = (
        ("image", _U64),
        ("hops", _U64),
        ("buckets", _U64),
        ("rules", _U64),
        ("members", _U64),
        ("drops", _U64),
        ("fragments", _U64),
        ("held", _U64),
        ("appliances", _U64),
        ("clients", _U64),
        ("hop_limit", _U32),
        ("bucket_count", _U32),
        ("rule_limit", _U32),
        ("member_limit", _U32),
        ("drop_limit", _U32),
        ("flow_limit", _U32),
        ("cursor", _U32),
        ("held_count", _U32),
        ("icmp", IcmpLimit),
        ("flow_count", _U64),
        ("stateless", _U64),
        ("expired", _U64),
        ("told", _U64),
        *((name, _U32) for name in ("told_head", "told_tail", "untold", "tells", "tell_sample", "reserved")),
        ("interfaces", Interface * 64),
        ("egresses", Egress * 64),
    )


STRUCTURES: Final[tuple[type[Structure], ...]] = (
    *(Address, Section, Image, Place, Entry, PoolMember, MemberRecord, Allow),
    *(Snat, SnatSlice, Hop, Key, FlowRest, Flow, Bucket, ToldFlow, KeyedFlow),
    *(Fragment, Client, Held, Count, IcmpLimit, Interface, Key4, FlowWay, FlowSet, FragmentKey),
    *(KernelControl, KernelSettings, KernelTotals),
    *(Egress, Outlet, Ingress, Answer, BatchRecord, CoreMemory),
)
ENUMERATIONS: Final[tuple[type[IntEnum], ...]] = (Verdict, Kind, Delivery, Distribution, Conn, Told, Event)

_C_NAMES: Final[dict[Any, str]] = {_U8: "u8", _U16: "u16", _U32: "u32", _U64: "u64"}


def snake(name: str) -> str:
    """Return a class's name as C writes it: `MemberRecord` is `member_record`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def transition_word(direction: int, event: Event) -> int:
    """Pack a row of `TRANSITIONS` into one word, four bits a state: C needs no table in memory."""
    return sum(state << (4 * index) for index, state in enumerate(TRANSITIONS[direction, event]))


def digest(drops: Iterable[str]) -> int:
    """Return a number that changes with the layout: the library says which one it was built from."""
    return crc32("\n".join(_declarations(drops)).encode())


def header(drops: Iterable[str]) -> str:
    """Return layout.h. `drops` are the names of the drop reasons, in their order; 0 is none."""
    names = tuple(drops)
    opening = ["/* Written by layout.py when the library is built. Change that file. */", "#ifndef ASYNCLB_LAYOUT_H"]
    opening += ["#define ASYNCLB_LAYOUT_H", "", f"#define LAYOUT_DIGEST {digest(names):#x}u"]
    return "\n".join([*opening, *_declarations(names), "", "#endif", ""])


def _declarations(drops: Iterable[str]) -> list[str]:
    lines = [f"#define {name} {value:#x}u" for name, value in CONSTANTS.items()]
    for direction, event in TRANSITIONS:
        way = ("IN", "OUT")[direction]
        lines.append(f"#define TRANSITION_{way}_{event.name} {transition_word(direction, event):#x}u")
    for enumeration in ENUMERATIONS:
        items = ", ".join(f"{snake(enumeration.__name__).upper()}_{m.name} = {int(m)}" for m in enumeration)
        lines += ["", f"enum {snake(enumeration.__name__)} {{ {items} }};"]
    reasons = ", ".join(f"DROP_{name} = {number}" for number, name in enumerate(["NONE", *drops]))
    lines += ["", f"enum drop {{ {reasons} }};"]
    for structure in STRUCTURES:
        lines += ["", *_declaration(structure)]
    return lines


def _declaration(structure: type[Structure]) -> list[str]:
    name = f"struct {snake(structure.__name__)}"
    lines = [f"/* {(structure.__doc__ or '').strip()} */", f"{name} {{"]
    for field, kind in structure._fields_:  # type: ignore[misc] # no bit fields here, so pairs
        lines.append(f"\t{_member(field, kind)};")
    lines += ["};", f'_Static_assert(sizeof({name}) == {sizeof(structure)}, "size of {name}");']
    for field, _ in structure._fields_:  # type: ignore[misc] # as above
        place = f"__builtin_offsetof({name}, {field}) == {getattr(structure, field).offset}"
        lines.append(f'_Static_assert({place}, "{name}.{field}");')
    return lines


def _member(field: str, kind: Any) -> str:
    if issubclass(kind, Array):
        return _member(f"{field}[{kind._length_}]", kind._type_)
    return f"{_C_NAMES.get(kind) or 'struct ' + snake(kind.__name__)} {field}"
