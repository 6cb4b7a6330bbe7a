"""A real process whose pool's members come from elsewhere, with connections through it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from asynclb.lab import PATIENCE_S
from tests.faults.instance import Config, Instance, instance
from tests.faults.servers import etcd, name_server
from tests.ports import free_port

MEMBERS = ("127.0.1.1", "127.0.1.2", "127.0.1.3")


@dataclass
class Sourced(Config):
    """A rule over a pool with a source; every member is asked at one port, each at an address of its own."""

    source: str = ""
    member_port: int = field(default_factory=free_port)

    def text(self) -> str:
        """Return the YAML."""
        return (
            f"version: 1\nadmin: {{listen: 127.0.0.1:{self.admin}}}\nshutdown_drain: 1s\nhash_seed: '7'\n"
            f"frontends:\n  web: {{address: 127.0.0.1}}\n"
            f"backend_pools:\n  web:\n    drain_period: 2s\n    members_from: {self.source}\n"
            f"rules:\n  - {{name: web, frontend: web, protocol: tcp, frontend_port: {self.port}, datapath: proxy,\n"
            f"     backend_port: {self.member_port}, backend_pool: web, transparent: false}}\n"
        )


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each line with this end's address before it."""
    host = writer.get_extra_info("sockname")[0]
    try:
        while line := await reader.readline():
            writer.write(host.encode() + b" " + line)
    except ConnectionError:
        pass  # the end of a drain
    finally:
        writer.close()


@asynccontextmanager
async def members(port: int) -> AsyncIterator[None]:
    """Run a server at every member's address."""
    servers = [await asyncio.start_server(echo, address, port) for address in MEMBERS]
    try:
        yield
    finally:
        for server in servers:
            server.close()


class Client:
    """One connection through the balancer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connected(cls, config: Config) -> "Client":
        """Open it."""
        return cls(*await asyncio.open_connection("127.0.0.1", config.port))

    async def ask(self) -> str:
        """Return who answers, '' if nobody does any more."""
        try:
            self.writer.write(b"hello\n")
            async with asyncio.timeout(PATIENCE_S):
                return (await self.reader.readline()).decode().partition(" ")[0]
        except ConnectionError:
            return ""

    def close(self) -> None:
        """Close it."""
        self.writer.close()


async def reached(config: Config, connections: int = 40) -> set[str]:
    """Return who answers new connections."""
    found = set()
    for _ in range(connections):
        client = await Client.connected(config)
        found.add(await client.ask())
        client.close()
    return found


async def until_reached(config: Config, wanted: set[str], wait_s: float) -> None:
    """Wait until new connections reach exactly these members."""
    found: set[str] = set()
    try:
        async with asyncio.timeout(wait_s):
            while found != wanted:
                found = await reached(config)
    except TimeoutError:
        raise AssertionError(f"{found} answer after {wait_s} s instead of {wanted}") from None


async def state_of_source(running: Instance) -> dict[str, object]:
    """Return what the API says of the pool's source."""
    _, state = await running.get("/api/v1/state")
    return dict(state["pools"][0]["source"])


async def metric(config: Config, name: str) -> dict[str, str]:
    """Return labels -> value of each sample of a metric."""
    url = f"http://127.0.0.1:{config.admin}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        lines = (await answer.text()).splitlines()
    samples = (line.removeprefix(name).rsplit(" ", 1) for line in lines if line.startswith(f"{name}{{"))
    return {labels: value for labels, value in samples}  # noqa: C416  # of lists, not of pairs


async def test_etcd_adds_and_removes_members_under_traffic(tmp_path: Path) -> None:
    """A member that is written takes new flows within a second; a removed one keeps its flow until the drain's end."""
    async with etcd(tmp_path) as server:
        source = f"{{etcd: {{endpoints: ['{server.endpoint}'], prefix: /web/}}}}"
        config = Sourced(tmp_path / "asynclb.yaml", [], source=source)
        config.write()
        await server.put("/web/one", {"address": MEMBERS[0]})
        async with members(config.member_port), instance(config) as running:
            await running.until("started")
            assert await reached(config) == {MEMBERS[0]}
            before = await Client.connected(config)
            assert await before.ask() == MEMBERS[0]

            await server.put("/web/two", {"address": MEMBERS[1]})
            await until_reached(config, {MEMBERS[0], MEMBERS[1]}, 1.0)
            await asyncio.sleep(1)  # a quiet second: the next change is followed at once too
            await server.delete("/web/one")
            await until_reached(config, {MEMBERS[1]}, 1.0)
            assert await before.ask() == MEMBERS[0]
            with pytest.raises(ConnectionResetError):  # the drain period is over
                await before.reader.readline()
            before.close()


