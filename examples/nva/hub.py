"""The network of the example: two spokes, a hub, a balancer, and three firewalls that track every flow.

    spoke 1             hub 10.0.0.0/24, fd00:10::/64            spoke 2
    10.1.0.0/24   gw1 --+--------+--------+--------+-- gw2   10.2.0.0/24
    host1               |        |        |        |         host2
                        lb      nva1     nva2     nva3

A gateway's route to the other spoke leads to the balancer's frontend; a firewall's routes lead to the gateways.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from asynclb.lab import Host, Lab, Process

HERE = Path(__file__).resolve().parent

FRONTEND = ("10.0.0.4", "fd00:10::4")
APPLIANCES = {f"nva{n}": (f"10.0.0.{10 + n}", f"fd00:10::{10 + n}") for n in (1, 2, 3)}
GATEWAYS = {n: (f"10.0.0.{100 + n}", f"fd00:10::{100 + n}") for n in (1, 2)}
ADDRESSES_PER_HOST = 8  # protocols without ports spread by their addresses alone

SERVICE_PORT = 7
IPERF_PORT = 5201
PROBE_PORT = 22

FIREWALL = f"""
table inet firewall {{
  counter invalid {{
  }}
  counter refused {{
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state invalid counter name invalid drop
    ct state established,related accept
    # What follows is about the first packet of a flow. An answer whose question went through another firewall
    # is a first packet here, and matches nothing.
    tcp flags & (syn | ack) == syn tcp dport {{ {SERVICE_PORT}, {IPERF_PORT} }} accept
    udp dport {SERVICE_PORT} accept
    icmp type echo-request accept
    icmpv6 type echo-request accept
    ip saddr 10.1.0.0/24 meta l4proto {{ sctp, gre, esp }} accept
    ip6 saddr fd00:10:1::/64 meta l4proto {{ sctp, gre, esp }} accept
    counter name refused drop
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    icmpv6 type nd-redirect drop
  }}
}}
"""
"""A stateful firewall. No packet that conntrack cannot place in a flow that it saw from its start gets through."""

_STRICT = {
    "net.netfilter.nf_conntrack_tcp_loose": 0,  # a connection has to begin with its handshake
    "net.netfilter.nf_conntrack_acct": 1,  # packets are counted for each flow and direction
    "net.ipv4.conf.default.send_redirects": 0,  # it has one arm, and routes point at it on purpose
}


def addresses(spoke: int, version: int) -> list[str]:
    """Return the addresses of a spoke's host."""
    prefix = f"10.{spoke}.0." if version == 4 else f"fd00:10:{spoke}::"
    return [f"{prefix}{11 + n}" for n in range(ADDRESSES_PER_HOST)]


class FlowKey(NamedTuple):
    """A flow by its first packet, as conntrack names it: an ICMP id stands for the source port."""

    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int


class Passed(NamedTuple):
    """Packets of a flow that a firewall has seen each way."""

    there: int
    back: int


Tracked = Mapping[str, Mapping[FlowKey, Passed]]
"""What the firewalls know, by name."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Packets that a firewall has thrown away: no flow begins or goes on like that; its rules do not allow it."""

    invalid: int
    refused: int


@dataclass(frozen=True, slots=True)
class State:
    """What the balancer says of the firewalls: `up` if both address families are, else the worse.

    `applied`: new flows meet just that.
    """

    health: Mapping[str, str]
    applied: bool


