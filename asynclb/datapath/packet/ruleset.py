"""The guard as text for nftables, and what it remembers of flows.

The core knows which flows are its own, and the filter does not; it watches what leaves, where the datapath's frames
carry a mark. Laws for what members send:

  1. TCP is the core's, unless the host itself passed packets of the connection to the member, or the member opened it
     (`direct`). It errs by dropping: what it forgot never reaches a client from an address that is not the VIP.
  2. Other protocols of members of HA-ports rules are the host's, unless the datapath sent something the other way
     (`taken`, and `pairs` where there are no ports): members ask name servers and clocks without having been asked.
     Only what is sent to such members is noted: nothing asks about others, and each note is paid for by a packet.
  3. What members answer to an address of the host is the core's, if the datapath has sent in that address' name.
  4. Later fragments, which have no ports, go where their first went (`parts`); one that comes before it is the host's.
  5. What was seen of flows is kept when the table is replaced, also by the instance after a killed one: connections of
     the host's own go on, and members' late answers still reach nobody. `_SAME` says that it understands these notes.
  6. A note outlives its flow: of each the chain is shown a frame every few seconds (note.h), and its first SYN. The
     others are quiet and leave by the first rule. Until the next that is shown, what the host itself sends between the
     same ends prevails: such answers look alike.

Without an egress hook (Linux before 5.16) nobody watches, and of what members send from such ports only connections
that they open themselves are the host's.

Source: nft(8), netdev family; net/core/dev.c, __dev_queue_xmit (nf_hook_egress).
"""

from collections.abc import Collection, Iterable
from ipaddress import collapse_addresses, ip_network
from typing import Any
from zlib import crc32

from asynclb.datapath.nft import Nftables
from asynclb.datapath.packet.guard import Guarded, Port
from asynclb.net.address import Address
from asynclb.net.flow import PROTOCOL_NUMBERS, Protocol

TABLE = "asynclb_packet"
NO_TABLE = f"add table netdev {TABLE}\ndelete table netdev {TABLE}"

MARK = 0x4000_0000
"""What the datapath's own frames carry: one bit, and only that bit is compared."""

QUIET = 0x0800_0000
"""Another bit: the chain was shown a frame of this flow a moment ago, or has nothing to note of it."""

SHOWN_MS = 5_000
"""How long a moment is: much less than `_GRACE_S`, and of a flow with 20 packets a second it is one in a hundred."""

_DIRECT_S = 7_500  # longer than the 7,200 s after which Linux probes an idle connection
_DIRECT_FLOWS = 65_535
_TAKEN_FLOWS = 262_143  # beyond it a client may get an answer twice, once from the member's own address
_GRACE_S = 60  # the core's flow is over before its mirror here, which is renewed every SHOWN_MS
_FIRST = -400  # before every other chain at these hooks
_PORTED = "{ 17, 33, 132, 136 }"  # UDP, DCCP, SCTP, UDP-Lite: numbers, because slim images have no /etc/protocols
_HOSTS = {4: "ip daddr 224.0.0.0/4 accept", 6: "icmpv6 type { 133-137 } accept\n  ip6 daddr ff00::/8 accept"}
_PARTS_S = 10  # as the core remembers the first fragment: FRAGMENT_MS
_PARTS = 65_535
_DATAGRAM = {4: "ip saddr . ip daddr . ip id", 6: "ip6 saddr . ip6 daddr . frag id"}
_FIRST_PART = {4: "ip frag-off & 0x3fff == 0x2000", 6: "frag frag-off 0 frag more-fragments 1"}
_LATER_PART = {4: "ip frag-off & 0x1fff != 0", 6: "frag frag-off != 0"}
_WHOLE = {4: "ip frag-off & 0x3fff == 0", 6: "exthdr frag missing"}
_CHAINS = (
    "ingress",
    "egress",
    *(f"{name}{v}" for name in ("in", "from", "any", "out", "sent", "opened") for v in (4, 6)),
)
"""Every chain, those that lead to others first."""

