"""Which interfaces programs are attached to, and how: decided without any."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from asynclb.datapath.core.values import NextHop
from asynclb.datapath.frames.surroundings import Link, Surroundings
from asynclb.datapath.kernel.ways import Mode, needed, wanted
from asynclb.tables.row import Row
from tests.unit.proxy.world import member, row

LINK = bytes(6)
FRONT, BACK, ADMIN = Link(2, "front", LINK, 1500), Link(3, "back", LINK, 1500), Link(4, "admin", LINK, 1500)
LINKS = {link.index: link for link in (FRONT, BACK, ADMIN)}
MEMBER = ip_address("10.0.2.11")
HOPS = {MEMBER: NextHop(3, LINK, LINK)}
PREFIXES = ((ip_network("10.0.2.0/24"), 3), (ip_network("10.9.0.0/24"), 4))


def rule(interface: str | None = None) -> Row:
    """Return a rule whose frontend names an interface, or none."""
    found = row("203.0.113.10", 80, [member("be1", str(MEMBER))], 8080)
    return replace(found, frontend=replace(found.frontend, interface=interface))


def ways(links: dict[int, Link], wishes: dict[str, str], native: set[int], targets: set[int]) -> dict[int, str]:
    """Return the first way for each interface."""
    return {index: found.ways[0] for index, found in wanted(links, wishes, native, targets).items()}


def test_every_interface_may_have_clients() -> None:
    """A frontend that names no interface is reached by any."""
    assert needed([rule(), rule("front")], Surroundings(LINKS, {}, PREFIXES, HOPS), ()) == LINKS


def test_interfaces_that_are_named_are_enough() -> None:
    """If every frontend names its interface, programs go there, to the members' and to those that are configured."""
    around = Surroundings(LINKS, {}, (), HOPS)
    assert set(needed([rule("front")], around, ())) == {2, 3}
    assert set(needed([rule("front")], around, ("admin",))) == {2, 3, 4}


def test_a_member_that_is_not_resolved_yet() -> None:
    """Its interface is known by its network."""
    assert set(needed([rule("front")], Surroundings(LINKS, {}, PREFIXES, {}), ())) == {2, 3}


def test_real_devices_run_xdp_where_all_can_be_redirected_to() -> None:
    """One interface that XDP cannot send by, and all are attached to tc."""
    everything = {2, 3, 4}
    assert set(ways(LINKS, {}, everything, everything).values()) == {Mode.XDP}
    assert set(ways(LINKS, {}, everything, {2, 3}).values()) == {Mode.TCX}


def test_virtual_devices_have_tc() -> None:
    """Large unsegmented frames and unfinished checksums pass between virtual devices, and XDP sees neither."""
    links = LINKS | {2: replace(FRONT, kind="veth")}
    assert ways(links, {}, {2, 3}, {2, 3, 4}) == {2: Mode.TCX, 3: Mode.XDP, 4: Mode.TCX}


def test_wishes_are_followed() -> None:
    """What the configuration says of an interface outweighs what is known of its device."""
    assert ways(LINKS, {"front": "xdp", "back": "tc"}, {3}, set()) == {2: Mode.XDP, 3: Mode.TCX, 4: Mode.TCX}
    assert wanted(LINKS, {"front": "xdp"}, (), ())[2].ways == (Mode.XDP, Mode.XDP_GENERIC)


def test_a_wish_for_xdp_that_would_lose_frames() -> None:
    """Frames that only the programs can bring to their member are tc's, where XDP cannot send them on."""
    wishes = {"front": "xdp", "back": "xdp"}
    found = wanted(LINKS, wishes, (), {2}, {3})
    assert {wish.ways[0] for wish in found.values()} == {Mode.TCX}
    assert [wish.instead and wish.instead.why for wish in found.values()] == [*["cannot send to back"] * 2, None]
    for targets, bound in (({2}, ()), ({2, 3}, {3})):
        found = wanted(LINKS, wishes, (), targets, bound)
        assert [wish.ways[0] for wish in found.values()] == [Mode.XDP, Mode.XDP, Mode.TCX]


@pytest.mark.parametrize("wish", ["xdp", "xdp-generic"])
def test_a_wish_for_xdp_where_frames_have_no_link_header(wish: str) -> None:
    """It is tc, with the reason and the remedy; without the wish there is nothing to tell."""
    links = {2: FRONT, 7: Link(7, "tun7", b"", 1500, "tun")}
    found = wanted(links, {"tun7": wish, "front": "xdp"}, {2, 7}, {2, 7})
    assert (found[7].ways, found[2].instead) == ((Mode.TCX, Mode.CLSACT), None)
    assert found[7].instead is not None
    assert found[7].instead.why == "cannot read packets without a link header"
    assert "tc carries its traffic instead" in found[7].instead.remedy
    assert all(wanted(links, {"tun7": word}, (), ())[7].instead is None for word in ("tc", "auto"))


def test_devices_that_stand_on_others_come_last() -> None:
    """The kernel refuses XDP on a device when one that stands on it has a program already."""
    links = {1: Link(1, "vlan7", LINK, 1500, "vlan"), 2: replace(FRONT, kind="veth"), 3: BACK}
    assert list(wanted(links, {}, (), ())) == [2, 3, 1]
