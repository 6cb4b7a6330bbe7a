"""Which interfaces programs are attached to, and in which ways: decided from what is configured and known. Pure.

    wish    auto: native XDP where the device is a real one that has it, and every other can be redirected to; else tc
            xdp:  in the driver, else in the stack          tc: tcx, else a clsact filter (before Linux 6.6)

Where XDP is wished for and would lose frames, it is tc, with the reason.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from asynclb.datapath.frames.surroundings import Link, Surroundings
from asynclb.tables.row import Row


class Wish(StrEnum):
    """Where the configuration wants programs; `xdp-generic` is for tests."""

    AUTO = "auto"
    XDP = "xdp"
    TC = "tc"
    XDP_GENERIC = "xdp-generic"


class Mode(StrEnum):
    """How a program is attached."""

    TCX = "tcx"
    CLSACT = "clsact"
    XDP = "xdp"
    XDP_GENERIC = "xdp-generic"

    @property
    def is_xdp(self) -> bool:
        """Whether frames are seen before the kernel makes packets of them."""
        return self in (Mode.XDP, Mode.XDP_GENERIC)


_WAYS: Mapping[Wish, tuple[Mode, ...]] = {
    Wish.AUTO: (Mode.TCX, Mode.CLSACT),
    Wish.TC: (Mode.TCX, Mode.CLSACT),
    Wish.XDP: (Mode.XDP, Mode.XDP_GENERIC),
    Wish.XDP_GENERIC: (Mode.XDP_GENERIC,),
}
BY_TC = _WAYS[Wish.TC]
_CARDS = ("", "veth")
"""Kinds of devices that stand on no other: the kernel refuses XDP below a device that has it already, not above."""
_NATIVE = (Mode.XDP,)


@dataclass(frozen=True, slots=True)
class Instead:
    """Why tc carries an interface's traffic where the configuration says XDP, and what can be done."""

    why: str
    remedy: str


_HEADLESS = Instead(
    "cannot read packets without a link header",
    "tc carries its traffic instead, as on every tunnel of this kind; set `attach: tc`",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An interface and the ways to attach to it, the best first; where all XDP ones are refused, tc's come after."""

    link: Link
    ways: tuple[Mode, ...]
    instead: Instead | None = None


def needed(rows: Collection[Row], around: Surroundings, named: Collection[str]) -> dict[int, Link]:
    """Return the interfaces that traffic of these rows can come by. Pure.

    All of them, unless every frontend names its own: then those, the members' and those that the configuration names.
    """
    if not all(row.frontend.interface for row in rows):
        return around.every_link
    names = {*named, *(row.frontend.interface for row in rows)}
    indexes = towards_members(rows, around)
    return {index: link for index, link in around.every_link.items() if link.name in names or index in indexes}


def towards_members(rows: Collection[Row], around: Surroundings) -> set[int]:
    """Return the interfaces that members of these rows are reached by, as far as is known. Pure."""
    addresses = {member.address for row in rows for member in row.pool.members}
    indexes = {hop.ifindex for address, hop in around.hops.items() if address in addresses}
    indexes |= {index for address, (index, _) in around.ways.items() if address in addresses}
    return indexes | {index for network, index in around.prefixes if any(address in network for address in addresses)}


def wanted(
    links: Mapping[int, Link],
    wishes: Mapping[str, str],
    native: Collection[int],
    targets: Collection[int],
    bound: Collection[int] = (),
) -> dict[int, Wanted]:
    """Return the ways for every interface, in the order in which they are to be attached to. Pure.

    `native` are those whose driver runs XDP programs that redirect, `targets` those that it can redirect to. Where
    frames have no link header, programs are attached to tc, and the kernel's routing sends what others have for there.
    That routing knows only the way to a destination. `bound` are the interfaces of members whose frames it
    would take elsewhere: if XDP cannot redirect to one of those, it is tc.
    """
    reachable = all(index in targets for index, link in links.items() if link.address)
    beyond = [link.name for index, link in links.items() if index in bound and link.address and index not in targets]
    found = {}
    for index, link in sorted(links.items(), key=lambda item: item[1].kind not in _CARDS):
        wish = Wish(wishes.get(link.name, Wish.AUTO))
        real = wish is Wish.AUTO and not link.kind and index in native and reachable
        if not link.address:
            found[index] = Wanted(link, BY_TC, _HEADLESS if wish in (Wish.XDP, Wish.XDP_GENERIC) else None)
        elif wish is Wish.XDP and beyond:
            found[index] = Wanted(link, BY_TC, _too_far(beyond))
        else:
            found[index] = Wanted(link, _NATIVE if real else _WAYS[wish])
    return found


def _too_far(names: Iterable[str]) -> Instead:
    mend = "XDP sends to a veth whose other end has GRO (`ethtool -K NAME gro on` there)"
    remedy = f"tc carries its traffic instead, for rules with floating IP or next hops need it; {mend}"
    return Instead(f"cannot send to {', '.join(names)}", f"{remedy}; or set `attach: tc`")
