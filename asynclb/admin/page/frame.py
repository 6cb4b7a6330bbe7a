"""What listeners are sent: everything at first, and then what has changed. Pure.

A frame is a server-sent event: `state` is everything, `tick` what has changed since the frame before, `bye` the end.
Members of small pools are shown with their checks and their traffic; of large ones only their state is sent, and the
rest is asked for by whoever looks at one of them.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from heapq import nsmallest
from typing import Any

import asynclb
from asynclb.admin.counting import drop_meanings
from asynclb.admin.page.picture import Document, MemberId, Picture, changed
from asynclb.admin.page.rates import IDLE, Rate, Rates, Reading
from asynclb.admin.port_use import Counted, port_uses
from asynclb.admin.verdict import Verdict
from asynclb.control.status import Status
from asynclb.health.outcome import OutcomeKind
from asynclb.health.record import Check
from asynclb.model import TargetId

SMALL = 24  # members of a pool that are shown as cards; more become cells of a grid
MOST_CARDS = 120  # in all pools together: about five screens
MOST_PORTS = 20  # members whose SNAT ports are told of
MOST_RULES = 200  # whose rates are sent: more than anybody follows, and 10 KB a second

_LETTERS = {kind: kind.value[0] for kind in OutcomeKind}
"""One letter for each kind of outcome: s, f, t, e."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything that a frame is made of. Units: `at_s` seconds since the epoch."""

    at_s: float
    status: Status
    picture: Picture
    reading: Reading
    rates: Rates
    verdict: Verdict
    checks: Mapping[TargetId, Document] = field(default_factory=dict)


def carded(picture: Picture) -> Iterator[MemberId]:
    """Yield the members that are shown as cards."""
    sizes: dict[str, list[MemberId]] = {}
    for place in picture.members:
        sizes.setdefault(place[0], []).append(place)
    room = MOST_CARDS
    for places in sizes.values():
        if len(places) <= min(SMALL, room):
            room -= len(places)
            yield from places


def check_document(target: TargetId, checks: Sequence[Check], epoch_offset_s: float) -> Document:
    """Return the last checks of a target: one letter and one duration each, the oldest first."""
    pool, member, probe = target
    return {
        "pool": pool,
        "member": member,
        "probe": probe,
        "kinds": "".join(_LETTERS[check.kind] for check in checks),
        "ms": [round(check.duration_s * 1e3, 2) for check in checks],
        "at": round(epoch_offset_s + checks[-1].started_ns / 1e9, 1) if checks else None,
    }


def state_frame(now: Moment, past: Iterable[Sequence[float]], events: Sequence[Document]) -> bytes:
    """Return everything, with the totals of the last minutes."""
    picture = now.picture
    document = {
        **_always(now, events),
        "instance": {
            "version": asynclb.__version__,
            "pid": os.getpid(),
            "started": now.status.started_s,
            "config": now.status.config_path,
        },
        "frontends": picture.frontends,
        "rules": [*picture.rules.values()],
        "pools": picture.pools,
        "cards": sorted({pool for pool, _ in carded(picture)}),
        "members": [*picture.members.values()],
        "checks": [*now.checks.values()],
        "past": [*past],
    }
    return encode("state", document)


def tick_frame(before: Moment, now: Moment, events: Sequence[Document]) -> bytes:
    """Return what has changed; the objects themselves are the same ones as before."""
    document = {
        **_always(now, events),
        "rules": changed(before.picture.rules, now.picture.rules),
        "members": changed(before.picture.members, now.picture.members),
        "checks": changed(before.checks, now.checks),
    }
    return encode("tick", document)


def same_objects(before: Picture, now: Picture) -> bool:
    """Return whether a tick can tell the difference: the same frontends, rules, pools and members are there."""
    if before is now:
        return True
    return (
        before.frontends == now.frontends
        and before.pools == now.pools
        and before.rules.keys() == now.rules.keys()
        and before.members.keys() == now.members.keys()
    )


def total_row(now: Moment) -> tuple[float, ...]:
    """Return the totals as they are charted: time, flows, new flows, bits in, bits out, packets, drops."""
    return (round(now.at_s, 2), *now.rates.total.row, round(now.rates.drops, 1))


def encode(event: str, document: Any) -> bytes:
    """Return a server-sent event. Source: HTML living standard, 9.2.5 (the text has no line feeds within)."""
    data = "".join(json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).iterencode(document))
    return f"event: {event}\ndata: {data}\n\n".encode("utf-8", "replace")


def _always(now: Moment, events: Sequence[Document]) -> dict[str, Any]:
    status = now.status
    return {
        "at": round(now.at_s, 2),
        "generation": status.generation,
        "since": round(status.generation_since_s, 1),
        "datapaths": [{"name": path.name, "mode": path.mode, "rules": len(path.rules)} for path in status.datapaths],
        "verdict": {
            "state": now.verdict.state,
            "line": now.verdict.line,
            "findings": [asdict(finding) for finding in now.verdict.findings],
        },
        "total": total_row(now),
        "rates": dict(_busiest(now.rates.rules)),
        "traffic": _traffic(now),
        "drops": _drops(now),
        "ports": port_rows(now.reading.snat),
        "events": events,
    }


def _busiest(rules: Mapping[str, Rate]) -> Iterator[tuple[str, tuple[float, ...]]]:
    chosen = sorted(rules.items(), key=lambda item: -(item[1].bits_in + item[1].bits_out))[:MOST_RULES]
    yield from ((name, rate.row) for name, rate in chosen)


def _traffic(now: Moment) -> list[tuple[object, ...]]:
    """Return pool, member, flows, new flows, bits in and out of each member that is shown as a card."""
    found = ((place, now.rates.members.get(place, IDLE)) for place in carded(now.picture))
    return [(*place, *rate.row[:4]) for place, rate in found if rate != IDLE]


def port_rows(counted: Counted) -> list[Document]:
    """Return how many SNAT ports members use, those with the least room first, and no more than are read."""
    fullest = nsmallest(MOST_PORTS, port_uses(counted), key=lambda use: -use.share)
    return [
        {
            "pool": use.pool,
            "member": use.who,
            "rule": use.rule,
            "ports": use.allocated,
            "used": use.used,
            "free": use.free,
            "failed": use.failed,
            "high": use.is_high,
        }
        for use in fullest
    ]


def _drops(now: Moment) -> list[Document]:
    meanings = drop_meanings()
    return [
        {
            "datapath": path,
            "reason": str(reason),
            "count": number,
            "per_s": round(now.rates.by_reason.get((path, reason), 0.0), 1),
            "meaning": meanings.get(reason, ""),
        }
        for (path, reason), number in sorted(now.reading.drops.items(), key=lambda item: -item[1])
        if number
    ]
