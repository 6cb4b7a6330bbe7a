"""Where clients are when no flow tells it: the next hop of the default route, on a host that routes nothing itself.

A member's packet from a rule's port whose flow the core does not know (the process is new, the table was full) is an
answer of the VIP, unless a client reached the member by its own address through this host. Where the host forwards,
that cannot be told, and to translate it would reset such a client: there, the member waits until its client speaks.

Source: ip-sysctl.rst, `forwarding`; rtnetlink(7).
"""

import socket
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from asynclb.net.address import Address

_SETTINGS = "/proc/sys/net/ipv{version}/conf"
_NO_INTERFACES = {"default", "lo"}


def client_gateways() -> Mapping[int, Address]:
    """Return the gateway for each IP version that the host does not forward and has a default route for.

    A gateway with a link-local address is left out: it can be asked for on its link only. Blocks: about 1 ms.
    Raises: OSError -> netlink failed.
    """
    from pyroute2 import IPRoute  # type: ignore[import-untyped]  # pyroute2 ships no types

    found: dict[int, Address] = {}
    with IPRoute() as ip:
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            if _forwards(version):
                continue
            gateway = _default_gateway(ip.get_default_routes(family=family))
            if gateway is not None:
                found[version] = gateway
    return found


def _default_gateway(routes: Iterable[Any]) -> Address | None:
    """Return the gateway of the best route that has one."""
    by_metric = sorted(routes, key=lambda route: route.get_attr("RTA_PRIORITY") or 0)
    gateways = [ip_address(gateway) for route in by_metric if (gateway := route.get_attr("RTA_GATEWAY"))]
    return next((gateway for gateway in gateways if not gateway.is_link_local), None)


def _forwards(version: int) -> bool:
    """Return whether packets that come by any interface are forwarded."""
    try:
        interfaces = sorted(Path(_SETTINGS.format(version=version)).iterdir())
    except OSError:
        return False  # the host has no such version
    return any(_is_on(found / "forwarding") for found in interfaces if found.name not in _NO_INTERFACES)


def _is_on(setting: Path) -> bool:
    try:
        return setting.read_text().strip() != "0"
    except OSError:
        return False  # the interface has gone