async def test_a_dead_etcd_changes_nothing_over_a_restart(tmp_path: Path) -> None:
    """Members stay when their etcd dies, it is told, and the next start has them at once although nobody answers."""
    async with etcd(tmp_path) as server:
        source = f"{{etcd: {{endpoints: ['{server.endpoint}'], prefix: /web/, timeout: 1s}}}}"
        config = Sourced(tmp_path / "asynclb.yaml", [], source=source)
        config.write()
        await server.put("/web/one", {"address": MEMBERS[0], "weight": 3})
        async with members(config.member_port):
            async with instance(config) as running:
                await running.until("started")
                await server.child.kill()
                failed = await running.until("source_failed")
                assert failed["pool"] == "web"
                assert server.endpoint in failed["error"]
                assert await reached(config) == {MEMBERS[0]}
                assert (await state_of_source(running))["state"] == "failed"
                assert await metric(config, "asynclb_discovery_up") == {'{pool="web",source="etcd"}': "0.0"}
                assert await metric(config, "asynclb_discovery_members") == {'{pool="web"}': "1.0"}
            async with instance(config) as running:
                started = await running.until("started")
                assert started["members"] == 1
                assert started["took_ms"] < 4000  # it did not wait for the source
                assert await reached(config) == {MEMBERS[0]}
                await running.until("source_failed")
                _, state = await running.get("/api/v1/state")
    member = state["pools"][0]["members"][0]
    assert (member["name"], member["weight"], member["from_source"]) == ("one", 3, True)


async def test_a_source_that_empties_the_pool_is_refused(tmp_path: Path) -> None:
    """Records that vanish leave the members as they are, with an error; `allow_empty` in a reload lets them go."""
    async with name_server(tmp_path) as server:
        server.say([(MEMBERS[0], "web.test"), (MEMBERS[1], "web.test")])
        often = "max_interval: 200ms, min_interval: 100ms"
        dns = f"dns: {{names: [web.test], servers: ['127.0.0.1:{server.child.port}'], {often}}}"
        config = Sourced(tmp_path / "asynclb.yaml", [], source=f"{{{dns}}}")
        config.write()
        async with members(config.member_port), instance(config) as running:
            await running.until("started")
            server.say([])
            refused = await running.until("source_refused")
            assert "has no members left, and the pool has 2 from there; they stay" in refused["problems"][0]
            assert await reached(config) == {MEMBERS[0], MEMBERS[1]}
            source = await state_of_source(running)
            assert (source["state"], source["result"], source["members"]) == ("up", "refused", 2)
            await asyncio.sleep(0.5)
            assert len(running.of("source_refused")) == 1  # told once, however often it is said

            config.source = f"{{{dns}, allow_empty: true}}"
            config.write()
            await running.until("members_discovered", 2)
            assert (await state_of_source(running))["members"] == 0
            server.say([(MEMBERS[2], "web.test")])
            await until_reached(config, {MEMBERS[2]}, 5.0)


async def test_a_file_is_followed_however_it_is_written(tmp_path: Path) -> None:
    """Renamed into place and written in place alike; what is no list of members, or gone, changes nothing."""
    path = tmp_path / "members.yaml"
    path.write_text(f"- {{name: one, address: {MEMBERS[0]}}}\n")
    config = Sourced(tmp_path / "asynclb.yaml", [], source="{file: members.yaml}")
    config.write()
    async with members(config.member_port), instance(config) as running:
        await running.until("started")
        draft = tmp_path / "draft"
        draft.write_text(f'[{{"name": "two", "address": "{MEMBERS[1]}"}}]')
        draft.replace(path)
        await until_reached(config, {MEMBERS[1]}, 2.0)
        path.write_text("- {name: broken, adress: 127.0.1.9}\n")
        failed = await running.until("source_failed")
        assert f"{path}:1:18: [0] (broken).adress: unknown key; did you mean `address`?" in failed["error"]
        path.unlink()
        await running.until("source_failed", 2)
        assert await reached(config) == {MEMBERS[1]}
        path.write_text(f"members:\n  - {{address: {MEMBERS[2]}}}\n")
        await until_reached(config, {MEMBERS[2]}, 3.0)


async def test_a_source_that_never_answered_does_not_hold_the_start_up(tmp_path: Path) -> None:
    """With nothing remembered the start waits five seconds, then goes on with an empty pool, and says so."""
    config = Sourced(tmp_path / "asynclb.yaml", [], source="{etcd: {endpoints: ['http://127.0.0.1:9'], prefix: /web/}}")
    config.write()
    async with instance(config) as running:
        started = await running.until("started")
        assert started["members"] == 0
        assert [event["event"] for event in running.events if event["event"].startswith("source")] == ["source_failed"]
        _, ready = await running.get("/readyz")
        assert ready
