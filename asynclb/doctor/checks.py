"""From what is so to what is wrong with it. Pure."""

import sys
from collections.abc import Iterator

from asynclb.datapath.kernel.refusals import OLDEST_KERNEL, TELLS_LENGTH
from asynclb.doctor.facts import Facts, Interface
from asynclb.doctor.finding import Finding, Level
from asynclb.doctor.wants import Wants
from asynclb.doctor.xdp_checks import check_xdp

ENOUGH_DESCRIPTORS = 65_536

_NEEDS = {
    "proxy": ("CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE"),
    "packet": ("CAP_NET_ADMIN", "CAP_NET_RAW"),
    "kernel": ("CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"),
}
_FOR = {
    "CAP_NET_ADMIN": "routes, packet filters, transparent sockets",
    "CAP_NET_RAW": "packet sockets",
    "CAP_BPF": "programs in the kernel",
    "CAP_PERFMON": "programs at a third of the cost; before Linux 5.18 any",
    "CAP_NET_BIND_SERVICE": "frontend ports below 1024",
}


def check_host(facts: Facts, wants: Wants) -> Iterator[Finding]:
    """Yield what was found."""
    yield from _capabilities(facts, wants)
    yield from _kernel(facts, wants)
    yield from _libraries(facts, wants)
    yield from _descriptors(facts)
    yield from _forwarding(facts, wants)
    yield from _interfaces(facts, wants)
    yield from _members(facts, wants)


def _level(wants: Wants, *datapaths: str) -> Level:
    """Return how bad it is that these datapaths do not work: `auto` has others."""
    return Level.FAIL if wants.named.intersection(datapaths) else Level.WARN


def _capabilities(facts: Facts, wants: Wants) -> Iterator[Finding]:
    lacking = facts.lacking - ({"CAP_BPF", "CAP_PERFMON"} if "CAP_SYS_ADMIN" not in facts.lacking else set())
    sets = ",".join(map(str.lower, _FOR))
    mend = f"sudo setcap {sets}+ep $(readlink -f {sys.executable})   # or AmbientCapabilities= in the systemd unit"
    for name, purpose in _FOR.items():
        users = [path for path, needed in _NEEDS.items() if name in needed]
        who = f"{', '.join(users)}: {purpose}"
        if name not in lacking or (name == "CAP_NET_BIND_SERVICE" and not _privileged(facts, wants)):
            yield Finding(Level.OK, name, who if name not in lacking else f"not needed here ({who})")
        else:
            yield Finding(_without(name, facts, wants), name, f"{facts.user} lacks it ({who})", mend)


def _privileged(facts: Facts, wants: Wants) -> bool:
    """Return whether a frontend's port is one that not everybody may listen at."""
    first = int(facts.sysctls.get("net/ipv4/ip_unprivileged_port_start") or 1024)
    return wants.lowest_port < first if wants.source else first > 0


def _without(name: str, facts: Facts, wants: Wants) -> Level:
    """Return how bad it is that a capability is missing: without CAP_NET_ADMIN no transparent rule works."""
    named = wants.named.intersection(path for path, needed in _NEEDS.items() if name in needed)
    if name == "CAP_NET_ADMIN":
        bad = bool(named - {"proxy"}) or (wants.transparent and bool(wants.source))
    elif name == "CAP_NET_BIND_SERVICE":
        others = facts.kernel_refusal is None or "CAP_NET_RAW" not in facts.lacking
        bad = bool(named) or (bool(wants.source) and not others)
    elif name == "CAP_PERFMON":
        bad = bool(named) and facts.release < TELLS_LENGTH
    else:
        bad = bool(named)
    return Level.FAIL if bad else Level.WARN


def _kernel(facts: Facts, wants: Wants) -> Iterator[Finding]:
    release = ".".join(map(str, facts.release))
    level = _level(wants, "kernel")
    if facts.release < OLDEST_KERNEL:
        mend = "sudo apt-get install linux-image-amd64 && sudo reboot   # 5.15 or later; or `datapath: packet`"
        yield Finding(level, "kernel", f"Linux {release} is too old for the datapath kernel", mend)
    elif facts.kernel_refusal is not None:
        yield Finding(level, "datapath kernel", facts.kernel_refusal.why, facts.kernel_refusal.remedy)
    else:
        yield Finding(Level.OK, "datapath kernel", f"Linux {release} takes its programs")
    if facts.bpffs:
        yield Finding(Level.OK, "bpffs", "mounted, and open to this user: forwarding outlives the process")
    else:
        what = "none is mounted that this user may write to: the datapath kernel stops forwarding with the process"
        place, owner = "/run/asynclb/bpf", facts.user.removeprefix("uid ")
        mount = f"sudo mkdir -p {place} && sudo mount -t bpf bpf {place} && sudo chown {owner} {place}"
        yield Finding(Level.WARN, "bpffs", what, "sudo mount -t bpf bpf /sys/fs/bpf" if owner == "0" else mount)
    if facts.sysctls.get("net/core/bpf_jit_enable") == "0":
        what = "BPF programs are interpreted, several times slower"
        yield Finding(Level.WARN, "bpf_jit_enable", what, "sudo sysctl -w net.core.bpf_jit_enable=1")


