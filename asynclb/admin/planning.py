"""Plans as documents. Pure."""

from typing import Any

from asynclb.admin import documents
from asynclb.admin.state import problem_document
from asynclb.control.plan import Plan


def plan_document(plan: Plan) -> documents.Plan:
    """Return what a reload would change."""
    listed: Any = [
        {"kind": found.kind, "name": found.name, "change": found.change, "details": [*found.details]}
        for found in plan.differences
    ]
    return {
        "differences": listed,
        "moves": [{"rule": move.rule, "share": round(move.share, 6), "why": move.why} for move in plan.moves],
        "flows": _flows(plan),
        "warnings": [problem_document(problem) for problem in plan.warnings],
    }


def _flows(plan: Plan) -> documents.FlowsMoved | None:
    if (flows := plan.flows) is None:
        return None
    return {
        "open": flows.open,
        "examined": flows.examined,
        "stay": flows.stay,
        "end": flows.end,
        "elsewhere": flows.elsewhere,
        "ending": dict(flows.ending or {}),
    }
