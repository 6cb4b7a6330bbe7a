"""Zones of frontends: where Azure does not let them change, a reload that moves one is refused.

Source: Azure Load Balancer, reliability: a frontend's zones are chosen when it is created.
"""

from asynclb.errors import Problem
from asynclb.model import EXTENDED, Compat, Frontend, Model

ZONES_ARE_FIXED = "FRONTEND_ZONES_FIXED"
"""The problem code of a frontend that would change its zones."""


def moved(model: Model, active: Model) -> tuple[Problem, ...]:
    """Return a problem for each frontend of the active model that changes its zones, with `compat: azure`."""
    if model.compat is not Compat.AZURE:
        return ()
    return tuple(
        Problem(
            path=("frontends", name, "zones"),
            value=name,
            rule=f"the frontend is {_zones(active.frontends[name])}, and Azure does not change that",
            remedy=f"make a frontend of another name, {EXTENDED}",
            code=ZONES_ARE_FIXED,
        )
        for name, frontend in model.frontends.items()
        if name in active.frontends and active.frontends[name].zones != frontend.zones
    )


def _zones(frontend: Frontend) -> str:
    return f"in zone {', '.join(frontend.zones)}" if frontend.zones else "zone-redundant"
