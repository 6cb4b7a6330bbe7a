"""The state document as aligned columns, for `asynclb show`. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from asynclb.admin.port_use import OUTBOUND_HEADS, OUTBOUND_NUMBERS, outbound_rows
from asynclb.admin.source_table import SOURCE_HEADS, source_rows

Document = Mapping[str, Any]


def columns(heads: Sequence[str], rows: Iterable[Sequence[object]], *, right: Collection[str] = ()) -> str:
    """Return a table: two spaces between columns, `-` for what there is none of.

    Columns are aligned left, numbers (`right`) right. A column without anything in any row is left out.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    kept = [index for index in range(len(heads)) if not cells or any(row[index] != "-" for row in cells)]
    table = [[row[index] for index in kept] for row in ([*heads], *cells)]
    widths = [max(len(row[place]) for row in table) for place in range(len(kept))]
    numbers = [heads[index] in right for index in kept]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, numbers, strict=True)
        return "  ".join(text.rjust(width) if number else text.ljust(width) for text, width, number in cells).rstrip()

    return "\n".join(map(line, table))


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else str(value)


def rules_table(state: Document) -> str:
    """Return one line per rule."""
    heads = ("RULE", "FRONTEND", "MATCHES", "POOL", "ELIGIBLE", "STATE", "DATAPATH", "DELIVERY", "DISTRIBUTION")
    rows = (
        (
            rule["name"],
            rule["frontend"],
            f"{rule['protocol']} {rule['address']} {rule['port'] or 'any'}",
            rule["pool"],
            f"{rule['eligible']}/{rule['members']}",
            rule["state"],
            rule["datapath"],
            rule["delivery"],
            rule["distribution"],
        )
        for rule in state["rules"]
    )
    table = columns(heads, rows)
    return f"{table}\n\n{_outbound_rules(state)}" if state.get("outbound_rules") else table


def outbound_table(state: Document, counters: Document) -> str:
    """Return one line per outbound rule and member with the ports that the member has and uses."""
    rows = list(outbound_rows(state, counters))
    if not rows:
        return "no outbound rule is configured: members leave as the host routes them, with their own address"
    table = columns(OUTBOUND_HEADS, rows, right=OUTBOUND_NUMBERS)
    return f"{table}\n\n{_PORTS_IN_USE}"


_PORTS_IN_USE = (
    "FREE: ports that no connection uses, of the protocol that uses more. One in use still serves other destinations;\n"
    "connections for which there was none are FAILED (since the process started)."
)


def _outbound_rules(state: Document) -> str:
    """Return one line per outbound rule."""
    heads = ("OUTBOUND RULE", "FROM", "TRANSLATES", "POOL", "MEMBERS", "PORTS", "DATAPATH")
    rows = (
        (
            rule["name"],
            ",".join(dict.fromkeys(part["address"] for member in rule["members"] for part in member["ports"])),
            ",".join(rule["protocols"]) or "nothing goes out",
            rule["pool"],
            len(rule["members"]),
            _ports_each(rule),
            rule["datapath"],
        )
        for rule in state["outbound_rules"]
    )
    return f"{columns(heads, rows, right=('MEMBERS',))}\nwho uses how many of them: asynclb show outbound"


def _ports_each(rule: Document) -> str | None:
    """Return how many ports a member has: of members that differ, the fewest and the most."""
    counts = sorted({member["allocated"] for member in rule["members"]})
    if not counts or not rule["protocols"]:
        return None
    if rule["allocation"] == "shared":
        return f"{counts[0]:,} shared"
    return f"{counts[0]:,} each" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def members_table(state: Document) -> str:
    """Return one line per member and probe, with the member's share of the slots of the pool's tables."""
    heads = (
        "POOL",
        "MEMBER",
        "ADDRESS",
        "FROM",
        "ZONE",
        "WEIGHT",
        "ADMIN",
        "PROBE",
        "STATE",
        "SINCE",
        "SHARE",
        "REASON",
    )
    rows = sorted(_member_rows(state, _shares(state)), key=_calm)  # stable: the file's order
    table = columns(heads, rows, right=("WEIGHT", "SHARE"))
    sources = list(source_rows(state))
    return f"{table}\n\n{columns(SOURCE_HEADS, sources, right=('MEMBERS',))}" if sources else table


def _shares(state: Document) -> Mapping[tuple[str, str | None, str], float]:
    """Return (pool, probe, member) -> share of the slots of the first rule with that pool and probe."""
    shares: dict[tuple[str, str | None, str], float] = {}
    for rule in state["rules"]:
        for member in state["tables"][rule["table"]]["members"]:
            shares.setdefault((rule["pool"], rule["probe"], member["name"]), member["share"])
    return shares