_PROBE = "asynclb_probe"
_EGRESS_PROBE = f"""add table netdev {_PROBE}
add chain netdev {_PROBE} out {{ type filter hook egress device "lo" priority {_FIRST}; }}
delete table netdev {_PROBE}"""


def watches_egress(nft: Nftables) -> bool:
    """Return whether the kernel lets the filter see what leaves. Blocks for some ms."""
    try:
        nft.run(_EGRESS_PROBE)
    except OSError:
        return False
    return True


def keeps_notes(nft: Nftables) -> bool:
    """Return whether what a killed instance has left, if anything, has seen flows as this one would."""
    return TABLE not in nft.run("list tables netdev") or _SAME in nft.run("list chains netdev")


def ruleset(guarded: Guarded, *, egress: bool = True) -> str:
    """Return the commands that replace the table in one transaction, all but what it has seen of flows."""
    if not guarded.interfaces:
        return NO_TABLE
    sets = [found for version in (4, 6) for found in _sets(guarded, version)]
    lines = [f"add table netdev {TABLE}"]
    lines += [f"add chain netdev {TABLE} {name}\nflush chain netdev {TABLE} {name}" for name in _CHAINS]
    lines += [f"delete chain netdev {TABLE} {name}" for name in _CHAINS] + [f"add chain netdev {TABLE} {_SAME}"]
    for name, kind, _ in sets:
        lines += [f"add set netdev {TABLE} {name} {{ type {kind}; }}", f"delete set netdev {TABLE} {name}"]
    lines.append(f"table netdev {TABLE} {{")
    for name, kind, elements in sets:
        listed = f" elements = {{ {', '.join(elements)} }};" if elements else ""
        lines.append(f"set {name} {{ type {kind};{listed} }}")
    for version in (4, 6):
        lines += [_seen(version), _way_in(guarded, version, egress=egress)]
        lines += [_way_out(guarded, version)] if egress else []
    lines += [_hook(guarded, "ingress", "in")] + ([_hook(guarded, "egress", "out")] if egress else [])
    return "\n".join([*lines, "}"])


def _hook(guarded: Guarded, hook: str, chain: str) -> str:
    devices = ", ".join(f'"{name}"' for name, _ in guarded.interfaces)
    first = f"\n  meta mark {MARK | QUIET:#x} accept" if hook == "egress" else ""
    return f"""chain {hook} {{
  type filter hook {hook} devices = {{ {devices} }} priority {_FIRST}; policy accept;{first}
  meta protocol ip goto {chain}4
  meta protocol ip6 goto {chain}6
}}"""


def _seen(version: int) -> str:
    address = f"ipv{version}_addr"
    pair = f"{address} . {address} . inet_proto"
    flow = f"{pair} . inet_service . inet_service"
    flags = "flags dynamic, timeout;"
    return f"""set direct{version} {{ type {flow}; {flags} timeout {_DIRECT_S}s; size {_DIRECT_FLOWS}; }}
set taken{version} {{ type {flow}; {flags} size {_TAKEN_FLOWS}; }}
set pairs{version} {{ type {pair}; {flags} size {_TAKEN_FLOWS}; }}
set parts{version} {{ typeof {_DATAGRAM[version]}; {flags} timeout {_PARTS_S}s; size {_PARTS}; }}"""


_SAME = f"same_{crc32(repr((_CHAINS, _seen(4), _seen(6))).encode()):08x}"
"""An empty chain, named after all that one instance takes over from another."""


