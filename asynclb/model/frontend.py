"""Frontends: the addresses that clients reach."""

from dataclasses import dataclass
from enum import StrEnum

from asynclb.net.address import PRIVATE_PREFIXES, Address, Prefix, is_private


class Scope(StrEnum):
    """Whether a frontend faces the inside or the world; decides what it accepts when `allow` is absent."""

    INTERNAL = "internal"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class Frontend:
    """A VIP and who may reach it.

    `allow` is what is in force: an absent `allow` has become the private prefixes (internal) or nothing (public).
    """

    name: str
    address: Address
    scope: Scope
    allow: tuple[Prefix, ...]
    interface: str | None = None
    routed: bool = False
    zones: tuple[str, ...] = ()
    """Zones that the frontend belongs to; none: it is zone-redundant."""
    zone_affinity: bool = False
    """Whether members in `zones` are preferred while any of them is eligible; else every zone's members are equal."""


def default_scope(address: Address) -> Scope:
    """Return internal for an address in a private prefix, public for any other."""
    return Scope.INTERNAL if is_private(address) else Scope.PUBLIC


def default_allow(address: Address, scope: Scope) -> tuple[Prefix, ...]:
    """Return what a frontend accepts when the configuration does not say: secure by default."""
    if scope is Scope.PUBLIC:
        return ()
    return tuple(prefix for prefix in PRIVATE_PREFIXES if prefix.version == address.version)


def preferred_zones(frontend: Frontend) -> tuple[str, ...]:
    """Return the zones whose members the frontend prefers; none are preferred without zone affinity."""
    return frontend.zones if frontend.zone_affinity else ()