def _member_rows(state: Document, shares: Mapping[tuple[str, str | None, str], float]) -> Iterator[Sequence[object]]:
    unprobed: Document = {"probe": None, "state": None, "since": None, "reason": None, "detail": ""}
    for pool in state["pools"]:
        source = pool.get("source")
        for member in pool["members"]:
            for health in member["health"] or (unprobed,):
                share = shares.get((pool["name"], health["probe"], member["name"]), 0.0)
                detail = f" ({health['detail']})" if health["detail"] else ""
                yield (
                    pool["name"],
                    member["name"],
                    member["address"],
                    source["kind"] if source and member["from_source"] else None,
                    member["zone"],
                    member["weight"],
                    _admin(member),
                    health["probe"],
                    health["state"],
                    health["since"],
                    f"{share:.1%}",
                    f"{health['reason']}{detail}" if health["reason"] else None,
                )


def _calm(row: Sequence[object]) -> int:
    """Return 0 for a member that a probe has found down, 1 for one that is down by an operator's word, else 2."""
    return 2 if row[8] != "down" else 0 if row[6] in ("", "none*") else 1


def _admin(member: Document) -> str:
    """Return the admin state if an operator has said one; `*` marks what is said at run time, not in the file."""
    state = member["admin_state"] if member["admin_state"] != "none" else ""
    return f"{state or 'none'}*" if member.get("override") else state


def frontends_table(state: Document) -> str:
    """Return one line per frontend."""
    heads = ("FRONTEND", "ADDRESS", "SCOPE", "ZONES", "ALLOW")
    rows = (
        (f["name"], f["address"], f["scope"], _zones(f), " ".join(f["allow"]) or "nobody") for f in state["frontends"]
    )
    return columns(heads, rows)


def _zones(frontend: Document) -> str:
    preferred = " preferred" if frontend["zone_affinity"] else ""
    return f"{','.join(frontend['zones'])}{preferred}" if frontend["zones"] else "all"


def datapaths_table(state: Document) -> str:
    """Return one line per datapath, and one per interface that programs are attached to."""
    heads = ("DATAPATH", "MODE", "GENERATION", "SINCE", "RULES")
    rows = ((d["name"], d["mode"], d["generation"], d["since"], d["rules"]) for d in state["datapaths"])
    attached = [
        (d["name"], found["name"], found["mode"], found["instead"])
        for d in state["datapaths"]
        for found in d["interfaces"]
    ]
    tables = [columns(heads, rows)]
    if attached:
        tables.append(columns(("DATAPATH", "INTERFACE", "ATTACHED BY", "WHY NOT NATIVE XDP"), attached))
    return "\n\n".join(tables)


def summary(state: Document) -> str:
    """Return what a person asks first."""
    reload = state["last_reload"] or {}
    word = "stopping" if state["stopping"] else "ready" if state["ready"] else "starting"
    lines = [
        f"asynclb {state['version']}, pid {state['pid']}, {word}, started {state['started']}",
        f"config      {state['config']['path']} (digest {state['config']['digest'][:12]})",
        f"generation  {state['generation']} since {state['since']}",
        f"last reload {reload.get('result')} by {reload.get('trigger')} at {reload.get('at')}",
    ]
    notes = [*reload.get("problems", ()), *reload.get("warnings", ())]
    return "\n".join([*lines, *(f"    {problem['text']}" for problem in notes)])


def _live(found: Document) -> str:
    """Return what the datapath itself says."""
    if not found["asked"]:
        return str(found["why"])
    says = f"{found['member']} of pool {found['pool']}" if found["member"] else str(found["verdict"])
    why = found["why"] or "as the tables say"
    return f"{found['asked']} says {says} ({why})" if found["agrees"] else f"DIFFERENT: {why}"


def explanation(found: Document) -> str:
    """Return an explanation line by line; what does not apply is left out."""
    return "\n".join(f"{name:<10} {value}" for name, value in _explained(found) if value)


def _explained(found: Document) -> Iterator[tuple[str, str]]:
    verdict = found["verdict"]
    yield "flow", found["flow"]
    frontend = f"frontend {found['frontend']}, " if found["frontend"] else ""
    yield "rule", f"{found['rule']} ({frontend}{found['matched']})" if found["rule"] else ""
    yield "hash", f"{found['flow_hash']} over {found['distribution']}" if found["flow_hash"] else ""
    yield "seed", found.get("seed", "")
    yield "slot", f"{found['slot']} of {found['slots']}" if found["slots"] >= 0 else ""
    yield (
        "member",
        f"{found['member']} of pool {found['pool']}, {found['share']:.1%} of slots" if found["member"] else "",
    )
    goes = "" if verdict == "member" else verdict
    yield "verdict", goes if found["delivery"] else f"dropped: {verdict}"
    yield "reason", found["why"]
    yield "delivery", f"{found['delivery']} to {found['target']}" if found["delivery"] else ""
    yield "datapath", f"{found['datapath']} ({found['datapath_why']})" if found["datapath"] else ""
    yield "live", _live(found["live"]) if "live" in found else ""