def _libraries(facts: Facts, wants: Wants) -> Iterator[Finding]:
    users = {"libnftables.so.1": ("proxy", "packet"), "libbpf.so.1": ("kernel",)}
    packages = {"libnftables.so.1": "libnftables1", "libbpf.so.1": "libbpf1"}
    for library, error in facts.libraries.items():
        purpose = f"for {', '.join(users[library])}"
        if not error:
            yield Finding(Level.OK, library, purpose)
            continue
        mend = f"sudo apt-get install {packages[library]}"
        yield Finding(_level(wants, *users[library]), library, f"cannot be loaded ({purpose}): {error}", mend)
    if facts.native:
        what = f"the native library is not there: {facts.native}; tables are filled 30 times slower, no datapath packet"
        yield Finding(_level(wants, "packet", "kernel"), "native library", what, "python -m asynclb.native.build")


def _descriptors(facts: Facts) -> Iterator[Finding]:
    if 0 <= facts.descriptors < ENOUGH_DESCRIPTORS:
        what = f"{facts.descriptors:,} at most: room for {facts.descriptors // 2:,} proxied connections"
        mend = f"LimitNOFILE={ENOUGH_DESCRIPTORS}   # in the systemd unit; in a shell: ulimit -n {ENOUGH_DESCRIPTORS}"
        yield Finding(Level.WARN, "open files", what, mend)
    else:
        yield Finding(Level.OK, "open files", "enough for 32,000 proxied connections")


def _forwarding(facts: Facts, wants: Wants) -> Iterator[Finding]:
    """Balancers forward by themselves; the host must forward what passes a next hop besides."""
    value = facts.sysctls.get("net/ipv4/ip_forward")
    if wants.routed and value == "0":
        what = "a frontend is a next hop (`routed`), and what it does not balance is not forwarded"
        yield Finding(Level.WARN, "ip_forward", what, "sudo sysctl -w net.ipv4.ip_forward=1")
    elif (wants.xdp or "kernel" in wants.named) and value == "0":
        what = "the datapath kernel leaves to the host's routing what has no known next hop yet, or XDP cannot send"
        yield Finding(Level.WARN, "ip_forward", what, "sudo sysctl -w net.ipv4.ip_forward=1")
    elif value:
        yield Finding(Level.OK, "ip_forward", f"{value}: not needed, datapaths forward by themselves")


def _interfaces(facts: Facts, wants: Wants) -> Iterator[Finding]:
    known = {interface.name: interface for interface in facts.interfaces}
    for name in sorted(wants.interfaces - known.keys()):
        yield Finding(Level.FAIL, name, f"{wants.source} names it and this host has no such interface", "ip link")
    used = set(wants.interfaces) | {reach.interface for reach in facts.members.values()} - {"", "lo"}
    chosen = [known[name] for name in sorted(used & known.keys())]
    used_ones = chosen or [one for one in facts.interfaces if one.up and one.name != "lo"]
    for interface in used_ones:
        found = [*_interface(interface, wants), *check_xdp(interface, used_ones, facts, wants)]
        yield from found or (_fine(interface),)
    sizes = {interface.mtu: interface.name for interface in chosen}
    if len(sizes) > 1:
        least, most = min(sizes), max(sizes)
        what = f"{sizes[most]} takes {most} bytes and {sizes[least]} only {least}: larger packets are dropped (too_big)"
        yield Finding(Level.WARN, "MTU", what, f"sudo ip link set dev {sizes[least]} mtu {most}")


def _interface(interface: Interface, wants: Wants) -> Iterator[Finding]:
    name = interface.name
    if not interface.up:
        yield Finding(Level.WARN, name, "it is down", f"sudo ip link set dev {name} up")
    if interface.rp_filter == 1:
        what = "strict reverse path filter: packets whose way back is another interface are dropped without a trace"
        mend = f"sudo sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{name}.rp_filter=2"
        yield Finding(Level.WARN, name, what, mend)
    if interface.lro:
        what = "large receive offload joins packets that have to leave again"
        yield Finding(Level.WARN, name, what, f"sudo ethtool -K {name} lro off")
    if interface.bare and name in wants.xdp:
        what = "`attach: xdp`, and XDP cannot read packets without a link header: tc carries its traffic instead"
        yield Finding(Level.WARN, name, what, f"interfaces: {{{name}: {{attach: tc}}}}   # in {wants.source}")


def _fine(interface: Interface) -> Finding:
    return Finding(Level.OK, interface.name, f"up, MTU {interface.mtu}, no filter or offload in the way")


def _members(facts: Facts, wants: Wants) -> Iterator[Finding]:
    for name, address in wants.members:
        reach = facts.members[name]
        version = "-6 " if address.version == 6 else ""
        if reach.error:
            mend = f"sudo ip {version}route add {address}/{address.max_prefixlen} via GATEWAY"
            yield Finding(Level.FAIL, f"member {name}", f"no route to {address}: {reach.error}", mend)
        elif not reach.resolved:
            hop = reach.gateway or str(address)
            what = f"the link address of {hop} on {reach.interface} is not known"
            yield Finding(Level.WARN, f"member {name}", what, f"ping -c 1 {hop}; ip {version}neigh show {hop}")
        else:
            by = "on this host" if reach.local else f"by {reach.interface}"
            yield Finding(Level.OK, f"member {name}", f"{address} {by}")
