"""The table of rows: what each is called, and what became of it on each datapath in one run of the tests. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

DATAPATHS = ("proxy", "packet", "kernel")
"""Each as it is found here by itself: the kernel's programs are attached by tc, for the lab's interfaces are veths."""
ATTACHED = {"kernel-xdp": "xdp"}
"""The same datapath attached otherwise -> how."""
COLUMNS = (*DATAPATHS, *ATTACHED)
NOT_APPLICABLE = "not applicable: "
"""What a skip's reason begins with where the datapath cannot carry the row."""

ROWS = dict(
    enumerate(
        (
            "TCP rule",
            "UDP rule",
            "distribution by 5-tuple",
            "distribution by source address",
            "distribution by source address and protocol",
            "change of the distribution",
            "many frontends",
            "clash of backend ports",
            "floating IP",
            "HA ports",
            "HA ports beyond TCP and UDP",
            "HA ports: what may be combined",
            "HA ports on a public frontend",
            "flow symmetry",
            "TCP probe: up and down",
            "TCP probe: a reset is a failure",
            "TCP probe: closes in order",
            "HTTP probe: statuses",
            "HTTP probe: timeout",
            "HTTPS probe",
            "probes go to the member's own address",
            "source address of probes",
            "state before the first probe",
            "rule without a probe",
            "shortest probe interval",
            "path of HTTP probes",
            "number of probes",
            "one member down",
            "all members down: drop",
            "all members down: all",
            "UDP when a member goes down",
            "UDP tracking",
            "admin state up",
            "admin state down",
            "scope of the admin state",
            "removal of a member",
            "addition of a member",
            "idle timeout",
            "TCP reset off",
            "TCP reset on",
            "no reset of half-open flows",
            "range of timeouts",
            "ping",
            "fragments",
            "hairpin",
            "inbound NAT rule: one port",
            "inbound NAT rule: a range",
            "clash of frontend ports",
            "outbound SNAT",
            "SNAT port arithmetic",
            "SNAT: cost of inbound ports",
            "SNAT: reuse of TCP ports",
            "SNAT: UDP",
            "SNAT: exhaustion",
            "SNAT: several addresses",
            "SNAT: rules that share a frontend",
            "SNAT: protocol",
            "SNAT: idle timeout",
            "SNAT: independent of probes",
            "secure by default",
            "allowed sources",
            "dual stack",
            "zones",
            "Gateway Load Balancer",
            "global tier",
            "metrics",
            "health events",
            "resource health",
            "health status",
            "Azure SDK",
            "Azure SDK: polling",
            "Azure SDK: read-only properties",
            "Azure SDK: errors",
            "limits",
            "reconfiguration",
        ),
        1,
    )
)
"""Row number -> what it is about. Source: the behaviours of Azure Load Balancer as this project lists them."""

LATER = frozenset({64, 65, 70, 71, 72, 73})
"""Rows of parts that are not built yet."""


class Result(StrEnum):
    """What became of a row on a datapath; the worst of several tests counts."""

    PASS = "pass"
    NOT_APPLICABLE = "n/a"
    NOT_RUN = "not run"
    FAIL = "FAIL"


_WORSE = tuple(Result)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result, and its reason where it is no pass."""

    result: Result
    reason: str = ""

    def worse(self, other: "Outcome | None") -> "Outcome":
        """Return the worse of two."""
        if other is None or _WORSE.index(self.result) > _WORSE.index(other.result):
            return self
        return other


Outcomes = Mapping[tuple[int, str], Outcome]
"""(row, datapath) -> outcome."""


def place_of(nodeid: str) -> tuple[int, str] | None:
    """Return the row and datapath of a test by its id, as in `...::test_row_03_five_tuple[proxy]`."""
    name, _, rest = nodeid.rpartition("::")[2].partition("[")
    words, datapath = name.split("_"), rest.rstrip("]")
    if words[:2] != ["test", "row"] or not words[2].isdecimal() or datapath not in COLUMNS:
        return None
    return int(words[2]), datapath


def table(outcomes: Outcomes) -> str:
    """Return the table as Markdown, with the reasons below it; a way to attach that was not tried has no column."""
    reasons: dict[str, int] = {}
    tried = {datapath for _, datapath in outcomes}
    columns = [name for name in COLUMNS if name in DATAPATHS or name in tried]
    lines = [f"| row | feature | {' | '.join(columns)} |", f"|--:|---|{'---|' * len(columns)}"]
    for number, feature in ROWS.items():
        cells = (_cell(number, outcomes.get((number, datapath)), reasons) for datapath in columns)
        lines.append(f"| {number} | {feature} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([*lines, "", "Reasons:", "", *notes, ""]) if notes else "\n".join([*lines, ""])


def _cell(number: int, outcome: Outcome | None, reasons: dict[str, int]) -> str:
    if outcome is None:
        return "later" if number in LATER else "no test yet"
    if not outcome.reason:
        return str(outcome.result)
    return f"{outcome.result} ({reasons.setdefault(outcome.reason, len(reasons) + 1)})"
