"""What the example claims, checked against what the firewalls' connection tracking and the flows' ends saw. Pure."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from hub import APPLIANCES, Dropped, FlowKey, Passed, Tracked
from traffic import PATIENCE_S, Loss, Try

from asynclb.lab.verify import Check

_SIGMAS = 6  # a correct balancer misses one of the shares in 10 million runs

Placement = Mapping[FlowKey, Mapping[str, Passed]]
"""For each flow the firewalls that it passed in a stretch of time, with the packets each way."""


def placed(before: Tracked, after: Tracked) -> Placement:
    """Return where flows were between two looks at the firewalls."""
    found: dict[FlowKey, dict[str, Passed]] = {}
    for name, flows in after.items():
        for key, now in flows.items():
            then = before[name].get(key, Passed(0, 0))
            if now.there < then.there or now.back < then.back:
                then = Passed(0, 0)  # it had been forgotten, and was seen again
            if now != then:
                found.setdefault(key, {})[name] = Passed(now.there - then.there, now.back - then.back)
    return found


def homes(placement: Placement) -> dict[FlowKey, str]:
    """Return the firewall of each flow that was on one alone, both ways."""
    return {
        key: name
        for key, passed in placement.items()
        for name, packets in passed.items()
        if len(passed) == 1 and packets.there and packets.back
    }


def check_symmetry(keys: Collection[FlowKey], placement: Placement) -> Check:
    """Check that both directions of every flow passed one firewall, and no other."""
    home = homes(placement)
    wrong = [key for key in keys if key not in home]
    found = f"{len(keys) - len(wrong):,} of {len(keys):,} flows"
    if wrong:
        found += f"; {wrong[0]} on {dict(placement.get(wrong[0], {})) or 'none'}"
    return Check("both directions of each flow pass one and the same firewall", not wrong, found)


def check_shares(keys: Iterable[FlowKey], home: Mapping[FlowKey, str]) -> Check:
    """Check that each firewall has its third of the flows, within six standard deviations."""
    counts = Counter(home[key] for key in keys if key in home)
    total, third = counts.total(), 1 / len(APPLIANCES)
    tolerance = _SIGMAS * math.sqrt(third * (1 - third) / max(total, 1))
    holds = all(abs(counts[name] / max(total, 1) - third) <= tolerance for name in APPLIANCES)
    found = ", ".join(f"{name} {counts[name]}" for name in APPLIANCES)
    return Check(f"the firewalls share {total:,} flows (a third each, +-{tolerance:.1%})", holds, found)


def check_dropped(dropped: Mapping[str, Dropped], when: str) -> Check:
    """Check that no firewall saw a packet that it could not place."""
    found = ", ".join(f"{name} {count.invalid} invalid, {count.refused} refused" for name, count in dropped.items())
    holds = not any(count.invalid or count.refused for count in dropped.values())
    return Check(f"no packet was lost to asymmetry {when}", holds, found)


def check_answers(answered: Mapping[str, int], losses: Sequence[Loss], repeated: int) -> Check:
    """Check that every question was answered."""
    found = ", ".join(f"{kind} {count:,}" for kind, count in answered.items())
    if losses:
        found = f"{len(losses)} lost, first {losses[0]}"
    elif repeated:
        found += f"; {repeated} asked again"
    return Check(f"every question was answered: {sum(answered.values()):,}", bool(answered) and not losses, found)


def check_survivors(losses: Iterable[Loss], home: Mapping[FlowKey, str], dead: str) -> Check:
    """Check that flows of the living firewalls lost nothing while another one died and came back."""
    counts = Counter(home.values())
    lost = [loss for loss in losses if home.get(loss.key, dead) != dead]
    found = f"0 lost; {counts[dead]} flows were on {dead}"
    if lost:
        found = f"{len(lost)} lost, first {lost[0]} on {home[lost[0].key]}"
    return Check(f"the {sum(counts.values()) - counts[dead]} flows of the others are unharmed", not lost, found)


def check_unmoved(home: Mapping[FlowKey, str], later: Mapping[FlowKey, str], dead: str, when: str) -> Check:
    """Check that flows of the living firewalls are where they were."""
    stayed = [key for key, name in home.items() if name != dead]
    moved = [key for key in stayed if later.get(key) != home[key]]
    found = f"{len(stayed) - len(moved)} of {len(stayed)}"
    if moved:
        found += f"; {moved[0]} went from {home[moved[0]]} to {later.get(moved[0], 'none')}"
    return Check(f"none of them moved {when}", not moved, found)


def check_new_flows(tries: Sequence[Try], cut_s: float, bound_s: float) -> Check:
    """Check that new flows fail for no longer than the probe takes to notice."""
    failed = [one.at_s - cut_s for one in tries if not one.answered]
    outside = [after_s for after_s in failed if not -PATIENCE_S <= after_s <= bound_s]
    found = f"{len(failed)} of {len(tries):,} new flows failed"
    if failed:
        found += f", the last one begun {max(failed):.2f} s after the firewall died"
    holds = not outside and any(one.at_s > cut_s + bound_s for one in tries)
    return Check(f"new flows are fine {bound_s:.1f} s after it at the latest", holds, found)


def check_reopened(keys: Collection[FlowKey], placement: Placement, dropped: Mapping[str, Dropped]) -> Check:
    """Check that at the end all flows are answered and symmetric, those that were begun anew included."""
    symmetry = check_symmetry(keys, placement)
    clean = check_dropped(dropped, "")
    found = f"{symmetry.found}; {clean.found}"
    return Check("with three firewalls again, all flows are as at first", symmetry.holds and clean.holds, found)
