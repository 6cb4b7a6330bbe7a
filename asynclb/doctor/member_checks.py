"""What a member of a pool needs, and what is wrong with it. Pure.

A rule with `floating_ip` (direct server return) leaves the VIP in the packets. So the member must take packets to the
VIP without ever saying that the VIP is here: neighbours would send clients' packets to it, past the balancer. So the
VIP is on the loopback, and ARP answers for addresses of the interface alone; IPv6 does so by itself.

Other rules rewrite the VIP to the member's address, and the member must not have it at all.

Law: whoever carries out the commands from the first to the last never has the VIP answered for on the way.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from asynclb.doctor.finding import Finding, Level
from asynclb.doctor.member_facts import MemberFacts, Owned, Port
from asynclb.net.address import Address

USUAL_MTU = 1500
ARP_IGNORE = (1, 2)  # only addresses of the interface that is asked; 2: and only to askers of its network
ARP_ANNOUNCE = 2  # ask as an address of the interface, never as the VIP


@dataclass(frozen=True, slots=True)
class Role:
    """What is asked about: the member's VIP, whether its rule is floating, the port that it serves (None: any).

    `asked`: the port that clients ask, where floating IP changes it (None: they ask for the one that is served).
    """

    vip: Address
    floating: bool
    port: int | None = None
    asked: int | None = None

    @property
    def straight(self) -> bool:
        """Whether answers go straight to clients, as nobody has to change anything in them."""
        return self.floating and self.asked in (None, self.port)


def check_member(facts: MemberFacts, role: Role) -> Iterator[Finding]:
    """Yield what was found, in the order in which it is to be mended."""
    used = {
        one.port for one in facts.owned if one.address.version == role.vip.version and not one.address.is_link_local
    }
    outside = [port for port in facts.ports if port.outside and port.name in used]
    if not outside:
        what = f"none with neighbours is up and has an IPv{role.vip.version} address"
        yield Finding(Level.FAIL, "interfaces", what, "ip addr")
    for port in outside:
        yield from _port(port, role)
    yield from _vip(facts, role) if role.floating else _no_vip(facts, role)
    yield from _listener(facts, role)
    yield from _way_back(facts, role)


def _vip(facts: MemberFacts, role: Role) -> Iterator[Finding]:
    """The VIP is on an interface without neighbours, alone."""
    subject = f"VIP {role.vip}"
    if role.vip.version == 6 and facts.ipv6_off:
        what = "the loopback takes no IPv6 addresses"
        yield Finding(Level.FAIL, "disable_ipv6", what, "sudo sysctl -w net.ipv6.conf.lo.disable_ipv6=0")
    owned = [one for one in facts.owned if one.address == role.vip]
    bad = [one for one in owned if not _fits(one)]
    present = len(bad) < len(owned)
    for one in bad:
        adding = "" if present else f" && {_adding(role.vip)}"
        yield Finding(Level.FAIL, subject, _why(one), f"{_removing(one)}{adding}")
        present = True
    if not owned:
        what = "not on this host, which drops packets to it: floating rules leave it as the destination"
        yield Finding(Level.FAIL, subject, what, _adding(role.vip))
    elif not bad:
        yield Finding(Level.OK, subject, f"on {owned[0].port}, which has no neighbours to tell")


def _no_vip(facts: MemberFacts, role: Role) -> Iterator[Finding]:
    """Without floating IP the VIP is the balancer's alone."""
    subject = f"VIP {role.vip}"
    owned = [one for one in facts.owned if one.address == role.vip]
    for one in owned:
        what = f"on {one.port}: its own packets to the VIP stay here, and replies to the balancer may too"
        yield Finding(Level.FAIL, subject, what, f"{_removing(one)}   # or --floating, if the rule has floating_ip")
    if not owned:
        yield Finding(Level.OK, subject, "not on this host, as it should be without floating_ip")


def _fits(one: Owned) -> bool:
    return not one.outside and not one.doubted and one.prefix == one.address.max_prefixlen


def _why(one: Owned) -> str:
    if one.outside:
        who = "ARP" if one.address.version == 4 else "neighbour discovery"
        return f"on {one.port}, which answers {who} for it: clients reach this member past the balancer"
    if one.doubted:
        return f"on {one.port}, but duplicate address detection keeps it unused"
    return f"on {one.port} as /{one.prefix}: the whole network would be taken for this host"


