"""The other ends of veths, wherever they are: in this network namespace, in a named one, or in a container's.

What they offload and how long their frames may be decides what XDP can do at this end, and cannot be seen from here.
So namespaces are looked for by what keeps them (a name, a process), and entered to look.

Source: veth(4); net_namespace.c for RTM_GETNSID; linux/ethtool.h.
"""

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute  # type: ignore[import-untyped]  # it has no annotations

from asynclb.datapath.frames.netlink import asked, attribute, attributes, open_netlink
from asynclb.lab.namespace import NETNS_DIRECTORY, entered

_SIOCETHTOOL = 0x8946
_GET_FLAGS, _GET_TX_CHECKSUMS, _GET_GRO, _GET_CHANNELS = 0x25, 0x16, 0x2B, 0x3C
_LRO = 1 << 15
_CHANNELS = struct.Struct("=9I")
_GET_NSID, _NSID, _NSID_FD = 90, 1, 3
_PLACES = ((NETNS_DIRECTORY, "*"), (Path("/run/docker/netns"), "*"), (Path("/proc"), "[0-9]*/ns/net"))


@dataclass(frozen=True, slots=True)
class Cable:
    """The other end of a veth.

    `namespace` is a file by which its network namespace can be entered, '' for the one that was looked at from.
    `queues` are those that it sends by.
    """

    namespace: str
    name: str
    mtu: int
    queues: int
    gro: bool
    tx_checksums: bool
    """Whether it leaves checksums to the device."""


def cable_of(link: Any, places: Mapping[int, str]) -> Cable | None:
    """Return the other end of a veth, or None where it cannot be looked at. `places` are those of `namespaces`."""
    index, nsid = link.get_attr("IFLA_LINK"), link.get_attr("IFLA_LINK_NETNSID")
    place = "" if nsid is None else places.get(nsid)
    if place is None or not index:
        return None
    with ExitStack() as stack:
        try:
            if place:
                stack.enter_context(entered(place))
            found = next(iter(stack.enter_context(IPRoute()).get_links(index)))
        except (OSError, StopIteration):
            return None
        name = found.get_attr("IFLA_IFNAME")
        return Cable(
            namespace=place,
            name=name,
            mtu=found.get_attr("IFLA_MTU") or 0,
            queues=queues(name)[1],
            gro=bool(_asked_device(name, _GET_GRO)),
            tx_checksums=bool(_asked_device(name, _GET_TX_CHECKSUMS)),
        )


def namespaces() -> dict[int, str]:
    """Return a file for each other network namespace that this one has a number for, by that number."""
    found: dict[int, str] = {}
    with open_netlink() as sock:
        for path in _files():
            with suppress(OSError):  # its process has ended, or is not ours to look at
                number = _number(sock, path)
                if number >= 0:
                    found.setdefault(number, str(path))
    return found


def has_lro(name: str) -> bool:
    """Return whether an interface joins segments in hardware. Source: ethtool(8)."""
    return bool(_asked_device(name, _GET_FLAGS) & _LRO)


def queues(name: str) -> tuple[int, int]:
    """Return how many queues an interface receives and sends by; one where it does not say."""
    answer = _ethtool(name, _CHANNELS.pack(_GET_CHANNELS, *[0] * 8))
    if answer is None:
        return 1, 1
    _, *_, receive, send, _other, both = _CHANNELS.unpack(answer)
    return max(1, receive + both), max(1, send + both)


def _files() -> Iterator[Path]:
    """Yield a file for each network namespace that is kept by a name or a process, names first."""
    seen: set[int] = set()
    for path in chain.from_iterable(place.glob(pattern) for place, pattern in _PLACES):
        with suppress(OSError):
            inode = path.stat().st_ino
            if inode not in seen:
                seen.add(inode)
                yield path


def _number(sock: socket.socket, path: Path) -> int:
    """Return the number that this namespace has for another one, or -1. Raises: OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        answer = asked(sock, _GET_NSID, bytes(4) + attribute(_NSID_FD, struct.pack("=I", fd)))
    finally:
        os.close(fd)
    found = attributes(answer[4:]).get(_NSID) if answer is not None else None
    return int.from_bytes(found, "little", signed=True) if found is not None else -1


def _asked_device(name: str, command: int) -> int:
    """Return a device's answer of one number; 0 where it has none."""
    answer = _ethtool(name, struct.pack("=II", command, 0))
    return int(struct.unpack("=II", answer)[1]) if answer is not None else 0


def _ethtool(name: str, question: bytes) -> bytes | None:
    """Return what a device of the calling thread's network namespace makes of a question, or None if it refuses."""
    value = bytearray(question)
    buffer = (ctypes.c_char * len(value)).from_buffer(value)
    request = struct.pack("16sP16x", name.encode()[:15], ctypes.addressof(buffer))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
        except OSError:
            return None
    return bytes(value)
