"""Real servers that sources of members ask: Debian's dnsmasq and etcd, as child processes on the loopback."""

import asyncio
import base64
import json
import os
import shutil
import signal
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from asynclb.lab import PATIENCE_S
from asynclb.model import AdminTls
from tests.ports import free_port


def need(program: str) -> None:
    """Skip the test where a program is not installed, with the command that mends it."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: .ci/setup test")


async def answering(port: int) -> None:
    """Wait until somebody accepts connections on a port of the loopback."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return


@dataclass
class Child:
    """A server as a child process that can be killed and started again."""

    words: list[str]
    port: int
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it answers."""
        quiet = asyncio.subprocess.DEVNULL
        self.process = await asyncio.create_subprocess_exec(*self.words, stdout=quiet, stderr=quiet, stdin=quiet)
        await answering(self.port)

    async def kill(self) -> None:
        """Kill it, if it runs."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)


@dataclass
class NameServer:
    """A dnsmasq that is the authority for `test.` and knows nothing else; answers hold for a second."""

    hosts: Path
    child: Child

    @property
    def server(self) -> tuple[str, int]:
        """The address and port to ask."""
        return "127.0.0.1", self.child.port

    def say(self, hosts: Iterable[tuple[str, str]]) -> None:
        """Have these (address, name) from now on."""
        self.hosts.write_text("".join(f"{address} {name}\n" for address, name in hosts))
        if self.child.process is not None and self.child.process.returncode is None:
            self.child.tell(signal.SIGHUP)


@asynccontextmanager
async def name_server(directory: Path, *options: str) -> AsyncIterator[NameServer]:
    """Run a name server that reads its addresses from a file in the directory."""
    need("dnsmasq")
    port, hosts = free_port(), directory / "hosts"
    hosts.touch()
    words = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="]
    words += [f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", f"--addn-hosts={hosts}"]
    words += ["--local=/test/", "--local-ttl=1", *options]
    words += ["--user=root"] if os.geteuid() == 0 else []
    server = NameServer(hosts, Child(words, port))
    await server.child.start()
    try:
        yield server
    finally:
        await server.child.kill()


@dataclass
class Etcd:
    """An etcd of one member; `put` and `delete` are other programs writing to it."""

    child: Child
    tls: ssl.SSLContext | None = None

    @property
    def endpoint(self) -> str:
        """Where it is asked."""
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.child.port}"

    async def ask(self, path: str, question: Any) -> Any:
        """Send a question to the gateway."""
        async with (
            aiohttp.ClientSession(self.endpoint) as session,
            session.post(f"/v3/{path}", json=question, ssl=self.tls or True) as response,
        ):
            document = json.loads(await response.read())
            assert response.status == 200, document
            return document

    async def put(self, key: str, value: Any) -> None:
        """Write a member, or any text."""
        text = value if isinstance(value, str) else json.dumps(value)
        await self.ask("kv/put", {"key": encoded(key), "value": encoded(text)})

    async def delete(self, key: str) -> None:
        """Remove a key."""
        await self.ask("kv/deleterange", {"key": encoded(key)})

    async def compact(self) -> None:
        """Forget every revision but the last."""
        found = await self.ask("kv/range", {"key": encoded("x")})
        await self.ask("kv/compaction", {"revision": found["header"]["revision"], "physical": True})


def encoded(text: str) -> str:
    """Return text as the gateway wants it."""
    return base64.b64encode(text.encode()).decode()


@asynccontextmanager
async def etcd(directory: Path, certificate: AdminTls | None = None) -> AsyncIterator[Etcd]:
    """Run an etcd whose data is in the directory; it can be killed and started again.

    With a certificate, which is its own authority, it speaks TLS and wants the same from its clients.
    """
    need("etcd")
    port, peer = free_port(), free_port()
    scheme = "http" if certificate is None else "https"
    client, peers = f"{scheme}://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    words = ["etcd", "--name=one", f"--data-dir={directory / 'etcd'}", f"--initial-cluster=one={peers}"]
    words += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
    words += [f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}"]
    context = None
    if certificate is not None:
        words += [f"--cert-file={certificate.certificate_file}", f"--key-file={certificate.key_file}"]
        words += [f"--trusted-ca-file={certificate.certificate_file}", "--client-cert-auth"]
        context = ssl.create_default_context(cafile=certificate.certificate_file)
        context.load_cert_chain(certificate.certificate_file, certificate.key_file)
    server = Etcd(Child(words, port), context)
    await server.child.start()
    try:
        yield server
    finally:
        await server.child.kill()