@dataclass(frozen=True, slots=True)
class Hub:
    """The hosts of the example."""

    lab: Lab
    hosts: tuple[Host, Host]
    gateways: tuple[Host, Host]
    appliances: tuple[Host, ...]
    lb: Host

    @classmethod
    async def build(cls, lab: Lab) -> "Hub":
        """Declare everything and bring it up, with the firewalls and what their probes ask."""
        hosts = (lab.host("host1"), lab.host("host2"))
        gateways = (lab.host("gw1", forwarding=True), lab.host("gw2", forwarding=True))
        appliances = tuple(lab.host(name, forwarding=True) for name in APPLIANCES)
        hub = cls(lab, hosts, gateways, appliances, lab.host("lb"))
        hub._declare()
        await lab.up()
        for appliance in appliances:
            await appliance.check_output("nft", "-f", appliance.write("firewall.nft", FIREWALL))
            await appliance.tcp_server(PROBE_PORT)
        return hub

    def _declare(self) -> None:
        ports = {self.lb: "10.0.0.2/24 fd00:10::2/64"}
        ports |= {self.lab.hosts[name]: f"{v4}/24 {v6}/64" for name, (v4, v6) in APPLIANCES.items()}
        for spoke, (host, gateway) in enumerate(zip(self.hosts, self.gateways, strict=True), start=1):
            own = [f"{a}/24" for a in addresses(spoke, 4)] + [f"{a}/64" for a in addresses(spoke, 6)]
            self.lab.link(host, " ".join(own), gateway, f"10.{spoke}.0.1/24 fd00:10:{spoke}::1/64")
            host.sysctl("net.ipv4.ping_group_range", "0 0")
            for router in (f"10.{spoke}.0.1", f"fd00:10:{spoke}::1"):
                host.route("default", via=router)
            v4, v6 = GATEWAYS[spoke]
            ports[gateway] = f"{v4}/24 {v6}/64"
        self.lab.switch("hub", ports)
        for appliance in self.appliances:
            for key, value in _STRICT.items():
                appliance.sysctl(key, value)
            for spoke, (v4, v6) in GATEWAYS.items():
                appliance.route(f"10.{spoke}.0.0/24", via=v4)
                appliance.route(f"fd00:10:{spoke}::/64", via=v6)

    async def lead(self, *hops: tuple[str, str]) -> None:
        """Let the routes from spoke 1 to spoke 2, and from 2 to 1, lead to these addresses."""
        for gateway, other, hop in zip(self.gateways, (2, 1), hops, strict=True):
            for network, via in zip((f"10.{other}.0.0/24", f"fd00:10:{other}::/64"), hop, strict=True):
                await gateway.check_output("ip", "route", "replace", network, "via", via)

    async def start_balancer(self) -> Process:
        """Start asynclb with the example's configuration."""
        return await self.lb.asynclb("run", self.lb.write("asynclb.yaml", (HERE / "asynclb.yaml").read_text()))

    async def state(self) -> "State":
        """Ask the balancer. Raises: OSError -> it does not listen yet."""
        async with self.lb.connection("127.0.0.1", 9180) as (reader, writer):
            writer.write(b"GET /api/v1/state HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            document = json.loads((await reader.read(-1)).partition(b"\r\n\r\n")[2])
        health: dict[str, str] = {}
        for pool in document["pools"]:
            for member in pool["members"]:
                state = member["health"][0]["state"]
                if health.get(member["name"], "up") == "up":
                    health[member["name"]] = state
        paths = [path for path in document["datapaths"] if path["rules"]]
        return State(health, all(path["generation"] == document["generation"] for path in paths))

    async def power(self, appliance: str, state: str) -> None:
        """Unplug an appliance from the hub (`down`), or plug it in again (`up`)."""
        await self.lab.hosts["hub"].check_output("ip", "link", "set", "dev", appliance, state)

    async def tracked(self) -> Tracked:
        """Return what the firewalls' connection tracking knows now; read in a thread, for flows go on meanwhile."""
        return {appliance.name: await asyncio.to_thread(_tracked, appliance) for appliance in self.appliances}

    async def dropped(self) -> dict[str, Dropped]:
        """Return the firewalls' counters."""
        found = {}
        for appliance in self.appliances:
            text = await appliance.check_output("nft", "list", "counters", "table", "inet", "firewall")
            counts = dict(re.findall(r"counter (\w+) \{\s*packets (\d+)", text))
            found[appliance.name] = Dropped(int(counts["invalid"]), int(counts["refused"]))
        return found

    async def forget(self) -> None:
        """Set the firewalls' counters to zero."""
        for appliance in self.appliances:
            await appliance.check_output("nft", "reset", "counters")

    def packets(self) -> dict[str, int]:
        """Return how many packets came to each appliance."""
        found = {}
        for appliance in self.appliances:
            with appliance.entered():
                lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
            found[appliance.name] = next(int(line.split()[2]) for line in lines if line.lstrip().startswith("hub:"))
        return found


def _tracked(appliance: Host) -> dict[FlowKey, Passed]:
    with appliance.entered():
        lines = Path("/proc/thread-self/net/nf_conntrack").read_text().splitlines()
    return dict(_entry(line) for line in lines)


def _entry(line: str) -> tuple[FlowKey, Passed]:
    """Read one line: a protocol, then addresses, ports and counters there, then the same back."""
    _, first, second = re.split(r"\bsrc=", line, maxsplit=2)
    there, back = (dict(re.findall(r"(\w+)=(\S+)", f"src={part}")) for part in (first, second))
    port = int(there.get("sport") or there.get("id") or 0)
    source, destination = (str(ip_address(there[end])) for end in ("src", "dst"))
    key = FlowKey(int(line.split()[3]), source, port, destination, int(there.get("dport", 0)))
    return key, Passed(int(there["packets"]), int(back["packets"]))
