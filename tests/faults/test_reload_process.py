"""A real process, real signals, real connections: reloads that are good, bad and ugly, and how it ends."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.faults.instance import Config, ask_once, connected, echo, instance
from tests.ports import free_port


@pytest.fixture
async def config(tmp_path: Path) -> AsyncIterator[Config]:
    """Write a configuration with one echoing member."""
    async with echo() as member:
        found = Config(tmp_path / "asynclb.yaml", [member])
        found.write()
        yield found


async def test_start_serve_stop(config: Config) -> None:
    """A client's bytes go to the member and back; SIGTERM ends with code 0 after an orderly stop."""
    async with instance(config) as running:
        await running.until("started")
        assert (await running.get("/readyz"))[0] == 200
        async with connected(config) as client:
            assert await client.say(b"hello") == b"hello"
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
    assert [running.of(name)[0]["signal"] for name in ("stopping",)] == ["SIGTERM"]
    assert running.events[-1]["event"] == "stopped"
    assert running.errors == b""


async def test_a_refused_reload_keeps_state_and_connections(config: Config) -> None:
    """SIGHUP with a broken file: every problem is told, the open connection and the tables go on."""
    async with instance(config) as running:
        await running.until("started")
        async with connected(config) as client:
            assert await client.say(b"before") == b"before"
            config.write(config.text().replace("frontend_port", "fronted_port") + "surplus: 1\n")
            running.process.send_signal(signal.SIGHUP)
            refused = await running.until("config_refused")
            status, state = await running.get("/api/v1/state")
            assert await client.say(b"after") == b"after"
            assert await ask_once(config, b"fresh") == b"fresh"
    assert status == 200
    assert state["generation"] == 1
    assert state["last_reload"]["result"] == "refused"
    assert len(refused["problems"]) >= 2
    assert all(problem.startswith(f"{config.path}:") for problem in refused["problems"])


async def test_a_changed_file_is_loaded_and_connections_survive(config: Config) -> None:
    """The watch loads a new file without being told; a connection to a removed member goes on."""
    async with echo() as other, instance(config) as running:
        await running.until("started")
        async with connected(config) as client:
            assert await client.say(b"before") == b"before"
            config.members = [other]
            config.write()
            loaded = await running.until("config_loaded", 2)
            assert await client.say(b"after") == b"after"
            assert await ask_once(config, b"fresh") == b"fresh"
            _, state = await running.get("/api/v1/state")
    assert loaded["trigger"] == "watch"
    assert [member["name"] for member in state["pools"][0]["members"]] == [f"m{other}"]


async def test_a_port_that_is_taken_refuses_the_reload(config: Config) -> None:
    """A reload that needs a port of somebody else is refused with the place in the file; the old port goes on."""
    async with AsyncExitStack() as stack:
        taken = await stack.enter_async_context(echo())
        running = await stack.enter_async_context(instance(config))
        await running.until("started")
        before = config.port
        config.port = taken
        config.write()
        refused = await running.until("config_refused")
        config.port = before
        assert await ask_once(config, b"still here") == b"still here"
        config.write()
        _, found = await running.post("/api/v1/reload")
    assert str(taken) in refused["problems"][0]
    assert refused["problems"][0].startswith(f"{config.path}:")
    assert found["result"] == "unchanged"


async def test_api_reload_answers_with_problems(config: Config) -> None:
    """POST /api/v1/reload answers 422 with each problem's line, and 200 once the file is good again."""
    async with instance(config) as running:
        await running.until("started")
        config.write(config.text().replace("protocol: tcp", "protocol: tpc"))
        await running.until("config_refused")
        bad = await running.post("/api/v1/reload")
        config.write()
        good = await running.post("/api/v1/reload")
    assert bad[0] == 422
    assert bad[1]["problems"][0]["line"] > 1
    assert good[0] == 200


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        ("rules: [", b"asynclb.yaml:"),
        ("version: 1\nrules: nonsense\n", b"rules"),
        ("\xff\xfe", b"asynclb.yaml"),
    ],
)
async def test_a_bad_file_at_the_start(config: Config, spoil: str, complaint: bytes) -> None:
    """A configuration that is refused at the start ends with code 1 and one report, without a traceback."""
    config.path.write_text(spoil, encoding="latin-1")
    async with instance(config) as running:
        assert await running.ended() == 1
    assert complaint in running.errors
    assert b"Traceback" not in running.errors


async def test_a_missing_file_at_the_start(config: Config) -> None:
    """A file that is not there ends with code 1 and its name."""
    config.path.unlink()
    async with instance(config) as running:
        assert await running.ended() == 1
    assert str(config.path).encode() in running.errors
    assert b"Traceback" not in running.errors


