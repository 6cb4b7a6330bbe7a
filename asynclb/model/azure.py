"""What Azure has no word for in a member. With `compat: azure` neither the file nor an operator may say it."""

from collections.abc import Iterator
from dataclasses import dataclass

from asynclb.model.pool import AdminState

EXTENDED = "or write `compat: extended`"
"""The other way out of whatever is refused with `compat: azure` only."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A key whose value Azure does not know, why, and what to do."""

    key: str
    value: int | str
    law: str
    remedy: str


def unknown_to_azure(weight: int, priority: int, admin_state: AdminState) -> Iterator[Unknown]:
    """Yield what Azure does not know of a member that has these."""
    if weight != 1:
        remedy = "write `admin_state: down` in its place" if weight == 0 else "remove it"
        law = "Azure has no weights: every member takes the same share"
        yield Unknown("weight", weight, law, f"{remedy}, {EXTENDED}")
    if priority:
        law = "Azure has no priorities: no member stands by for others"
        yield Unknown("priority", priority, law, f"remove it, {EXTENDED}")
    if admin_state is AdminState.DRAIN:
        law = "Azure's admin states are `none`, `up` and `down`"
        yield Unknown("admin_state", str(admin_state), law, f"write `down`, {EXTENDED}")
