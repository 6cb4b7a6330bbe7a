"""A plan for people: what goes, comes and changes, then what that does to flows. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from asynclb.admin.columns import columns

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
SHOWN = 20  # rules whose moves are listed; the others are summed up


def plan_text(plan: Mapping[str, Any]) -> str:
    """Return the lines. The first says how much changes."""
    return "\n".join(_lines(plan))


def _lines(plan: Mapping[str, Any]) -> Iterator[str]:
    differences, moves, flows = plan["differences"], plan["moves"], plan["flows"]
    if not differences and not moves:
        yield "nothing changes"
    else:
        counts = {word: sum(found["change"] == word for found in differences) for word in _SIGNS}
        parts = [f"{number} {word}" for word, number in counts.items() if number]
        yield f"changes: {', '.join(parts) or 'none of an object'}"
    for found in differences:
        name = " ".join(part for part in (found["kind"], found["name"]) if part)
        details = f"  ({'; '.join(found['details'])})" if found["details"] else ""
        yield f"  {_SIGNS[found['change']]} {name}{details}"
    if moves:
        yield from _moves(moves)
    if flows is not None:
        yield from _flows(flows)
    for warning in plan["warnings"]:
        yield f"warning: {warning['text']}"


def _moves(moves: list[Mapping[str, Any]]) -> Iterator[str]:
    first = sorted(moves, key=lambda move: (-move["share"], move["rule"]))[:SHOWN]
    yield "new flows that meet another member than now:"
    rows = [(move["rule"], f"{move['share']:.1%}", move["why"]) for move in first]
    yield from (f"  {line}" for line in columns(("RULE", "SLOTS", "WHY"), rows, right=("SLOTS",)).splitlines())
    if len(moves) > SHOWN:
        yield f"  and {len(moves) - SHOWN} more rules"


def _flows(flows: Mapping[str, Any]) -> Iterator[str]:
    examined = "" if flows["examined"] == flows["open"] else f" ({flows['examined']:,} of them examined)"
    yield f"open flows: {flows['open']:,}{examined}"
    if flows["open"]:
        yield f"  {flows['stay']:,} stay with their member, {flows['end']:,} end"
        if flows["elsewhere"]:
            yield f"  of those that stay, {flows['elsewhere']:,} would meet another member the next time"
    for why, number in sorted(flows["ending"].items(), key=lambda item: -item[1]):
        yield f"  {number:,} end: {why}"
