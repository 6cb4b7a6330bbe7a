"""Rates from two looks at the counters, and the rows of each view. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from asynclb.admin.port_use import port_uses, read_counted
from asynclb.admin.situation import MemberFacts, MemberState, Situation, of_state
from asynclb.admin.tables_text import duration, size

Document = Mapping[str, Any]


class View(StrEnum):
    """What is listed."""

    RULES = "rules"
    MEMBERS = "members"
    CLIENTS = "clients"
    DROPS = "drops"
    OUTBOUND = "outbound"


class Style(StrEnum):
    """How a row stands out."""

    PLAIN = "plain"
    BAD = "bad"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one instant."""

    state: Document
    counters: Document
    clients: Document = field(default_factory=dict)

    def situation(self, found: "Rates") -> Situation:
        """Return what is known, for the verdict."""
        dropped: dict[str, float] = {}
        for (_, reason), per_s in found.drops.items():
            dropped[reason] = dropped.get(reason, 0.0) + per_s
        return of_state(self.state, self.counters, dropped)


@dataclass(frozen=True, slots=True)
class Rate:
    """What passes in a second. Units: bits, flows."""

    bits_in: float = 0.0
    bits_out: float = 0.0
    new_flows: float = 0.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates by rule, by (pool, member), and drops by (datapath, reason)."""

    rules: Mapping[str, Rate] = field(default_factory=dict)
    members: Mapping[tuple[str, str], Rate] = field(default_factory=dict)
    drops: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def total(self) -> Rate:
        """What passes through all rules."""
        every = self.rules.values()
        return Rate(
            sum(rate.bits_in for rate in every),
            sum(rate.bits_out for rate in every),
            sum(rate.new_flows for rate in every),
        )


def rates(before: Document, after: Document) -> Rates:
    """Return the rates between two looks at the counters; none over a restart, or without time in between."""
    seconds = after["clock_s"] - before["clock_s"]
    if seconds <= 0 or before["pid"] != after["pid"]:
        return Rates()
    return Rates(
        rules=_rates(before["rules"], after["rules"], ("name",), seconds),
        members=_rates(before["members"], after["members"], ("pool", "name"), seconds),
        drops=_drop_rates(before["datapaths"], after["datapaths"], seconds),
    )


def _rates(before: Iterable[Document], after: Iterable[Document], names: Sequence[str], seconds: float) -> Any:
    def key(row: Document) -> Any:
        found = tuple(row[name] for name in names)
        return found if len(found) > 1 else found[0]

    known = {key(row): row for row in before}

    def rate(row: Document, what: str) -> float:
        was = known.get(key(row), {}).get(what, 0)
        change: int = row[what] - was
        return max(0.0, change / seconds)

    return {
        key(row): Rate(8 * rate(row, "bytes_in"), 8 * rate(row, "bytes_out"), rate(row, "new_flows")) for row in after
    }


def _drop_rates(
    before: Iterable[Document], after: Iterable[Document], seconds: float
) -> Mapping[tuple[str, str], float]:
    known = {(path["name"], reason): number for path in before for reason, number in path["drops"].items()}
    return {
        (path["name"], reason): max(0.0, (number - known.get((path["name"], reason), 0)) / seconds)
        for path in after
        for reason, number in path["drops"].items()
    }


@dataclass(frozen=True, slots=True)
class Column:
    """A column's head, whether it holds numbers, and its place in the order in which columns give way."""

    head: str
    right: bool = False
    keep: int = 0
    """The higher, the longer a column stays when the terminal is narrow."""
    least: int = 12
    """Characters of a text that still say something: it is cut to them before a column is left out."""


@dataclass(frozen=True, slots=True)
class Row:
    """Cells as they are shown, what they are sorted by, and how the row stands out."""

    cells: tuple[str, ...]
    order: tuple[Any, ...]
    style: Style = Style.PLAIN


COLUMNS: Mapping[View, tuple[Column, ...]] = {
    View.RULES: (
        Column("RULE", keep=9),
        Column("STATE", keep=8),
        Column("UP", right=True, keep=8),
        Column("FLOWS", right=True, keep=5),
        Column("NEW/s", right=True, keep=6),
        Column("IN b/s", right=True, keep=7),
        Column("OUT b/s", right=True, keep=7),
        Column("DATAPATH", keep=3),
        Column("MATCHES", keep=1),
    ),
    View.MEMBERS: (
        Column("MEMBER", keep=9),
        Column("STATE", keep=8),
        Column("FOR", right=True, keep=7),
        Column("SHARE", right=True, keep=3),
        Column("FLOWS", right=True, keep=4),
        Column("NEW/s", right=True, keep=2),
        Column("IN b/s", right=True, keep=5),
        Column("OUT b/s", right=True, keep=5),
        Column("WHY", keep=6, least=32),
    ),
    View.CLIENTS: (
        Column("CLIENT", keep=9),
        Column("FLOWS", right=True, keep=8),
        Column("IN", right=True, keep=7),
        Column("OUT", right=True, keep=7),
        Column("RULES", keep=3),
    ),
    View.DROPS: (
        Column("REASON", keep=9),
        Column("PER S", right=True, keep=8),
        Column("COUNT", right=True, keep=7),
        Column("DATAPATH", keep=6),
        Column("MEANING", keep=1),
    ),
    View.OUTBOUND: (
        Column("MEMBER", keep=9),
        Column("USED", right=True, keep=8),
        Column("TCP", right=True, keep=4),
        Column("UDP", right=True, keep=4),
        Column("FREE", right=True, keep=7),
        Column("PORTS", right=True, keep=6),
        Column("FAILED", right=True, keep=7),
        Column("RULE", keep=3),
    ),
}