def _adding(vip: Address) -> str:
    quiet = " nodad" if vip.version == 6 else ""
    return f"sudo ip addr add {vip}/{vip.max_prefixlen} dev lo{quiet}"


def _removing(one: Owned) -> str:
    return f"sudo ip addr del {one.address}/{one.prefix} dev {one.port}"


def _port(port: Port, role: Role) -> Iterator[Finding]:
    """An interface that neighbours are behind."""
    found = [*_arp(port)] if role.floating and role.vip.version == 4 else []
    if role.vip.version == 4 and port.settings.get("rp_filter") == 1:
        what = "strict reverse path filter: packets of clients whose way back is another interface are dropped"
        mend = f"sudo sysctl -w {_setting('all', 'rp_filter', 2)} {_setting(port.name, 'rp_filter', 2)}"
        found.append(Finding(Level.WARN, port.name, what, mend))
    if port.mtu < USUAL_MTU:
        what = f"MTU {port.mtu}: larger packets that the balancer takes from clients do not reach it"
        found.append(Finding(Level.WARN, port.name, what, f"sudo ip link set dev {port.name} mtu {USUAL_MTU}"))
    yield from found
    if not found:
        yield Finding(Level.OK, port.name, f"MTU {port.mtu}, says and drops nothing that it should not")


def _arp(port: Port) -> Iterator[Finding]:
    ignore, announce = port.settings.get("arp_ignore", 0), port.settings.get("arp_announce", 0)
    if ignore not in ARP_IGNORE:
        what = f"arp_ignore={ignore}: it answers ARP for the VIP on the loopback, and clients pass the balancer by"
        if ignore > max(ARP_IGNORE):
            what = f"arp_ignore={ignore}: it may not even answer for its own addresses"
        yield Finding(Level.FAIL, port.name, what, _both(port, "arp_ignore", ARP_IGNORE[0]))
    if announce != ARP_ANNOUNCE:
        what = f"arp_announce={announce}: it may ask its neighbours as the VIP, and they take the VIP to be here"
        yield Finding(Level.FAIL, port.name, what, _both(port, "arp_announce", ARP_ANNOUNCE))


def _both(port: Port, key: str, value: int) -> str:
    """The larger of both counts, so both are set."""
    return f"sudo sysctl -w {_setting('all', key, value)} {_setting(port.name, key, value)}"


def _setting(port: str, key: str, value: int) -> str:
    """Slashes, because names of interfaces may have dots in them."""
    return f"net/ipv4/conf/{port}/{key}={value}"


def _listener(facts: MemberFacts, role: Role) -> Iterator[Finding]:
    if role.port is None:
        return
    subject = f"port {role.port}"
    heard = sorted(facts.listeners, key=str)
    wanted = {role.vip} if role.floating else {one.address for one in facts.owned if not one.address.is_loopback}
    fit = sorted({protocol for protocol, address in heard if _takes(address, wanted, facts, role.vip.version)})
    whom = str(role.vip) if role.floating else "an address of this host"
    if fit:
        yield Finding(Level.OK, subject, f"{' and '.join(fit)}: somebody listens on {whom}")
        return
    where = ", ".join(f"{protocol} {address}" for protocol, address in heard)
    what = f"nobody listens on {whom}" + (f", only on {where}" if where else "")
    mend = f"sudo ss -lntup 'sport = :{role.port}'   # have the service listen there, or on all addresses"
    yield Finding(Level.FAIL, subject, what, mend)


def _takes(address: Address, wanted: set[Address], facts: MemberFacts, version: int) -> bool:
    if address.is_unspecified:
        return address.version == version or (address.version == 6 and facts.dual)
    return address in wanted


def _way_back(facts: MemberFacts, role: Role) -> Iterator[Finding]:
    if not facts.gateway:
        version = "-6 " if role.vip.version == 6 else ""
        mend = f"sudo ip {version}route add default via {'ROUTER' if role.straight else 'BALANCER'}"
        yield Finding(Level.WARN, "way back", "no route to clients in other networks", mend)
    elif role.straight:
        yield Finding(Level.OK, "way back", f"straight to clients: {facts.gateway}")
    elif role.floating:
        what = f"{facts.gateway}: this must be the balancer, which makes port {role.port} of answers {role.asked} again"
        yield Finding(Level.OK, "way back", what)
    else:
        yield Finding(Level.OK, "way back", f"{facts.gateway}: this must be the balancer, or `transparent: false`")
