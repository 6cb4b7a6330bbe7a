"""What `asynclb show` prints: what is wrong, then the table. Pure."""

from collections.abc import Iterator
from typing import Any

from asynclb.admin import columns
from asynclb.admin.columns import Document
from asynclb.admin.situation import of_state
from asynclb.admin.verdict import judge


def table_text(what: str, found: Any, counters: Document) -> str:
    """Return the lines for one of the things that can be shown. `counters`: of those whose trouble is told first."""
    if what in _PLAIN:
        return _PLAIN[what](found)
    table = columns.outbound_table(found, counters) if what == "outbound" else _OF_STATE[what](found)
    problems = [f"! {line}" for line in judge(of_state(found, counters)).wrong]
    return "\n".join((*problems, table))


def flows_table(found: Document) -> str:
    """Return one line per flow."""
    heads = ("RULE", "PROTO", "CLIENT", "MEMBER", "TARGET", "STATE", "IN", "OUT", "AGE", "IDLE")
    rows = (
        (
            flow["rule"],
            flow["protocol"],
            flow["client"],
            flow["member"],
            flow["target"],
            flow["state"],
            size(flow["bytes_in"]),
            size(flow["bytes_out"]),
            duration(flow["age_s"]),
            duration(flow["idle_s"]),
        )
        for flow in found["flows"]
    )
    shown = len(found["flows"])
    if not found["open"]:
        return "no flow is open"
    if not shown:
        return f"no flow matches, {found['open']:,} are open"
    head = f"{shown:,} of {found['matching']:,} flows that match, {found['open']:,} open"
    return f"{head}\n{columns.columns(heads, rows, right=('IN', 'OUT', 'AGE', 'IDLE'))}"


def clients_table(found: Document) -> str:
    """Return one line per client, the one with the most flows first."""
    heads = ("CLIENT", "FLOWS", "IN", "OUT", "RULES")
    rows = (
        (c["client"], f"{c['flows']:,}", size(c["bytes_in"]), size(c["bytes_out"]), " ".join(c["rules"]))
        for c in found["clients"]
    )
    if not found["clients"]:
        return "no flow is open"
    head = f"{len(found['clients']):,} of {found['addresses']:,} client addresses, {found['open']:,} flows open"
    return f"{head}\n{columns.columns(heads, rows, right=('FLOWS', 'IN', 'OUT'))}"


def drops_table(found: Document) -> str:
    """Return one line per reason, the most frequent first."""
    heads = ("DATAPATH", "REASON", "COUNT", "MEANING")
    rows = [(d["datapath"], d["reason"], f"{d['count']:,}", d["meaning"]) for d in found["drops"]]
    return columns.columns(heads, rows, right=("COUNT",)) if rows else "nothing was dropped since the process started"


def pool_tables_table(found: Document) -> str:
    """Return one line per table and member."""
    heads = ("TABLE", "POOL", "SLOTS", "DIGEST", "RULES", "MEMBER", "OWNS", "SHARE")
    return columns.columns(heads, _table_rows(found), right=("TABLE", "SLOTS", "OWNS", "SHARE"))


def _table_rows(found: Document) -> Iterator[tuple[object, ...]]:
    for number, table in enumerate(found["tables"], 1):
        rules = table["rules"]
        named = " ".join(rules[:3]) + (f" +{len(rules) - 3}" if len(rules) > 3 else "")
        head: tuple[object, ...] = (number, table["pool"], f"{table['size']:,}", table["digest"], named)
        if not table["members"]:
            yield (*head, "no member is eligible", None, None)
        for member in table["members"]:
            yield (*head, member["name"], f"{member['slots']:,}", f"{member['share']:.1%}")
            head = (" ",) * 5  # said in the line above


def generations_table(found: Document) -> str:
    """Return one line per generation, the newest first."""
    heads = ("GENERATION", "AT", "CAUSE", "ADDED", "REMOVED", "CHANGED")
    rows = ((g["generation"], g["at"], g["cause"], g["added"], g["removed"], g["changed"]) for g in found["history"])
    table = columns.columns(heads, rows, right=("GENERATION", "ADDED", "REMOVED", "CHANGED"))
    paths = "  ".join(f"{path['name']} executes {path['generation']}" for path in found["datapaths"] if path["rules"])
    return f"generation {found['generation']} since {found['since']}: {paths}\n{table}"


def size(number: float) -> str:
    """Return bytes as people read them: `999`, `1.2k`, `34M`."""
    for unit in ("", "k", "M", "G", "T"):
        if number < 999.5:
            return f"{number:.1f}{unit}" if unit and number < 9.95 else f"{number:.0f}{unit}"
        number /= 1000
    return f"{number:.0f}P"


def duration(seconds: float) -> str:
    """Return a time span as people read it: `3s`, `4m`, `2h`, `5d`."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


_OF_STATE = {
    "rules": columns.rules_table,
    "members": columns.members_table,
    "frontends": columns.frontends_table,
    "datapaths": columns.datapaths_table,
    "state": columns.summary,
}
_PLAIN = {
    "flows": flows_table,
    "clients": clients_table,
    "drops": drops_table,
    "tables": pool_tables_table,
    "generations": generations_table,
}
