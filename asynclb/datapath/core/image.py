"""Tables become the flat image that C reads: pure, and a function of the tables and the plan alone.

Laws:
  1. The image answers every question as `asynclb.tables.lookup` does.
  2. Every index in it leads somewhere; C checks that again when the image is published.
  3. Equal parts are stored once: the slots and pools of rules that share them, the ranges of equal `allow` lists.
"""

import struct
from array import array
from collections.abc import Callable, Iterable
from ctypes import sizeof
from dataclasses import dataclass, field

from asynclb.datapath.core import layout
from asynclb.datapath.core.layout import CONSTANTS, Kind
from asynclb.datapath.core.leaving import member_names
from asynclb.datapath.core.places import NONE, Place, PlaceKey, allow_ranges, mapped, place_table
from asynclb.datapath.core.plan import ImageCache, Leaver, MemberLists, Plan
from asynclb.model import BackendPool, keeps_sessions
from asynclb.net.address import Prefix
from asynclb.net.flow import PROTOCOL_NUMBERS, Protocol
from asynclb.net.flowhash import KEY1_TWEAK
from asynclb.tables.ping import Ping, pings
from asynclb.tables.row import Delivery, FrontendKey, Row
from asynclb.tables.snat import SnatRule, SnatSlice
from asynclb.tables.tables import EMPTY_POOL_TABLE, Entry, PoolTable, Tables

PING_PROTOCOLS = {4: 1, 6: 58}
"""IP version -> ICMP's number."""
_MASK = 0xFFFF_FFFF_FFFF_FFFF
_DELIVERIES = {Delivery.NAT: 0, Delivery.FLOATING: 1, Delivery.ROUTED: 2}
_DISTRIBUTIONS = {"five_tuple": 0, "source_ip": 1, "source_ip_protocol": 2}
_PINGS = {Ping.REPLY: CONSTANTS["ENTRY_ECHO_UP"], Ping.UNREACHABLE: CONSTANTS["ENTRY_ECHO_DOWN"], Ping.SILENCE: 0}
_ENTRY = struct.Struct("=QQ13I2H2BH4x")
_MEMBER = struct.Struct("=QQ4I")


def build_image(tables: Tables, plan: Plan, cache: ImageCache | None = None) -> bytes:
    """Return the image of the tables. With a cache, only pools of which health has changed anything are looked into.

    Cost: some microseconds for each rule, and for each member of the pools that changed; slots are copied as they are.
    Raises: KeyError -> the plan has no id for a rule or member. ValueError -> routed names no entry of the tables.
    """
    cache = ImageCache() if cache is None else cache
    return _Builder(tables, plan, cache, known=cache.holds(tables, plan)).build()


