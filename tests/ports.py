"""Ports of the loopback for tests: each is given once, to one test of all that run on this machine at the time.

A port that was bound and closed again may be taken before the test uses it: by a connection, whose port is the
kernel's choice, or by another test that asks meanwhile. So these are below the range that the kernel chooses from, and
each is claimed with an abstract UNIX socket, which ends with the process however that ends.
"""

import socket
from collections.abc import Iterator

_RANGE = range(12_000, 32_000)  # the kernel's own begins at 32,768. Source: ip-sysctl.rst, ip_local_port_range


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses, by TCP or UDP, and that nobody else is given."""
    return next(_PORTS)


def _claimed() -> Iterator[int]:
    """Yield free ports, and keep a claim on each."""
    claims = []
    for port in _RANGE:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0asynclb-tests-port-{port}")
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET, kind) as sock:
                    sock.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        claims.append(claim)
        yield port


_PORTS = _claimed()
