"""A host of a lab: addresses, routes, sockets and programs inside one network namespace."""

import asyncio
import itertools
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from asynclb.lab import namespace as ns
from asynclb.lab.namespace import LabError
from asynclb.lab.nginx import Nginx, nginx_config
from asynclb.lab.process import PATIENCE_S, Process, wait_until
from asynclb.lab.tools import require_tools

_OFFLOADS = ("rx", "tx", "sg", "tso", "gso", "gro")


class Host:
    """One machine of a lab. Owner: the lab; `plan` holds the `ip` commands that `up` will carry out."""

    def __init__(self, name: str, namespace: str, directory: Path, processes: list[Process]) -> None:
        self.name = name
        self.namespace = namespace
        self.directory = directory
        self.plan = ["link set dev lo up"]
        self._sysctls: dict[str, str | int] = {}
        self._processes = processes
        self._runs = itertools.count(1)
        self._devices: list[str] = []
        self._waiting: list[str] = []

    # What the host is made of: noted here, carried out by `Lab.up`.

    def device(self, name: str, addresses: str = "") -> None:
        """Declare an interface that a link or switch puts into this host, with its addresses."""
        self._devices.append(name)
        self.plan.append(f"link set dev {name} up")
        for address in addresses.split():
            self.address(name, address)

    def address(self, device: str, address: str) -> None:
        """Declare one more address, with its prefix length; it is usable at once (no duplicate address detection)."""
        self.plan.append(f"addr add {address} dev {device}{' nodad' if ':' in address else ''}")

    def route(self, destination: str, *, via: str | None = None, dev: str | None = None) -> None:
        """Declare a route; the family of `default` is that of `via`."""
        if destination == "default" and ":" in (via or ""):
            destination = "::/0"
        hops = "".join(f" {word} {value}" for word, value in (("via", via), ("dev", dev)) if value)
        self.plan.append(f"route add {destination}{hops}")

    def sysctl(self, key: str, value: str | int) -> None:
        """Declare a sysctl of the namespace, as in `net.ipv4.conf.front.rp_filter`."""
        self._sysctls[key] = value

    async def up(self, *, offload: bool = True) -> None:
        """Carry out what was declared. Called by the lab."""
        plan, self.plan = self.plan, []
        sysctls, self._sysctls = self._sysctls, {}
        self._waiting, self._devices = self._devices, []
        await asyncio.to_thread(ns.ip_batch, plan, namespace=self.namespace)
        ns.write_sysctls(self.namespace, sysctls)
        if not offload:
            await self.turn_off_offloads(*self._waiting)

    async def wait_for_links(self) -> None:
        """Return once frames pass the interfaces of the last `up`. Called by the lab when all hosts are up."""
        for device in self._waiting:
            what = f"{self.name}: interface {device} is running"
            await wait_until(partial(ns.interface_runs, self.namespace, device), what)

    async def turn_off_offloads(self, *devices: str) -> None:
        """Make interfaces send plain frames with complete checksums, as a real card puts them on a wire."""
        switches = [word for offload in _OFFLOADS for word in (offload, "off")]
        for device in devices:
            await self.check_output("ethtool", "-K", device, *switches)

    # Sockets of this process inside the host.

    def entered(self) -> AbstractContextManager[None]:
        """Put the calling thread into the host until the block ends. The block must not await."""
        return ns.entered(self.namespace)

    def open_socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        """Return a new socket that lives in the host, wherever it is used from. Fits aiohttp's `socket_factory`."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    async def connect(
        self, address: str, port: int, *, source: tuple[str, int] | None = None, timeout_s: float = PATIENCE_S
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a TCP connection from the host.

        Raises: OSError -> refused or unreachable; TimeoutError -> no answer within `timeout_s`.
        """
        sock = self.open_socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            sock.setblocking(False)
            if source is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(source)
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
                return await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise

    @asynccontextmanager
    async def connection(
        self, address: str, port: int, *, source: tuple[str, int] | None = None
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open a TCP connection from the host for the length of a block."""
        reader, writer = await self.connect(address, port, source=source)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(OSError):  # the other end had reset it, which the block saw when it read
                await writer.wait_closed()

    def udp(self, address: str, port: int, *, source: tuple[str, int] | None = None) -> socket.socket:
        """Return a connected, non-blocking UDP socket of the host, for `send` and `loop.sock_recv`."""
        sock = self.open_socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        if source is not None:
            sock.bind(source)
        sock.connect((address, port))
        return sock

    # Programs inside the host.

    def write(self, name: str, text: str) -> Path:
        """Write a file into the lab's directory and return its path; it goes when the lab goes."""
        path = self.directory / f"{self.name}-{name}"
        path.write_text(text)
        return path

    async def run(self, *argv: str | Path, name: str | None = None, env: Mapping[str, str] | None = None) -> Process:
        """Start a program and return at once; it is killed when the lab ends."""
        words = tuple(str(word) for word in argv)
        name = f"{self.name}-{name or Path(words[0]).name}"
        files = self.directory / f"{name}-{next(self._runs)}"
        process = await Process.start(self.namespace, name, words, files, env)
        self._processes.append(process)
        return process

    async def check_output(self, *argv: str | Path, timeout_s: float = PATIENCE_S) -> str:
        """Run a program to its end and return what it wrote to standard output.

        Raises: LabError -> its exit code is not 0, or it did not end in time.
        """
        process = await self.run(*argv)
        try:
            if await process.wait(timeout_s=timeout_s) != 0:
                raise LabError(f"{process}: exit code {process.returncode}\n{process.tail()}")
        finally:
            await process.kill()
            self._processes.remove(process)
        return process.stdout

    async def wait_listening(self, process: Process, port: int, protocol: str = "tcp") -> None:
        """Return once a socket of the host listens on the port; the server sees no trial connection.

        Raises: LabError -> the process ended, or did not listen in time.
        """
        await process.ready(lambda: ns.listening(self.namespace, protocol, port), f"listens on {protocol} {port}")

    # Real servers, ready when the call returns.

    async def nginx(
        self, port: int = 8080, *, body: str | None = None, files: Mapping[str, bytes] | None = None
    ) -> Nginx:
        """Start nginx: `/` answers `body` (the host's name), `/healthz` answers 200, `files` are served from disk.

        Every answer carries `X-Member: <host>`; the access log shows the address and port of each client.
        """
        require_tools("nginx")
        root = self.directory / f"{self.name}-nginx-{port}"
        root.mkdir(exist_ok=True)
        for path, content in (files or {}).items():
            (root / path.strip("/")).write_bytes(content)
        config = self.write(f"nginx-{port}.conf", nginx_config(root, self.name, port, body or f"{self.name}\n"))
        process = await self.run("nginx", "-c", config, "-e", "stderr")
        await self.wait_listening(process, port)
        return Nginx(self.name, process, root / "access.log")

    async def tcp_server(self, port: int, behaviour: str = "echo") -> Process:
        """Start a TCP server; see `servers` for the behaviours: echo, whoami, silent, reset, flood."""
        return await self._server("tcp", port, behaviour)

    async def udp_server(self, port: int, behaviour: str = "echo") -> Process:
        """Start a UDP server; see `servers` for the behaviours: echo, whoami, silent."""
        return await self._server("udp", port, behaviour)

    async def _server(self, protocol: str, port: int, behaviour: str) -> Process:
        # -I -S: nothing but the standard library, whatever is installed or set in the environment.
        script = Path(__file__).with_name("servers.py")
        words = (sys.executable, "-I", "-S", script, protocol, str(port), behaviour, self.name)
        process = await self.run(*words, name=f"{protocol}-{behaviour}-{port}")
        await self.wait_listening(process, port, protocol)
        return process

    async def asynclb(self, *words: str | Path) -> Process:
        """Start asynclb, with the interpreter and the code that run now."""
        code = Path(__file__).parents[2]
        env = os.environ | {"PYTHONPATH": str(code)}
        return await self.run(sys.executable, "-m", "asynclb", *words, name="asynclb", env=env)

    @asynccontextmanager
    async def balancer(self, config: str) -> AsyncIterator[Process]:
        """Run `asynclb run` for the length of a block, which begins when it executes the configuration.

        Raises: LabError -> it does not start; it does not stop in order after the block, or leaves something behind.
        """
        process = await self.asynclb("run", self.write("asynclb.yaml", config))
        await process.wait_for_log('"event": "started"')
        yield process
        code = await process.stop()
        left = (await self.check_output("nft", "list", "tables")).strip()
        if code != 0 or left:
            raise LabError(f"{process}: exit code {code}; left behind: {left or 'nothing'}\n{process.tail()}")

    async def iperf3(self, port: int = 5201) -> Process:
        """Start an iperf3 server."""
        require_tools("iperf3")
        process = await self.run("iperf3", "--server", "--port", str(port))
        await self.wait_listening(process, port)
        return process

    def __str__(self) -> str:
        return self.name