@dataclass(slots=True)
class _Builder:
    """One image in the making."""

    tables: Tables
    plan: Plan
    cache: ImageCache
    known: bool
    """Whether places and members are in the cache."""
    places: dict[PlaceKey, Place] = field(default_factory=dict)
    entries: list[bytes] = field(default_factory=list)
    choices: "array[int]" = field(default_factory=lambda: array("I"))
    slots: "array[int]" = field(default_factory=lambda: array("H"))
    pools: "array[int]" = field(default_factory=lambda: array("I"))
    members: dict[int, bytes] = field(default_factory=dict)
    allows: list[bytes] = field(default_factory=list)
    snats: list[bytes] = field(default_factory=list)
    slices: list[bytes] = field(default_factory=list)
    blocks: "array[int]" = field(default_factory=lambda: array("H"))
    identities: dict[str, int] = field(default_factory=dict)
    leavers: dict[FrontendKey, list[Leaver]] = field(default_factory=dict)
    """By the key of the entry whose packets their flows' packets are."""
    shared: dict[object, tuple[int, int]] = field(default_factory=dict)
    """Parts that are stored already: what they were made of -> (offset, count) in items."""
    lists: MemberLists = field(default_factory=dict)
    """As in the cache, which gets them in the end."""

    def build(self) -> bytes:
        rows = [entry.row for entry in self.tables.entries.values()]
        before = [leaver.row for leaver in self.plan.leaving]
        self.identities = self.cache.identities if self.known else _identities((*rows, *before))
        routed_pools = {row.pool.name for row in rows if row.delivery is Delivery.ROUTED}
        self._add_left(before)
        for pool in {row.pool.name: row.pool for row in rows}.values():
            self._add_members(pool, routed=pool.name in routed_pools)
        for leaver in self.plan.leaving:
            found = self.tables.find(leaver.row.key)
            self.leavers.setdefault(found.row.key if found else leaver.row.key, []).append(leaver)
        for key, entry in self.tables.entries.items():
            self._add_entry(key, entry, self.plan.rules[entry.row.rule.name])
        self._add_closed()
        self._add_interfaces()
        self._add_pings()
        for rule in self.tables.outbound:
            self._add_outbound(rule)
        for address in self.plan.local:
            self._place(mapped(address), 0, 0, Kind.ADDRESS).flags |= CONSTANTS["ADDRESS_LOCAL"]
        return self._assemble()

    def _place(self, words: tuple[int, int], port: int, protocol: int, kind: Kind) -> Place:
        if self.known:
            return Place()
        return self.places.setdefault((words, port, protocol, kind), Place())

    def _add_members(self, pool: BackendPool, *, routed: bool) -> None:
        if self.known:
            return
        for member in pool.members:
            words = mapped(member.address)
            flags = CONSTANTS["MEMBER_PRESENT"] | (CONSTANTS["MEMBER_ROUTED"] if routed else 0)
            hop = self.plan.next_hops.get(member.address, NONE)
            record = _MEMBER.pack(*words, hop, self.identities[member.name], flags, 0)
            self.members[self.plan.members[pool.name, member.name]] = record

    def _add_left(self, rows: Iterable[Row]) -> None:
        """Store the members that leave; those that are in their pool still are stored again, without the mark."""
        if self.known:
            return
        routed = {row.pool.name for row in rows if row.delivery is Delivery.ROUTED}
        for pool in _pools(rows):
            for member in pool.members:
                hop = self.plan.next_hops.get(member.address, NONE)
                flags = CONSTANTS["MEMBER_PRESENT"] | CONSTANTS["MEMBER_LEFT"]
                flags |= CONSTANTS["MEMBER_ROUTED"] * (pool.name in routed)
                record = _MEMBER.pack(*mapped(member.address), hop, self.identities[member.name], flags, 0)
                self.members[self.plan.left[pool.name, member.name, member.address]] = record

    def _add_closed(self) -> None:
        """Add an entry for each rule that the tables have no more, and the ways back of all that leave."""
        index = {key: number for number, key in enumerate(self.tables.entries)}
        for leaver in self.plan.leaving:
            key = leaver.row.key
            if key not in index:
                index[key] = len(self.entries)
                self._add_entry(key, Entry(leaver.row, EMPTY_POOL_TABLE), leaver.rule)
            self._add_way_back(index[key], leaver.row)

    def _add_way_back(self, index: int, row: Row) -> None:
        every = row.key.protocol is Protocol.ALL
        port, number = (0, 0) if every else (row.rule.backend_port, PROTOCOL_NUMBERS[row.key.protocol])
        for words in map(mapped, row.answers_from):
            self._place(words, 0, 0, Kind.ADDRESS).flags |= CONSTANTS["ADDRESS_MEMBER"] | CONSTANTS["ADDRESS_LEFT"]
            self._place(words, port, number, Kind.LEFT).entry = index

    def _add_entry(self, key: FrontendKey, entry: Entry, rule_id: int) -> None:
        index, row, table = len(self.entries), entry.row, entry.table
        closed = key not in self.tables.entries
        vip = mapped(key.address)
        place = self._place(vip, 0, 0, Kind.ADDRESS)
        place.flags |= CONSTANTS["ADDRESS_VIP"]
        if row.delivery is not Delivery.ROUTED and not (closed and self.tables.find(key)):
            if key.protocol is Protocol.ALL:
                place.entry = index
            else:
                self._place(vip, key.port, PROTOCOL_NUMBERS[key.protocol], Kind.FRONTEND).entry = index
        if not closed:
            self._add_reverse(index, key, row)
        rule, backend_port = row.rule, 0 if key.protocol is Protocol.ALL else row.rule.backend_port
        pool = (0, 0) if closed else self._pool(row.pool, table)
        parts = (*self._slots(table), *self._choices(row.pool, table), *pool, *self._leaving(row))
        flags = CONSTANTS["ENTRY_SYMMETRIC"] * row.symmetric | CONSTANTS["ENTRY_RESET"] * rule.tcp_reset
        flags |= CONSTANTS["ENTRY_CLOSED"] * closed | CONSTANTS["ENTRY_UNTRACKED"] * (not rule.connection_tracking)
        flags |= CONSTANTS["ENTRY_STAYS"] * rule.persistence_on_unhealthy.keeps_others
        flags |= CONSTANTS["ENTRY_MOVES"] * (not rule.persistence_on_unhealthy.keeps_tcp)
        packed = _ENTRY.pack(
            *vip,
            rule_id,
            min(round(rule.idle_timeout_s * 1000), 0x7FFF_FFFF),
            *parts,
            *self._allow(row.frontend.allow),
            self.plan.return_hops.get(key.address, NONE),
            key.port,
            backend_port,
            _DELIVERIES[row.delivery],
            _DISTRIBUTIONS[rule.distribution],
            flags,
        )
        self.entries.append(packed)

    def _add_reverse(self, index: int, key: FrontendKey, row: Row) -> None:
        if self.known:
            return
        for words in map(mapped, row.answers_from):
            address = self._place(words, 0, 0, Kind.ADDRESS)
            address.flags |= CONSTANTS["ADDRESS_MEMBER"]
            if key.protocol is Protocol.ALL:
                address.reverse = index
            else:
                number = PROTOCOL_NUMBERS[key.protocol]
                self._place(words, row.rule.backend_port, number, Kind.REVERSE).entry = index

    def _slots(self, table: PoolTable) -> tuple[int, int]:
        if (part := self.shared.get(("slots", id(table.slots)))) is None:
            part = self.shared["slots", id(table.slots)] = (len(self.slots), table.size)
            self.slots.extend(table.slots)
        return part

    def _choices(self, pool: BackendPool, table: PoolTable) -> tuple[int, int]:
        if (part := self.shared.get(("choices", pool.name, id(table)))) is None:
            part = self.shared["choices", pool.name, id(table)] = (len(self.choices), len(table.members))
            self.choices.extend(self._list("choices", pool, table, self._numbers_of))
        return part

    def _list(
        self, kind: str, pool: BackendPool, table: PoolTable, make: "Callable[[BackendPool, PoolTable], array[int]]"
    ) -> "array[int]":
        """Return a list of members: the last image's while it is of the same table, and numbers are the same."""
        key = (kind, pool.name, id(table))
        kept = self.cache.lists.get(key) if self.known else None
        self.lists[key] = kept or (table, make(pool, table))
        return self.lists[key][1]

    def _numbers_of(self, pool: BackendPool, table: PoolTable) -> "array[int]":
        return array("I", [self.plan.members[pool.name, member.name] for member in table.members])

    def _pool(self, pool: BackendPool, table: PoolTable) -> tuple[int, int]:
        if (part := self.shared.get(("pool", pool.name, id(table)))) is None:
            part = self.shared["pool", pool.name, id(table)] = (len(self.pools) // 2, len(pool.members))
            self.pools.extend(self._list("pool", pool, table, self._pool_members))
        return part

    def _pool_members(self, pool: BackendPool, table: PoolTable) -> "array[int]":
        eligible, found = {member.name for member in table.members}, array("I")
        for member in sorted(pool.members, key=lambda member: member.name):
            keeps = CONSTANTS["POOL_KEEPS"] if keeps_sessions(member, eligible) else 0
            found.extend((self.identities[member.name], self.plan.members[pool.name, member.name] | keeps))
        return found

    def _leaving(self, row: Row) -> tuple[int, int]:
        """Store the members that leave the entry, by their id, or by their name where frames are routed."""
        names = [name for leaver in self.leavers.get(row.key, ()) for name in member_names([leaver.row])]
        if not names:
            return 0, 0
        if (part := self.shared.get(("leaving", row.delivery, *names))) is None:
            found = {}
            for name in names:
                number = self.plan.left[name]
                found[self.identities[name[1]] if row.delivery is Delivery.ROUTED else number] = number
            part = self.shared["leaving", row.delivery, *names] = (len(self.pools) // 2, len(found))
            for pair in sorted(found.items()):
                self.pools.extend(pair)
        return part

    def _allow(self, prefixes: tuple[Prefix, ...]) -> tuple[int, int]:
        if (part := self.shared.get(("allow", prefixes))) is None:
            ranges = allow_ranges(prefixes)
            part = self.shared["allow", prefixes] = (len(self.allows), len(ranges))
            pack = struct.Struct("=4Q").pack
            self.allows.extend(pack(a >> 64, a & _MASK, b >> 64, b & _MASK) for a, b in ranges)
        return part

    def _add_outbound(self, rule: SnatRule) -> None:
        for address in rule.sources:
            self._place(mapped(address), 0, 0, Kind.ADDRESS).flags |= (
                CONSTANTS["ADDRESS_VIP"] | CONSTANTS["ADDRESS_SNAT"]
            )
        for member in rule.pool.members:
            words, number = mapped(member.address), self.plan.members[rule.place, member.name]
            self.members[number] = _MEMBER.pack(*words, NONE, NONE, CONSTANTS["MEMBER_PRESENT"], 0)
            self._place(words, 0, 0, Kind.ADDRESS).flags |= CONSTANTS["ADDRESS_OUTBOUND"]
            for protocol in (0, *(PROTOCOL_NUMBERS[protocol] for protocol in rule.protocols)):
                place = self._place(words, 0, protocol, Kind.SNAT)
                place.entry = len(self.snats) if place.entry == NONE else place.entry
            flags = CONSTANTS["SNAT_RESET"] * rule.tcp_reset | CONSTANTS["SNAT_CLOSED"] * (not rule.protocols)
            idle_ms = min(round(rule.idle_timeout_s * 1000), 0x7FFF_FFFF)
            parts = (*self._slices(rule.slices[member.name]), *self._allow(rule.direct))
            self.snats.append(struct.pack("=8I", self.plan.rules[rule.name], number, idle_ms, flags, *parts))

    def _slices(self, slices: tuple[SnatSlice, ...]) -> tuple[int, int]:
        if (part := self.shared.get(("snat", id(slices)))) is None:
            part = self.shared["snat", id(slices)] = (len(self.slices), len(slices))
            for one in slices:
                number = self.plan.sources[one.address]
                self.slices.append(struct.pack("=4I", number, len(self.blocks), one.ports, 0))
                self.blocks.extend(one.blocks)
        return part

    def _sources(self) -> bytes:
        """Return the addresses by number."""
        by_number = {number: address for address, number in self.plan.sources.items()}
        count = max(by_number, default=-1) + 1
        blank = struct.pack("=QQ", 0, 0)
        packed = (struct.pack("=QQ", *mapped(by_number[i])) if i in by_number else blank for i in range(count))
        return b"".join(packed)

    def _add_interfaces(self) -> None:
        closed = dict.fromkeys(
            leaver.row.key for leaver in self.plan.leaving if leaver.row.key not in self.tables.entries
        )
        order = {key: index for index, key in enumerate((*self.tables.entries, *closed))}
        for (ifindex, version), key in self.plan.routed.items():
            if key not in order:
                raise ValueError(f"interface {ifindex} is routed to {key}, which the tables do not have")
            self._place((version, ifindex), 0, 0, Kind.INTERFACE).entry = order[key]

    def _add_pings(self) -> None:
        """Add an entry for each frontend whose pings are answered here: it has no members, and counts nothing."""
        for address, (ping, decisive) in pings(self.tables).items():
            if address in self.plan.local:
                continue
            row, words = decisive[0].row, mapped(address)
            number = PING_PROTOCOLS[address.version]
            self._place(words, 0, number, Kind.FRONTEND).entry = len(self.entries)
            flags = CONSTANTS["ENTRY_ECHO"] | _PINGS[ping]
            ports = (NONE, 0, 0, _DELIVERIES[Delivery.NAT], 0, flags)
            parts = (self.plan.rules[row.rule.name], 0, *(0,) * 8, *self._allow(row.frontend.allow))
            self.entries.append(_ENTRY.pack(*words, *parts, *ports))

    def _fixed(self) -> tuple[bytes, bytes]:
        """Return the places and the members, and keep them for the next image."""
        if not self.known:
            blank = _MEMBER.pack(0, 0, NONE, 0, 0, 0)
            count = max(self.members, default=-1) + 1
            self.cache.places = place_table(self.places)
            self.cache.members = b"".join(self.members.get(index, blank) for index in range(count))
            self.cache.rows = tuple(entry.row for entry in self.tables.entries.values())
            self.cache.plan, self.cache.outbound = self.plan, self.tables.outbound
            self.cache.identities = self.identities
        self.cache.lists = self.lists
        return self.cache.places, self.cache.members

    def _assemble(self) -> bytes:
        places, members = self._fixed()
        sections = (
            (places, sizeof(layout.Place)),
            (b"".join(self.entries), sizeof(layout.Entry)),
            (self.choices.tobytes(), 4),
            (self.slots.tobytes(), 2),
            (self.pools.tobytes(), sizeof(layout.PoolMember)),
            (members, sizeof(layout.MemberRecord)),
            (b"".join(self.allows), sizeof(layout.Allow)),
            (b"".join(self.snats), sizeof(layout.Snat)),
            (b"".join(self.slices), sizeof(layout.SnatSlice)),
            (self.blocks.tobytes(), 2),
            (self._sources(), sizeof(layout.Address)),
        )
        offset, parts, body = sizeof(layout.Image), [], []
        for content, size in sections:
            parts += [offset, len(content) // size]
            padded = content + bytes(-len(content) % 8)
            body.append(padded)
            offset += len(padded)
        seed, magic, version = self.tables.seed & _MASK, CONSTANTS["MAGIC"], CONSTANTS["LAYOUT_VERSION"]
        generation = self.tables.generation & 0xFFFF_FFFF
        head = struct.pack("=4I2Q22I", magic, version, offset, generation, seed, seed ^ KEY1_TWEAK, *parts)
        return b"".join((head, *body))


def _identities(rows: Iterable[Row]) -> dict[str, int]:
    """Return a number for each name that members have, in the order of names."""
    names = {member.name for pool in _pools(rows) for member in pool.members}
    return {name: index for index, name in enumerate(sorted(names))}


def _pools(rows: Iterable[Row]) -> Iterable[BackendPool]:
    """Return the rows' pools, each once."""
    return {id(row.pool): row.pool for row in rows}.values()
