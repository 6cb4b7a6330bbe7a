"""UDP at millions of frames a second, and what the programs that they meet have run for.

    load (XDP, run on new frames) --> the client's cable --> program at the router --> the member's cable --> sink

Frames of a packet socket cost the sender more than the programs that are measured here; those of BPF_PROG_TEST_RUN
(live frames, Linux 5.18) need no socket. Each processor that sends also carries its frames to their end.
"""

import asyncio
import json
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from kernel_bpf import Map, Program, Runs, processors, tcx_programs

from asynclb.errors import HostError
from asynclb.lab import Host, LabError

SOURCE = "11.0.0.0"
"""The first address that the load comes from."""
PORT = 9
"""The UDP port of the load."""
_CALL_FRAMES = 16_384  # some 10 ms: how late the end of a run may be
_STATE = struct.Struct("=64sIIIIII")  # struct load in kernel_programs.c


async def compile_programs(output: Path, egress: int = 1) -> Path:
    """Compile `kernel_programs.c`; `egress` is where its floor redirects to.

    Raises: HostError -> there is no compiler for BPF.
    """
    source = Path(__file__).with_name("kernel_programs.c")
    words = ("-target", "bpfel-freestanding", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", f"-DEGRESS={egress}", "-c")
    argv = (sys.executable, "-m", "ziglang", "cc", *words, "-o", str(output), str(source))
    child = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
    _, said = await child.communicate()
    if child.returncode:
        raise HostError(f"{source.name} needs a compiler for BPF: `pip install ziglang`\n{said.decode()}")
    return output


async def attach(host: Host, device: str, hook: str, program: Path, section: str) -> None:
    """Put a program of the benchmark on an interface: `xdp`, `xdpgeneric` or `tc`."""
    if hook == "tc":
        await host.check_output("tc", "qdisc", "replace", "dev", device, "clsact")
        words = ("bpf", "direct-action", "object-file", program, "section", section)
        await host.check_output("tc", "filter", "replace", "dev", device, "ingress", "pref", "1", *words)
    else:
        await host.check_output("ip", "link", "set", device, hook, "object", program, "section", section)


async def attached(host: Host, device: str, name: str) -> Program:
    """Open the program of that name on an interface, XDP or tc.

    Raises: LabError -> there is none.
    """
    links = json.loads(await host.check_output("ip", "-json", "-details", "link", "show", "dev", device))
    numbers = [link["xdp"]["prog"]["id"] for link in links if link.get("xdp", {}).get("prog")]
    filters = json.loads(await host.check_output("tc", "-json", "filter", "show", "dev", device, "ingress") or "[]")
    numbers += [each["options"]["prog"]["id"] for each in filters if "prog" in each.get("options", {})]
    with host.entered():
        numbers += tcx_programs(socket.if_nametoindex(device))
    for number in numbers:
        program = Program(number)
        if program.name == name:
            return program
        program.close()
    raise LabError(f"{host}: interface {device} has no program {name}, only numbers {numbers}")


async def link_of(host: Host, device: str) -> tuple[int, bytes]:
    """Return an interface's number and link address."""
    (link,) = json.loads(await host.check_output("ip", "-json", "link", "show", "dev", device))
    return link["ifindex"], bytes.fromhex(link["address"].replace(":", ""))


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of the load came to. Units: `rate` frames a second of wall time that the program was run on."""

    runs: Runs
    rate: float

    @property
    def ns(self) -> float:
        """Nanoseconds of one run of the program."""
        return self.runs.each


class Load:
    """Frames out of a host. Owner: one task; runs do not overlap."""

    def __init__(self, host: Host, program: Program, state: Map) -> None:
        """Prepare: see `start`."""
        self._host, self._program, self._state = host, program, state
        self._frame = b""

    @classmethod
    async def start(cls, host: Host, programs: Path) -> "Load":
        """Load the program; the host's `lo` holds it."""
        await attach(host, "lo", "xdpgeneric", programs, "xdp/load")
        program = await attached(host, "lo", "load_xdp")
        return cls(host, program, program.maps()["load"])

    async def aim(
        self,
        device: str,
        link: bytes,
        destination: str,
        flows: int,
        port: int = PORT,
        first: str = SOURCE,
        *,
        by_chance: bool = False,
    ) -> None:
        """Send by this interface to this link address, destination and port from here on, in so many flows.

        They come from the address `first` and those that follow it: one after the other, or each frame in one
        `by_chance`. Each processor has its share of them.
        """
        ifindex, own = await link_of(self._host, device)
        size = 60 - 14
        head = struct.pack("!BBHHHBBH4x", 0x45, 0, size, 0, 0, 64, 17, 0) + socket.inet_aton(destination)
        self._frame = link + own + b"\x08\x00" + head + struct.pack("!HHHH", 0, port, size - 20, 0) + bytes(18)
        (source,) = struct.unpack("!I", socket.inet_aton(first))
        cpus = sorted(os.sched_getaffinity(0))
        share = -(-flows // len(cpus))
        states = [_STATE.pack(self._frame, ifindex, source, flows, 0, 0, 0)] * processors()
        for number, cpu in enumerate(cpus):
            random = (number + 1) * 2_654_435_769 % 2**32 if by_chance else 0
            first = min(number * share, flows - 1)
            own = max(1, min(share, flows - first))
            states[cpu] = _STATE.pack(self._frame, ifindex, source, own, 0, random, first)
        self._state.write(*states)

    async def run(self, seconds: float, *, frames: int = 0) -> int:
        """Send from every processor for that long, or at least so many frames, and return how many went out."""
        cpus = sorted(os.sched_getaffinity(0))
        share = -(-frames // len(cpus))
        return sum(await asyncio.gather(*(asyncio.to_thread(self._send, cpu, seconds, share) for cpu in cpus)))

    def _send(self, cpu: int, seconds: float, frames: int) -> int:
        """Send from one processor. The thread stays on it only as long as this lasts."""
        before, sent, end = os.sched_getaffinity(0), 0, time.monotonic() + seconds
        os.sched_setaffinity(0, {cpu})
        try:
            with self._host.entered():
                while sent < frames or time.monotonic() < end:
                    count = min(_CALL_FRAMES, frames - sent) if sent < frames else _CALL_FRAMES
                    self._program.send(self._frame, count)
                    sent += count
        finally:
            os.sched_setaffinity(0, before)
        return sent

    def burst(self, frames: int) -> None:
        """Send so many frames from the processor of this thread, now."""
        with self._host.entered():
            self._program.send(self._frame, frames)
