"""wrk as a load generator of a lab: what it was told to do, and what it says it saw."""

import re
from dataclasses import dataclass

from asynclb.lab.host import Host
from asynclb.lab.namespace import LabError
from asynclb.lab.process import Process


@dataclass(frozen=True, slots=True)
class WrkResult:
    """The figures that wrk prints at its end. `errors` by kind: connect, read, write, timeout, status."""

    requests: int
    requests_per_s: float
    errors: dict[str, int]


async def start_wrk(host: Host, url: str, *, connections: int, duration_s: float) -> Process:
    """Start wrk on the host with kept-alive connections, for the duration or until SIGINT."""
    words = ("--threads", "1", "--connections", str(connections), "--timeout", "5s")
    return await host.run("wrk", *words, "--duration", f"{duration_s:.0f}s", url)


def parse_wrk(text: str) -> WrkResult:
    """Read wrk's summary.

    Raises: LabError -> there is none; wrk ended early.
    """
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    count = re.search(r"(\d+) requests in", text)
    if rate is None or count is None:
        raise LabError(f"wrk printed no summary:\n{text}")
    errors = dict.fromkeys(("connect", "read", "write", "timeout", "status"), 0)
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    if sockets is not None:
        errors |= zip(("connect", "read", "write", "timeout"), map(int, sockets.groups()), strict=True)
    status = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    if status is not None:
        errors["status"] = int(status.group(1))
    return WrkResult(int(count.group(1)), float(rate.group(1)), errors)


async def open_ports(host: Host, program: str, address: str) -> list[int]:
    """Return the local ports of a program's established connections to the address."""
    output = await host.check_output("ss", "-Htnp", "state", "established", "dst", address)
    lines = [line for line in output.splitlines() if f'(("{program}"' in line]
    return [int(line.split()[2].rpartition(":")[2]) for line in lines]