def rows_of(view: View, look: Look, found: Rates) -> list[Row]:
    """Return the rows of a view, in the order of the configuration."""
    match view:
        case View.RULES:
            return list(_rules(look, found))
        case View.MEMBERS:
            return list(_members(look, found))
        case View.CLIENTS:
            return list(_clients(look))
        case View.DROPS:
            return list(_drops(look, found))
        case View.OUTBOUND:
            return list(_outbound(look))


def _rules(look: Look, found: Rates) -> Iterator[Row]:
    flows = {row["name"]: row["flows"] for row in look.counters["rules"]}
    for rule in look.state["rules"]:
        rate, name = found.rules.get(rule["name"], Rate()), rule["name"]
        matches = f"{rule['protocol']} {rule['address']} {rule['port'] or 'any'}"
        eligible, members = rule["eligible"], rule["members"]
        style = Style.BAD if rule["state"] in ("silent", "all_down") else _warn(eligible < members)
        cells = (name, rule["state"], f"{eligible}/{members}", f"{flows.get(name, 0):,}", *_shown(rate))
        order = (name, rule["state"], eligible - members, flows.get(name, 0), *_order(rate))
        path = rule["datapath"] or "-"
        yield Row((*cells, path, matches), (*order, path, matches), style)


def _members(look: Look, found: Rates) -> Iterator[Row]:
    flows = {(row["pool"], row["name"]): row["flows"] for row in look.counters["members"]}
    shares: dict[tuple[str, str], float] = {}
    for table in look.state["tables"]:
        for part in table["members"]:
            shares.setdefault((table["pool"], part["name"]), part["share"])
    situation = look.situation(found)
    members = {(facts.pool, facts.name): facts for facts in situation.members}
    for pool in look.state["pools"]:
        for member in pool["members"]:
            place = pool["name"], member["name"]
            facts = members[place]
            for_s = situation.at_s - facts.since_s if facts.since_s else 0.0
            rate, share, number = found.members.get(place, Rate()), shares.get(place, 0.0), flows.get(place, 0)
            why = _why(member, facts)
            span = duration(for_s) if facts.since_s else "-"
            cells = ("/".join(place), facts.state, span, f"{share:.1%}", f"{number:,}", *_shown(rate), why)
            order = ("/".join(place), facts.state, for_s, share, number, *_order(rate), why)
            yield Row(cells, order, _STYLES.get(facts.state, Style.WARN))


_STYLES = {
    MemberState.UP: Style.PLAIN,
    MemberState.DOWN: Style.BAD,
    MemberState.PARTLY: Style.BAD,
}


def _why(member: Document, facts: MemberFacts) -> str:
    """Return what an operator has said of a member, and what its probe has found."""
    override, said = member["override"], ""
    if override:
        what = member["admin_state"] if override["admin_state"] else f"weight {override['weight']}"
        said = f"{what} by {override['by']}"
    elif member["admin_state"] != "none":
        said = f"{member['admin_state']} in the file"
    return "; ".join(part for part in (said, facts.why) if part)


def _clients(look: Look) -> Iterator[Row]:
    for client in look.clients.get("clients", ()):
        numbers = client["flows"], client["bytes_in"], client["bytes_out"]
        rules = " ".join(client["rules"])
        cells = (client["client"], f"{numbers[0]:,}", size(numbers[1]), size(numbers[2]), rules)
        yield Row(cells, (client["client"], *numbers, rules))


def _drops(look: Look, found: Rates) -> Iterator[Row]:
    for path in look.counters["datapaths"]:
        for reason, number in path["drops"].items():
            rate = found.drops.get((path["name"], reason), 0.0)
            meaning = MEANINGS.get(reason, "")
            cells = (reason, f"{rate:,.1f}", f"{number:,}", path["name"], meaning)
            yield Row(cells, (reason, rate, number, path["name"], meaning), _warn(rate > 0))


def _outbound(look: Look) -> Iterator[Row]:
    """Yield members with the SNAT ports that they use; one row for all where they share them."""
    for use in port_uses(read_counted(look.counters)):
        place = f"{use.pool}/{use.who}"
        tcp, udp = use.used.get("tcp"), use.used.get("udp")
        counts = (f"{use.free:,}", f"{use.allocated:,}", f"{use.failed:,}")
        cells = (place, f"{use.share:.0%}", _number(tcp), _number(udp), *counts, use.rule)
        order = (place, use.share, tcp or 0, udp or 0, use.free, use.allocated, use.failed, use.rule)
        yield Row(cells, order, _warn(use.is_high) if use.free else Style.BAD)


def _number(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _meanings() -> Mapping[str, str]:
    from asynclb.admin.counting import drop_meanings

    return {str(reason): meaning for reason, meaning in drop_meanings().items()}


MEANINGS = _meanings()


def _warn(condition: bool) -> Style:
    return Style.WARN if condition else Style.PLAIN


def _shown(rate: Rate) -> tuple[str, str, str]:
    return f"{rate.new_flows:,.0f}", size(rate.bits_in), size(rate.bits_out)


def _order(rate: Rate) -> tuple[float, float, float]:
    return rate.new_flows, rate.bits_in, rate.bits_out
