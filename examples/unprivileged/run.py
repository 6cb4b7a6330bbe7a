"""Run the unprivileged example on the loopback: `python examples/unprivileged/run.py`. Exit code 0 if all is as said.

Members are servers of this process on 127.0.0.11 to 127.0.0.13; the balancer is a real `asynclb run`, as any user.
"""

import asyncio
import os
import struct
import sys
import tempfile
from collections import Counter
from ipaddress import IPv4Address
from pathlib import Path
from typing import IO

from asynclb.admin.client import AdminClient
from asynclb.errors import HostError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VIP, PORT, MEMBER_PORT = "127.0.0.10", 8080, 8081
MEMBERS = {"app-1": "127.0.0.11", "app-2": "127.0.0.12", "app-3": "127.0.0.13"}
CLIENTS = ("127.0.1.1", "127.0.1.2")
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # PROXY protocol version 2, section 2.2


async def serve(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one connection with the member's name and the client's address, as the PROXY header says it."""
    try:
        head = await reader.readexactly(16)
        assert head.startswith(_SIGNATURE)
        addresses = await reader.readexactly(struct.unpack("!H", head[14:])[0])
        writer.write(f"{name} {IPv4Address(addresses[:4])}\n".encode())
    except asyncio.IncompleteReadError:
        pass  # a probe: it connects and says nothing
    finally:
        writer.close()


async def start_member(name: str) -> asyncio.Server:
    """Start a member on its address of the loopback."""
    return await asyncio.start_server(lambda r, w: serve(name, r, w), MEMBERS[name], MEMBER_PORT)


async def ask(times: int) -> tuple[Counter[str], set[str]]:
    """Connect as both clients; return how often each member answered, and which clients they were told of."""
    members: Counter[str] = Counter()
    clients = set()
    for number in range(times):
        reader, writer = await asyncio.open_connection(VIP, PORT, local_addr=(CLIENTS[number % 2], 0))
        member, client = (await reader.read()).decode().split()
        writer.close()
        members[member] += 1
        clients.add(client)
    return members, clients


def admin_url(config: Path) -> str:
    """Return where the balancer's API is: a socket beside the configuration, so that no port can be taken."""
    return f"unix:{config.with_name('admin')}"


async def wait_until(config: Path, up: set[str]) -> None:
    """Wait until exactly these members are up, as the balancer says."""
    seen: set[str] = set()
    for _ in range(100):
        try:
            state = await asyncio.to_thread(AdminClient(admin_url(config)).get, "/api/v1/state")
        except HostError:
            state = {"pools": []}  # it is starting
        seen = {m["name"] for pool in state["pools"] for m in pool["members"] if m["health"][0]["state"] == "up"}
        if seen == up:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{seen} are up, not {up}")


def rewrite(source: Path, target: Path, old: str, new: str) -> None:
    """Write the source's text to the target with one thing in it replaced."""
    target.write_text(source.read_text().replace(old, new))


async def reload(config: Path, old: str, new: str) -> None:
    """Rewrite the configuration and wait until the balancer has looked at it by itself."""
    rewrite(config, config, old, new)
    for _ in range(100):
        state = await asyncio.to_thread(AdminClient(admin_url(config)).get, "/api/v1/state")
        if state["last_reload"]["trigger"] == "watch":
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the balancer has not noticed its new configuration")


async def play(config: Path) -> None:
    """Use the service, lose a member, get it back, change weights."""
    servers = {name: await start_member(name) for name in MEMBERS}
    await wait_until(config, set(MEMBERS))
    found, clients = await ask(200)
    print(f"{'three members, 1 : 1 : 2':<28} {dict(sorted(found.items()))}")
    assert set(found) == set(MEMBERS)
    assert 60 <= found["app-3"] <= 140, "app-3 has half of the weight"
    print(f"{'clients, as members know':<28} {', '.join(sorted(clients))}")
    assert clients == set(CLIENTS)

    servers["app-2"].close()
    found, _ = await ask(100)  # at once: who meets the dead member is given another one
    print(f"{'app-2 has stopped':<28} {dict(sorted(found.items()))}, none failed")
    assert found.total() == 100
    assert "app-2" not in found
    await wait_until(config, {"app-1", "app-3"})
    servers["app-2"] = await start_member("app-2")
    await wait_until(config, set(MEMBERS))

    await reload(config, "weight: 2", "weight: 0")
    found, _ = await ask(100)
    print(f"{'reloaded: app-3 has weight 0':<28} {dict(sorted(found.items()))}")
    assert set(found) == {"app-1", "app-2"}
    for server in servers.values():
        server.close()


async def run(config: Path, log: IO[bytes]) -> None:
    """Start the balancer, play, stop it."""
    command = (sys.executable, "-m", "asynclb", "run", str(config))
    settings = os.environ | {"PYTHONPATH": str(ROOT), "STATE_DIRECTORY": str(config.parent)}
    balancer = await asyncio.create_subprocess_exec(*command, env=settings, stdout=log, stderr=log)
    try:
        await play(config)
        balancer.terminate()
        assert await balancer.wait() == 0, "stopped in order"
    finally:
        if balancer.returncode is None:
            balancer.kill()
            await balancer.wait()


def main() -> None:
    """Run in a directory that vanishes; where something fails, show what the balancer wrote."""
    print("asynclb without privileges: one address, two clients, three members, all on the loopback")
    with tempfile.TemporaryDirectory(prefix="asynclb-example-") as directory:
        config = Path(directory, "asynclb.yaml")
        rewrite(HERE / "asynclb.yaml", config, "127.0.0.1:9180", admin_url(config))
        with Path(directory, "log").open("w+b") as log:
            try:
                asyncio.run(run(config, log))
            except BaseException:
                log.seek(0)
                sys.stderr.write(log.read().decode())
                raise
    print("as expected")


if __name__ == "__main__":
    main()