async def test_a_rule_that_needs_privileges_is_refused_with_the_remedy(config: Config) -> None:
    """Without CAP_NET_ADMIN a transparent rule refuses the start, names its line and both ways out."""
    config.path.write_text(config.text().replace(", transparent: false", ""))
    async with instance(config) as running:
        assert await running.ended() == 1
    assert b"CAP_NET_ADMIN" in running.errors
    assert b"transparent: false" in running.errors
    assert f"{config.path}:".encode() in running.errors


async def test_a_second_instance_by_mistake(config: Config) -> None:
    """The second instance ends with one message and a remedy; the first is not disturbed."""
    async with instance(config) as first:
        await first.until("started")
        async with connected(config) as client:
            async with instance(config) as second:
                assert await second.ended() == 1
            assert await client.say(b"undisturbed") == b"undisturbed"
    lines = second.errors.decode().splitlines()
    assert len(lines) == 1
    assert f"127.0.0.1:{config.admin}" in lines[0]
    assert "change admin.listen" in lines[0]


async def test_kill_9_and_start_again(config: Config) -> None:
    """A killed instance leaves nothing that keeps the next one from starting and serving on the same ports."""
    for _ in range(2):
        async with instance(config) as running:
            await running.until("started")
            async with connected(config) as client:
                assert await client.say(b"alive") == b"alive"
                running.process.kill()
                assert await running.ended() == -signal.SIGKILL


async def test_sigterm_drains(config: Config) -> None:
    """SIGTERM: not ready at once, no new connections, an open one goes on until its end, which ends the process."""
    async with instance(config) as running:
        await running.until("started")
        async with connected(config) as client:
            assert await client.say(b"before") == b"before"
            running.process.send_signal(signal.SIGTERM)
            stopping = await running.until("stopping")
            ready, alive = await running.get("/readyz"), await running.get("/healthz")
            with pytest.raises(ConnectionError):
                await ask_once(config, b"too late")
            assert await client.say(b"draining") == b"draining"
        assert await running.ended() == 0
    assert (ready[0], ready[1]["reason"], alive[0]) == (503, "stopping", 200)
    assert stopping["connections"] == 1
    assert running.of("stopped")[0]["connections_reset"] == 0


async def test_the_drain_period_ends(config: Config) -> None:
    """A connection that does not end is reset when the drain period is over, and counted."""
    config.drain = "200ms"
    config.write()
    async with instance(config) as running:
        await running.until("started")
        async with connected(config) as client:
            assert await client.say(b"stay") == b"stay"
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended() == 0
            with pytest.raises(ConnectionResetError):
                await client.reader.readexactly(1)
    assert running.of("stopped")[0]["connections_reset"] == 1


async def test_a_second_signal_ends_at_once(config: Config) -> None:
    """Whoever signals twice does not want to wait: open connections are reset without the drain period."""
    config.drain = "1h"
    config.write()
    async with instance(config) as running:
        await running.until("started")
        async with connected(config) as client:
            assert await client.say(b"stay") == b"stay"
            running.process.send_signal(signal.SIGTERM)
            await running.until("stopping")
            running.process.send_signal(signal.SIGINT)
            assert await running.ended() == 0
    assert running.of("stopped")[0]["connections_reset"] == 1


async def test_a_silent_rule_is_told_and_serves_again(config: Config) -> None:
    """The only member goes away: one `rule_silent`; it is back: one `rule_serving`, and clients are served."""
    port = free_port()
    config.members, config.probe = [port], True
    config.write()
    async with instance(config) as running:
        await running.until("rule_silent")

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read(100))
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", port)
        await running.until("rule_serving")
        assert await ask_once(config, b"back") == b"back"
        server.close()
        await running.until("rule_silent", 2)


async def test_hangups_in_a_row_while_clients_talk(config: Config) -> None:
    """Twenty reloads, half of them with changes, while a connection goes on: none is lost."""
    async with instance(config) as running:
        await running.until("started")
        async with connected(config) as client:
            for number in range(20):
                config.drain = f"{5 + number // 2}s"
                config.write()
                running.process.send_signal(signal.SIGHUP)
                text = f"message {number}".encode()
                assert await client.say(text) == text
            _, found = await running.post("/api/v1/reload")
            _, state = await running.get("/api/v1/state")
    assert found["result"] in ("applied", "unchanged")
    assert state["reloads"]["refused"] == 0
    assert running.of("task_failed") == []
