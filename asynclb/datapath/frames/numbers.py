"""What the engines know by number: rules, members, next hops; who leaves, and which numbers are free again.

A number stays with its name while anything refers to it: the tables, what leaves, flows. Then what was counted under it
is kept by name, and another name may have it. So a process lives through any number of changes.

    tables --> Leaving --> over: flows end, in two passes --> the image without them --> numbers are given back
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from asynclb.datapath.base import Counters
from asynclb.datapath.core.leaving import Leaving, MemberName, Parting, member_names
from asynclb.datapath.core.parting import Ending
from asynclb.datapath.core.plan import Leaver, Plan
from asynclb.datapath.core.values import MAX_MEMBERS, MAX_NEXT_HOPS, MAX_RULES, CoreCounters, NextHop
from asynclb.datapath.frames.ids import Ids
from asynclb.datapath.frames.report import counters_of
from asynclb.datapath.frames.surroundings import Surroundings
from asynclb.net.address import Address
from asynclb.net.flow import Protocol
from asynclb.tables.row import FrontendKey, Row
from asynclb.tables.snat import SnatRule

_OLD_RULES = 256

MAX_SOURCES = 65_535  # flows have 16 bits for it

RuleName = tuple[str, FrontendKey | None]
"""A rule that moves to another frontend is another one to its flows. Outbound rules have no key."""

Release = Callable[[Collection[int], Collection[int]], CoreCounters]
"""`Crew.release_ids`: what was counted under rules and members by number, which is forgotten there."""


@dataclass(frozen=True, slots=True)
class Over:
    """What ends now: partings whose time is over, and members that nothing refers to any more."""

    partings: tuple[Parting, ...]
    members: frozenset[MemberName]
    ending: Ending


class Numbers:
    """Owner: the datapath. Raises: LookupError -> more rules, members or next hops than the engines have room for."""

    def __init__(
        self,
        rules: Mapping[RuleName, int] | None = None,
        members: Mapping[MemberName, int] | None = None,
        sources: Mapping[Address, int] | None = None,
        past: Counters | None = None,
    ) -> None:
        """Go on with the numbers that are known from before, and with what was counted, if there is any."""
        self.rules: Ids[RuleName] = Ids(MAX_RULES, rules)
        self.members: Ids[MemberName] = Ids(MAX_MEMBERS, members)
        self.hops: Ids[Address] = Ids(MAX_NEXT_HOPS)
        self.sources: Ids[Address] = Ids(MAX_SOURCES, sources)  # never given back: connections outlast the rules
        self.outbound: tuple[SnatRule, ...] = ()
        """The outbound rules that the engines have."""
        self._rows: dict[RuleName, Row] = {}
        self.past = past or Counters()
        """What was counted under numbers that were given back."""

    def plan(
        self,
        rows: Collection[Row],
        leaving: Leaving,
        around: Surroundings,
        gateways: Mapping[int, Address] | None = None,
        outbound: tuple[SnatRule, ...] = (),
    ) -> Plan:
        """Number everything that these rows and those who leave refer to, and the gateways to clients, by version."""
        towards = gateways or {}
        hops = self.hops.of(member_addresses((*rows, *leaving.rows)) | frozenset(towards.values()))
        rules = self.rules.of(
            (*((row.rule.name, row.key) for row in (*rows, *leaving.rows)), *((rule.name, None) for rule in outbound))
        )
        present = (*member_names(rows), *outbound_names(outbound))
        members = self.members.of((*present, *member_names(leaving.rows)))
        by_row = {row.rule.name: rules[row.rule.name, row.key] for row in rows}
        return Plan(
            rules={**{rule.name: rules[rule.name, None] for rule in outbound}, **by_row},
            members={(pool, name): members[pool, name, address] for pool, name, address in present},
            next_hops=hops,
            routed=routed_keys((*leaving.rows, *rows), around),
            return_hops={
                row.key.address: hops[towards[row.key.address.version]]
                for row in (*leaving.rows, *rows)
                if row.key.address.version in towards
            },
            leaving=tuple(Leaver(row, rules[row.rule.name, row.key]) for row in leaving.rows),
            left={name: members[name] for name in member_names(leaving.rows)},
            local=frozenset(around.addresses),
            sources=self.sources.of(address for rule in outbound for address in rule.sources),
        )

    def entered(self, rows: Iterable[Row], leaving: Leaving, outbound: tuple[SnatRule, ...] = ()) -> None:
        """Take note of what the engines have; rules that are removed stay known for as long as their numbers."""
        self.outbound = outbound
        self._rows.update(((row.rule.name, row.key), row) for row in (*leaving.rows, *rows))

    def rows(self) -> dict[int, Row]:
        """Return the rules by number, as they are or as they were."""
        return {number: self._rows[name] for number, name in self.rules.names().items() if name in self._rows}

    def over(self, rows: Collection[Row], leaving: Leaving, now_s: float) -> Over | None:
        """Return what ends now, or None."""
        partings = leaving.over(now_s)
        unused = frozenset(self.unused(rows, leaving.without(partings)))
        if not partings and not unused:
            return None
        members, rules = self.members.of(unused), self._by_key()
        flows = [
            (rule, number, 0 if parting.row.key.protocol is Protocol.ALL else parting.row.rule.backend_port)
            for parting in partings
            for rule in rules.get(parting.row.key, ())
            for name, number in self.members.of(member_names([parting.row])).items()
            if name not in unused
        ]
        return Over(partings, unused, Ending(tuple(flows), tuple(sorted(members.values()))))

    def release_members(self, over: Over, rows: Iterable[Row], leaving: Leaving, release: Release) -> None:
        """Give back the members that ended, unless these rows, which the engines have, refer to them again."""
        free = self.members.of(over.members & self.unused(rows, leaving))
        self.past = self.counters(release((), tuple(free.values())), 0)
        for name in free:
            self.members.give_back(name)

    def has_old_rules(self, rows: Collection[Row], leaving: Leaving) -> bool:
        """Return whether many rules have a number that may be free: asking costs some milliseconds."""
        wanted = len(rows) + len(leaving.partings) + len(self.outbound)
        return len(self.rules.names()) > wanted + _OLD_RULES

    def release_rules(self, rows: Iterable[Row], leaving: Leaving, counted: CoreCounters, release: Release) -> None:
        """Give back the rules that these rows, which the engines have, do not have any more, and no flow either."""
        wanted: set[RuleName] = {(row.rule.name, row.key) for row in (*rows, *leaving.rows)}
        wanted |= {(rule.name, None) for rule in self.outbound}
        still = {number for number, counts in counted.rules.items() if counts.flows}
        free = {
            number: name for number, name in self.rules.names().items() if name not in wanted and number not in still
        }
        self.past = self.counters(release(tuple(free), ()), 0)
        for name in free.values():
            self.rules.give_back(name)
            self._rows.pop(name, None)

    def release_hops(self, wanted: Collection[Address]) -> None:
        """Give back the next hops of other addresses: no image that is in force has them."""
        for address in set(self.hops.names().values()) - set(wanted):
            self.hops.give_back(address)

    def counters(self, core: CoreCounters, lost: int) -> Counters:
        """Return what was counted, by name, with what was counted under numbers that others have by now."""
        rules = {number: name for number, (name, _) in self.rules.names().items()}
        return counters_of(core, rules, self.members.names(), lost, self.past)

    def reached(self, around: Surroundings) -> dict[int, NextHop]:
        """Return the next hops that are resolved, by number."""
        names = self.hops.names()
        return {number: around.hops[address] for number, address in names.items() if address in around.hops}

    def _by_key(self) -> Mapping[FrontendKey, list[int]]:
        """Return the numbers of all rules that have had a frontend key: a rule's new name is no end for its flows."""
        found: dict[FrontendKey, list[int]] = {}
        for number, (_, key) in self.rules.names().items():
            if key is not None:
                found.setdefault(key, []).append(number)
        return found

    def unused(self, rows: Iterable[Row], leaving: Leaving) -> set[MemberName]:
        """Return the members that have a number and nothing else."""
        wanted = {*member_names(rows), *member_names(leaving.rows), *outbound_names(self.outbound)}
        return set(self.members.names().values()) - wanted


def outbound_names(rules: Iterable[SnatRule]) -> Iterator[MemberName]:
    """Yield what members of outbound rules are counted under."""
    return ((rule.place, member.name, member.address) for rule in rules for member in rule.pool.members)


def member_addresses(rows: Iterable[Row]) -> frozenset[Address]:
    """Return where the members of these rows are."""
    return frozenset(address for _, _, address in member_names(rows))


def routed_keys(rows: Iterable[Row], around: Surroundings) -> dict[tuple[int, int], FrontendKey]:
    """Return which frontend takes an interface's traffic for other addresses; the last one wins."""
    by_name = {link.name: link.index for link in around.every_link.values()}
    return {
        (by_name[row.frontend.interface], row.key.address.version): row.key
        for row in rows
        if row.frontend.routed and row.frontend.interface in by_name
    }