def _way_in(guarded: Guarded, version: int, *, egress: bool) -> str:
    ip, v = ("ip", "4") if version == 4 else ("ip6", "6")
    pair = f"{ip} saddr . {ip} daddr . meta l4proto"
    flow = f"{pair} . th sport . th dport"
    timeout = f"timeout {guarded.idle_s + _GRACE_S}s"
    routed = "\n  ".join(f'iifname "{name}" drop' for name, found in guarded.routed_interfaces if found == version)
    seen = f"""meta l4proto {_PORTED} {flow} @taken{v} update @taken{v} {{ {flow} {timeout} }} drop
  meta l4proto {_PORTED} {_WHOLE[version]} return
  {pair} @pairs{v} update @pairs{v} {{ {pair} {timeout} }} drop"""
    hairpin = f"{ip} daddr @own{v} {ip} saddr @members{v} {flow} @taken{v} drop"
    return f"""chain opened{v} {{
  tcp flags & (syn | ack) == syn update @direct{v} {{ {flow} }} return
  {_FIRST_PART[version]} update @parts{v} {{ {_DATAGRAM[version]} }}
  drop
}}
chain any{v} {{
  meta l4proto 6 goto opened{v}
  {seen if egress else "drop"}
}}
chain from{v} {{
  {_LATER_PART[version]} {_DATAGRAM[version]} @parts{v} drop
  {flow} @direct{v} return
  {ip} saddr . meta l4proto . th sport @replies{v} goto opened{v}
  {ip} saddr @open_members{v} goto any{v}
}}
chain in{v} {{
  {_HOSTS[version]}
  {ip} daddr . meta l4proto . th dport @served{v} drop
  {ip} daddr @open_vips{v} drop
  {hairpin if egress else ""}
  {ip} daddr @own{v} accept
  {ip} daddr @vips{v} drop
  {_own(guarded, version)}
  {ip} saddr @members{v} jump from{v}
  {routed}
}}"""


def _own(guarded: Guarded, version: int) -> str:
    """Drop what members of outbound rules send on their own account, but to members and to where they go directly."""
    ip, rules = "ip" if version == 4 else "ip6", []
    every = {member for members, _ in guarded.outbound for member in members}
    for members, prefixes in guarded.outbound:
        ours = _addresses(members, version)
        kept: list[Any] = [ip_network(address) for address in every | guarded.members]
        kept = [*kept, *prefixes, ip_network("169.254.0.0/16"), ip_network("fe80::/10")]
        direct = ", ".join(map(str, collapse_addresses(net for net in kept if net.version == version)))
        if ours:
            rules.append(f"meta pkttype host {ip} saddr {{ {', '.join(ours)} }} {ip} daddr != {{ {direct} }} drop")
    return "\n  ".join(rules)


def _way_out(guarded: Guarded, version: int) -> str:
    ip, v = ("ip", "4") if version == 4 else ("ip6", "6")
    pair = f"{ip} daddr . {ip} saddr . meta l4proto"
    flow = f"{pair} . th dport . th sport"
    timeout = f"timeout {guarded.idle_s + _GRACE_S}s"
    return f"""chain sent{v} {{
  {ip} saddr @own{v} update @taken{v} {{ {flow} {timeout} }}
  tcp flags & (syn | ack) == syn delete @direct{v} {{ {flow} }}
  meta l4proto 6 return
  delete @direct{v} {{ {flow} }}
  {ip} daddr != @open_members{v} return
  meta l4proto {_PORTED} update @taken{v} {{ {flow} {timeout} }}
  meta l4proto {_PORTED} {_WHOLE[version]} return
  update @pairs{v} {{ {pair} {timeout} }}
}}
chain out{v} {{
  {ip} daddr != @members{v} return
  meta mark & {MARK:#x} != 0 goto sent{v}
  {ip} saddr @own{v} return
  update @direct{v} {{ {flow} }}
  delete @taken{v} {{ {flow} }}
  delete @pairs{v} {{ {pair} }}
}}"""


def _sets(guarded: Guarded, version: int) -> Iterable[tuple[str, str, list[str]]]:
    address = f"ipv{version}_addr"
    port = f"{address} . inet_proto . inet_service"
    yield f"served{version}", port, _ports(guarded.served, version)
    yield f"replies{version}", port, _ports(guarded.replies, version)
    for name in ("open_vips", "own", "vips", "members", "open_members"):
        yield f"{name}{version}", address, _addresses(getattr(guarded, name), version)


def _addresses(addresses: Collection[Address], version: int) -> list[str]:
    return sorted(str(address) for address in addresses if address.version == version)


def _ports(ports: Collection[Port], version: int) -> list[str]:
    return sorted(
        f"{address} . {PROTOCOL_NUMBERS[Protocol(protocol)]} . {port}"
        for address, protocol, port in ports
        if address.version == version
    )
