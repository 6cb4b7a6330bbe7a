"""What every datapath asks of its host: which capabilities this process has, and the network namespace for itself."""

import errno
import socket
from enum import IntEnum
from pathlib import Path

from asynclb.errors import HostError


class Capability(IntEnum):
    """The capabilities that datapaths need. Source: linux/capability.h, capabilities(7)."""

    CAP_NET_BIND_SERVICE = 10
    """Ports below 1024."""
    CAP_NET_ADMIN = 12
    """Routes, packet filters, transparent sockets."""
    CAP_NET_RAW = 13
    """Packet sockets."""
    CAP_SYS_ADMIN = 21
    """File systems; in the kernel's eyes it includes CAP_BPF."""
    CAP_PERFMON = 38
    """Programs that add variables to pointers."""
    CAP_BPF = 39
    """Programs and maps in the kernel."""


def missing(*wanted: Capability) -> tuple[Capability, ...]:
    """Return which of the wanted capabilities are not in effect."""
    status = Path("/proc/thread-self/status").read_text(encoding="ascii")
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    held = int(effective.split()[1], 16)
    return tuple(capability for capability in wanted if not held >> capability & 1)


def take_namespace(datapath: str) -> socket.socket:
    """Hold this network namespace for one instance's datapath, until the socket is closed or the process ends.

    An abstract UNIX address belongs to the network namespace and vanishes with its holder, also after kill -9.
    Raises: HostError -> another instance holds it.
    """
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(f"\0asynclb/{datapath}")
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        message = (
            f"another asynclb uses the datapath `{datapath}` in this network namespace; stop it "
            f"(`ss -xlp | grep asynclb/{datapath}` shows the process), or give this one a namespace of its own"
        )
        raise HostError(message) from error
    return lock
