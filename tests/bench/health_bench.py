"""What it costs to keep 5,000 members checked every 5 s: the share of one core that the prober takes.

    python tests/bench/health_bench.py [--seconds 15] [--targets 5000] [kind ...]

Members are addresses of 127.0.0.0/8 with a few listening ports in a child process, so the figures hold the kernel's
work for our side of each connection, but not the members'. All kinds are measured in one run, one after the other.
"""

import argparse
import asyncio
import gc
import multiprocessing
import random
import ssl
import subprocess
import tempfile
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import uvloop

from asynclb.health import HttpProbe, OutcomeKind, Prober, Target, TcpProbe, Transition, UdpProbe
from asynclb.health.record import KINDS as OUTCOMES
from asynclb.model import HealthState, Probe, ProbeProtocol

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
KINDS = {
    ProbeProtocol.TCP: TcpProbe(),
    ProbeProtocol.HTTP: HttpProbe(),
    ProbeProtocol.HTTPS: HttpProbe(),
    ProbeProtocol.UDP: UdpProbe(),
}


class Web(asyncio.Protocol):
    """Answers any request with 200, and closes after the client has."""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport (uvloop's are not asyncio.Transport)."""
        self.transport = transport

    def data_received(self, _: bytes) -> None:
        """Answer and close."""
        self.transport.write(ANSWER)
        self.transport.close()


class Echo(asyncio.DatagramProtocol):
    """Sends every datagram back."""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer."""
        self.transport.sendto(data, addr)


def certificate(folder: str) -> ssl.SSLContext:
    """Make a self-signed certificate that lives as long as the benchmark."""
    key, cert = Path(folder) / "key.pem", Path(folder) / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=member"
    subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return context


async def serve(ports: "multiprocessing.Queue[dict[str, int]]") -> None:
    """Listen for every kind until killed.

    UDP members are one address: answers from a wildcard socket would come from the wrong one.
    """
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder:
        web = await loop.create_server(Web, "0.0.0.0", 0, backlog=4096)
        tls = await loop.create_server(Web, "0.0.0.0", 0, backlog=4096, ssl=certificate(folder))
    udp, _ = await loop.create_datagram_endpoint(Echo, ("127.0.0.1", 0))
    plain = web.sockets[0].getsockname()[1]
    ports.put(
        {
            "tcp": plain,
            "http": plain,
            "https": tls.sockets[0].getsockname()[1],
            "udp": udp.get_extra_info("sockname")[1],
        }
    )
    await asyncio.Event().wait()


def members(ports: "multiprocessing.Queue[dict[str, int]]") -> None:
    """Run the members' process."""
    uvloop.run(serve(ports))


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    kind: str
    targets: int
    checks: int
    core_percent: float
    us_a_check: float
    up: int
    longest_block_ms: float
    failures: int


async def measure(kind: ProbeProtocol, port: int, count: int, interval_s: float, seconds: float) -> Row:
    """Run a prober until it is in step, then measure the CPU time of this process."""
    probe = Probe("bench", kind, port, interval_s=interval_s, timeout_s=2.0, max_in_flight=512, send=b"ping")
    address = 0x7F000001 if kind is ProbeProtocol.UDP else 0x7F010001
    step = 0 if kind is ProbeProtocol.UDP else 1
    targets = [Target(("pool", f"member-{i}", "bench"), IPv4Address(address + i * step), probe) for i in range(count)]
    transitions: list[Transition] = []
    prober = Prober(KINDS, transitions.extend, lambda *_, **__: None, chance=random.Random(1).random)
    prober.set_targets(targets)
    running = asyncio.create_task(prober.run())
    await asyncio.sleep(3.0)  # the first checks come within a second; here they are over
    gc.collect()
    checks, cpu_s, started_s, longest_s = total(prober), time.process_time(), time.perf_counter(), 0.0
    while (now_s := time.perf_counter()) < started_s + seconds:
        await asyncio.sleep(0.01)
        longest_s = max(longest_s, time.perf_counter() - now_s - 0.01)
    cpu_s, wall_s, checks = time.process_time() - cpu_s, time.perf_counter() - started_s, total(prober) - checks
    up = sum(health.state is HealthState.UP for health in prober.snapshot().targets.values())
    failures = sum(
        sum(counts) - counts[OUTCOMES.index(OutcomeKind.SUCCESS)] for counts in prober.results().targets.values()
    )
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return Row(kind, count, checks, 100 * cpu_s / wall_s, 1e6 * cpu_s / checks, up, 1e3 * longest_s, failures)


def total(prober: Prober) -> int:
    """Count the checks that are over."""
    return sum(sum(counts) for counts in prober.results().targets.values())


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("kinds", nargs="*", default=["tcp", "http", "udp"], help="tcp http https udp")
    arguments.add_argument("--seconds", type=float, default=15.0)
    arguments.add_argument("--targets", type=int, default=5000)
    arguments.add_argument("--interval", type=float, default=5.0)
    options = arguments.parse_args()
    context = multiprocessing.get_context("spawn")
    ports: multiprocessing.Queue[dict[str, int]] = context.Queue()
    child = context.Process(target=members, args=(ports,), daemon=True)
    child.start()
    port = ports.get(timeout=10)
    print("probe   targets  checks/s  % of core  us/check     up  not ok   loop held")
    try:
        for kind in options.kinds:
            row = uvloop.run(
                measure(ProbeProtocol(kind), port[kind], options.targets, options.interval, options.seconds)
            )
            rate = row.checks / options.seconds
            print(
                f"{row.kind:6} {row.targets:8} {rate:9.0f} {row.core_percent:10.1f} {row.us_a_check:9.0f} "
                f"{row.up:6} {row.failures:7} {row.longest_block_ms:7.1f} ms",
                flush=True,
            )
    finally:
        child.terminate()
        child.join()


if __name__ == "__main__":
    main()
