"""What is so on this host. The doctor's I/O is here and in `cables`, and none of its judgement."""

import ctypes
import os
import platform
import resource
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute  # type: ignore[import-untyped]  # it has no annotations
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]  # as above

from asynclb import native
from asynclb.datapath.base import Refusal
from asynclb.datapath.frames.neighbours import BARE
from asynclb.datapath.host import Capability, missing
from asynclb.datapath.kernel import bpffs
from asynclb.datapath.kernel.features import xdp_features
from asynclb.datapath.kernel.host import look_at_host
from asynclb.doctor.cables import Cable, cable_of, has_lro, namespaces, queues
from asynclb.doctor.wants import Wants

_SYSCTL = Path("/proc/sys")
_TELLS_FEATURES = (6, 3)  # Linux, from which on drivers say what they do with XDP
_REACHABLE = {"permanent": 0x80, "noarp": 0x40, "reachable": 0x02, "stale": 0x04, "delay": 0x08, "probe": 0x10}


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface. `rp_filter` is what is in force: the stricter of its own and that of all."""

    name: str
    index: int
    mtu: int
    up: bool
    kind: str = ""
    rp_filter: int = 0
    lro: bool = False
    bare: bool = False
    """Whether its packets have no link header, as in most tunnels."""
    queues: int = 1
    """By which it receives."""
    native: bool | None = None
    """Whether its driver runs XDP; None: the kernel does not say."""
    target: bool | None = None
    """Whether its driver takes frames that XDP sends to it; None: the kernel does not say."""
    cable: Cable | None = None
    """The other end of a veth, if somebody wants XDP and it can be looked at."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How a member is reached: by which interface and next hop, and whether that one's link address is known."""

    interface: str = ""
    gateway: str = ""
    resolved: bool = False
    local: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the checks look at."""

    user: str
    lacking: frozenset[str]
    release: tuple[int, int]
    native: str
    libraries: Mapping[str, str]
    """Library -> why it cannot be loaded, '' if it can."""
    bpffs: bool
    """Whether one is mounted that this user may write to."""
    kernel_refusal: Refusal | None
    descriptors: int
    page_bytes: int = 4096
    sysctls: Mapping[str, str] = field(default_factory=dict)
    interfaces: tuple[Interface, ...] = ()
    members: Mapping[str, Reach] = field(default_factory=dict)


SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv6/conf/all/forwarding",
    "net/core/bpf_jit_enable",
    "kernel/unprivileged_bpf_disabled",
)


def gather(wants: Wants) -> Facts:
    """Look. Blocks for some 100 ms: programs are tried in the kernel."""
    judged = look_at_host()
    major, minor, *_ = platform.release().split(".")
    release = int(major), int("".join(c for c in minor if c.isdecimal()) or 0)
    with IPRoute() as netlink:
        interfaces = tuple(_interfaces(netlink, release, xdp=bool(wants.xdp)))
        members = {name: _reach(netlink, str(address), interfaces) for name, address in wants.members}
    return Facts(
        user=f"uid {os.geteuid()}",
        lacking=frozenset(capability.name for capability in missing(*Capability)),
        release=release,
        native="" if native.available else native.reason,
        libraries={name: _loadable(name) for name in ("libnftables.so.1", "libbpf.so.1")},
        bpffs=bool(bpffs.present()),
        kernel_refusal=judged if isinstance(judged, Refusal) else None,
        descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        page_bytes=resource.getpagesize(),
        sysctls={name: _sysctl(name) for name in SYSCTLS},
        interfaces=interfaces,
        members=members,
    )


def _loadable(name: str) -> str:
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return str(error)
    return ""


def _sysctl(name: str) -> str:
    try:
        return (_SYSCTL / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _interfaces(netlink: Any, release: tuple[int, int], *, xdp: bool) -> Iterator[Interface]:
    """Yield every interface. `xdp`: somebody wants it, so other ends of cables are looked at as well."""
    features = xdp_features() if release >= _TELLS_FEATURES else None
    places = namespaces() if xdp else {}
    common = int(_sysctl("net/ipv4/conf/all/rp_filter") or 0)
    for link in netlink.get_links():
        name, index = link.get_attr("IFLA_IFNAME"), link["index"]
        info = link.get_attr("IFLA_LINKINFO")
        kind = (info.get_attr("IFLA_INFO_KIND") or "") if info is not None else ""
        yield Interface(
            name=name,
            index=index,
            mtu=link.get_attr("IFLA_MTU") or 0,
            up=bool(link["flags"] & 1),
            kind=kind,
            rp_filter=max(common, int(_sysctl(f"net/ipv4/conf/{name}/rp_filter") or 0)),
            lro=has_lro(name),
            bare=link["ifi_type"] in BARE,
            queues=queues(name)[0],
            native=index in features.native if features is not None else None,
            target=index in features.targets if features is not None else None,
            cable=cable_of(link, places) if xdp and kind == "veth" else None,
        )


def _reach(netlink: Any, address: str, interfaces: tuple[Interface, ...]) -> Reach:
    try:
        (route, *_) = netlink.route("get", dst=address)
    except NetlinkError as error:
        return Reach(error=os.strerror(error.code).lower())
    except ValueError as error:
        return Reach(error=str(error))
    names = {interface.index: interface.name for interface in interfaces}
    index = route.get_attr("RTA_OIF")
    gateway = route.get_attr("RTA_GATEWAY") or ""
    if route["type"] == 2:  # RTN_LOCAL
        return Reach(names.get(index, ""), local=True, resolved=True)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    known = netlink.get_neighbours(family=family, dst=gateway or address, ifindex=index)
    resolved = any(entry["state"] & sum(_REACHABLE.values()) for entry in known)
    return Reach(names.get(index, ""), gateway, resolved)
