"""The standard lab: what the demo, most tests and the benchmarks run in.

    cli1 10.0.1.11 --+                                        +-- be1 10.0.2.11
    cli2 10.0.1.12 --+-- front -- 10.0.1.1 lb 10.0.2.1 -- back --+-- be2 10.0.2.12
                                                              +-- be3 10.0.2.13

The same with 2001:db8:1::/64 in front and 2001:db8:2::/64 behind. Clients and members have their default routes through
the balancer, which forwards; so clients reach members directly as well, for comparison. The VIPs belong to nobody: the
balancer has to take what is sent to them.
"""

from dataclasses import dataclass

from asynclb.lab.host import Host
from asynclb.lab.lab import Lab

VIP4 = "203.0.113.10"
VIP6 = "2001:db8:ff::10"
"""Reached by way of the balancer, on no interface of anyone. Source: RFC 5737, RFC 3849 (addresses for examples)."""

ON_LINK_VIP4 = "10.0.1.100"
ON_LINK_VIP6 = "2001:db8:1::100"
"""In the clients' own network, so clients ask for its link address: somebody has to own it."""

LB_FRONT4, LB_FRONT6 = "10.0.1.1", "2001:db8:1::1"
LB_BACK4, LB_BACK6 = "10.0.2.1", "2001:db8:2::1"


def client_addresses(number: int) -> tuple[str, str]:
    """Return the IPv4 and the IPv6 address of `cli<number>`."""
    return f"10.0.1.{10 + number}", f"2001:db8:1::{10 + number}"


def member_addresses(number: int) -> tuple[str, str]:
    """Return the IPv4 and the IPv6 address of `be<number>`."""
    return f"10.0.2.{10 + number}", f"2001:db8:2::{10 + number}"


@dataclass(frozen=True, slots=True)
class Site:
    """The hosts of a lab that was built from a `Topology`."""

    lb: Host
    clients: tuple[Host, ...]
    members: tuple[Host, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """The shape of a standard lab. `own_on_link_vip` gives the on-link VIPs to the balancer's front interface."""

    clients: int = 2
    members: int = 3
    mtu: int = 1500
    own_on_link_vip: bool = False

    async def build(self, lab: Lab) -> Site:
        """Declare the hosts in the lab and bring them up."""
        lb = lab.host("lb", forwarding=True)
        clients = {lab.host(f"cli{n}"): client_addresses(n) for n in range(1, self.clients + 1)}
        members = {lab.host(f"be{n}"): member_addresses(n) for n in range(1, self.members + 1)}
        front = {lb: f"{LB_FRONT4}/24 {LB_FRONT6}/64"} | {
            host: f"{v4}/24 {v6}/64" for host, (v4, v6) in clients.items()
        }
        back = {lb: f"{LB_BACK4}/24 {LB_BACK6}/64"} | {host: f"{v4}/24 {v6}/64" for host, (v4, v6) in members.items()}
        lab.switch("front", front, mtu=self.mtu)
        lab.switch("back", back, mtu=self.mtu)
        for hosts, gateways in ((clients, (LB_FRONT4, LB_FRONT6)), (members, (LB_BACK4, LB_BACK6))):
            for host in hosts:
                for gateway in gateways:
                    host.route("default", via=gateway)
        if self.own_on_link_vip:
            lb.address("front", f"{ON_LINK_VIP4}/32")
            lb.address("front", f"{ON_LINK_VIP6}/128")
        await lab.up()
        return Site(lb, tuple(clients), tuple(members))


STANDARD = Topology()
"""Two clients, three members."""
