"""A lab: hosts, links and routes as network namespaces of its own, declared in a few lines.

    async with Lab("web") as lab:
        lb, client, member = lab.host("lb", forwarding=True), lab.host("client"), lab.host("member")
        lab.link(client, "10.0.1.10/24", lb, "10.0.1.1/24")
        lab.switch("back", {lb: "10.0.2.1/24 2001:db8:2::1/64", member: "10.0.2.11/24"})
        client.route("default", via="10.0.1.1")
        await lab.up()

Laws:
  1. Nothing of the host is touched: both ends of every link are created inside namespaces, sysctls are set inside.
  2. Labs share nothing, so any number of them use the same addresses side by side.
  3. Declarations only take note; `up` carries out what was noted since the last one, and may be called again.
  4. Whatever becomes of the owner, nothing stays behind: see `registry`.

An interface is called after the host or switch at its other end.
"""

import asyncio
import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from asynclb.lab import registry
from asynclb.lab.host import Host
from asynclb.lab.namespace import LabError, create_namespaces, ip_batch, write_sysctls
from asynclb.lab.process import Process
from asynclb.lab.tools import require_root, require_tools

_BASE_SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": 0,  # distributions differ; a lab must not
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv6.conf.all.accept_dad": 0,  # an address is usable at once instead of after a second
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.default.router_solicitations": 0,
}
_FORWARDING_SYSCTLS = {
    "net.ipv4.ip_forward": 1,
    "net.ipv6.conf.all.forwarding": 1,
    "net.ipv6.conf.default.forwarding": 1,
    "net.ipv4.conf.all.send_redirects": 0,
}
_SWITCH_SYSCTLS = {"net.ipv6.conf.all.disable_ipv6": 1, "net.ipv6.conf.default.disable_ipv6": 1}
_FIRST_INDEX = 101  # well above what the kernel gives to interfaces that it makes itself
_QUEUES = min(os.cpu_count() or 1, 8)  # XDP redirects between interfaces need a queue for every processor
_MAX_DEVICE_NAME = 15  # IFNAMSIZ less the final zero, <linux/if.h>


@dataclass(slots=True)
class _Plan:
    """What was declared and is not carried out yet. Owner: the lab."""

    namespaces: dict[str, Mapping[str, int]] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)


class Lab:
    """A set of hosts. Owner: the task that entered it."""

    def __init__(self, title: str = "lab", *, offload: bool = True, keep_files: bool = False) -> None:
        """Prepare a lab. `offload=False` turns off checksum and segmentation offloads of every interface."""
        self.title = title
        self.hosts: dict[str, Host] = {}
        self.processes: list[Process] = []
        self._offload = offload
        self._keep_files = keep_files
        self._entry: registry.Entry | None = None
        self._plan = _Plan()
        self._indices = itertools.count(_FIRST_INDEX)

    async def __aenter__(self) -> Self:
        """Clear up after dead labs and register this one.

        Raises: HostError -> not root, or a program is missing.
        """
        require_root("network namespaces")
        require_tools("ip", "setpriv", *([] if self._offload else ["ethtool"]))
        await asyncio.to_thread(registry.sweep)
        self._entry = registry.claim(self.title)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what runs, delete the namespaces, drop the files; an error on its way out gets the programs' output."""
        if error is not None:
            for process in self.processes:
                error.add_note(f"[lab] {process} (returncode {process.returncode})\n{process.tail()}")
        try:
            await asyncio.gather(*(process.kill() for process in self.processes))
        finally:
            self.entry.remove(keep_files=self._keep_files)
            self._entry = None

    @property
    def entry(self) -> registry.Entry:
        """The lab's place in the register, with the directory of its files."""
        if self._entry is None:
            raise LabError(f"lab {self.title}: not entered; use `async with`")
        return self._entry

    def host(self, name: str, *, forwarding: bool = False) -> Host:
        """Declare a host; `forwarding` makes it a router for IPv4 and IPv6."""
        return self._add_host(name, _BASE_SYSCTLS | (_FORWARDING_SYSCTLS if forwarding else {}))

    def link(self, a: Host, a_addresses: str, b: Host, b_addresses: str, *, mtu: int = 1500) -> None:
        """Declare a cable (veth) between two hosts. Addresses are separated by spaces, each with its prefix length."""
        self._cable(a.namespace, b.name, b.namespace, a.name, mtu)
        a.device(b.name, a_addresses)
        b.device(a.name, b_addresses)

    def switch(self, name: str, ports: Mapping[Host, str], *, mtu: int = 1500) -> None:
        """Declare a switch (a bridge in a namespace of its own) with a port for each host and its addresses there."""
        switch = self._add_host(name, _BASE_SYSCTLS | _SWITCH_SYSCTLS)
        switch.plan.append(f"link add name bridge mtu {mtu} type bridge mcast_snooping 0")
        switch.plan.append("link set dev bridge up")
        for host, addresses in ports.items():
            self._cable(host.namespace, name, switch.namespace, host.name, mtu)
            host.device(name, addresses)
            switch.device(host.name)
            switch.plan.append(f"link set dev {host.name} master bridge")

    async def up(self) -> None:
        """Carry out everything that was declared and is not there yet.

        Raises: LabError -> a command was refused; the text names it. Cost: 30 ms for the standard topology.
        """
        plan, self._plan = self._plan, _Plan()
        await asyncio.to_thread(self._create, plan)
        await asyncio.gather(*(host.up(offload=self._offload) for host in self.hosts.values()))
        for host in self.hosts.values():
            await host.wait_for_links()

    def _create(self, plan: _Plan) -> None:
        create_namespaces(plan.namespaces, hold_fd=self.entry.lock_fd)
        for namespace, sysctls in plan.namespaces.items():
            write_sysctls(namespace, sysctls)
        ip_batch(plan.links)

    def _add_host(self, name: str, sysctls: Mapping[str, int]) -> Host:
        if name in self.hosts:
            raise LabError(f"lab {self.title}: there is a host or switch {name!r} already")
        if not name.isidentifier() and not name.replace("-", "").isalnum():
            raise LabError(f"lab {self.title}: {name!r}: a name has letters, digits and hyphens only")
        if len(name) > _MAX_DEVICE_NAME:
            raise LabError(f"lab {self.title}: {name!r}: interfaces are named after it, so at most 15 characters")
        host = Host(name, f"{self.entry.name}-{name}", self.entry.directory, self.processes)
        self._plan.namespaces[host.namespace] = sysctls
        self.hosts[name] = host
        return host

    def _cable(self, a_namespace: str, a_device: str, b_namespace: str, b_device: str, mtu: int) -> None:
        # Each end gets an index of its own: the kernel takes a veth whose ends have the same index for a plain card
        # and waits up to a second before it believes in its carrier (linkwatch_urgent_event, net/core/link_watch.c)
        a_index, b_index = next(self._indices), next(self._indices)
        common = f"mtu {mtu} numtxqueues {_QUEUES} numrxqueues {_QUEUES}"
        self._plan.links.append(
            f"link add name {a_device} index {a_index} netns {a_namespace} {common} type veth "
            f"peer name {b_device} index {b_index} netns {b_namespace} {common}"
        )
