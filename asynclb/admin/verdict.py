"""What is wrong, in the words of whoever is called at night: the first lines of `show`, `top` and the pages. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

State = Mapping[str, Any]
NAMED = 3  # members named in a line: more do not fit, and the table has them


def wrong(state: State) -> Sequence[str]:
    """Return what is wrong, the worst first; nothing if all is well."""
    return tuple(_wrong(state))


def _wrong(state: State) -> Iterator[str]:
    if state["stopping"]:
        yield "the process is stopping"
    elif not state["ready"]:
        yield "the first tables are not applied yet"
    yield from _silent(state)
    yield from _down(state)
    reload = state["last_reload"] or {}
    if reload.get("result") == "refused":
        number = len(reload["problems"])
        problems = f"{number} problem{'s' if number != 1 else ''}"
        when = str(reload["at"])[11:19]
        yield f"the last reload was refused at {when} UTC: {problems}; see `asynclb show state`"


def _silent(state: State) -> Iterator[str]:
    silent = [rule for rule in state["rules"] if rule["state"] in ("silent", "all_down")]
    for rule in silent[:NAMED]:
        what = "dropped" if rule["state"] == "silent" else "given to members that are down"
        yield f"rule {rule['name']}: no member of pool {rule['pool']} is healthy, new flows are {what}"
    if len(silent) > NAMED:
        yield f"{len(silent) - NAMED} more rules are without a healthy member"


def _down(state: State) -> Iterator[str]:
    for pool in state["pools"]:
        down = [(member["name"], bad) for member in pool["members"] if (bad := why_down(member))]
        if down:
            named = ", ".join(f"{name} ({why})" for name, why in down[:NAMED])
            more = f" and {len(down) - NAMED} more" if len(down) > NAMED else ""
            yield f"pool {pool['name']}: {len(down)} of {len(pool['members'])} members down: {named}{more}"


def why_down(member: Mapping[str, Any]) -> str:
    """Return why a member is down by a probe's word, '' if it is not, or was taken out on purpose."""
    if member["admin_state"] != "none":
        return ""
    return next((health["reason"] for health in member["health"] if health["state"] == "down"), "")


def summary_line(state: State) -> str:
    """Return what is wrong in one line, or how many are well."""
    found = wrong(state)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        return f"{found[0]}{more}"
    members = [member for pool in state["pools"] for member in pool["members"]]
    asked = [member for member in members if member["health"]]
    waiting = [m for m in asked if any(health["state"] == "unknown" for health in m["health"])]
    if waiting:
        return f"{len(waiting)} of {len(members)} members not probed yet"
    out = sum(member["admin_state"] in ("down", "drain") for member in members)
    aside = f", {out} taken out by operators" if out else ""
    return f"all well: {len(state['rules'])} rules, {len(members)} members{aside}"
