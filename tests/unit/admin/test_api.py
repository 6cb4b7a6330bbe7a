"""The API over real sockets, before a real controller with fake datapaths."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from asynclb.admin.api import Sources
from asynclb.admin.server import AdminServer, open_socket
from asynclb.control.assign import Candidate
from asynclb.control.controller import Controller
from asynclb.control.planner import Planner
from asynclb.errors import ConfigError, HostError, Problem
from asynclb.health.record import Results
from asynclb.lab import PATIENCE_S
from asynclb.model import Admin, HealthState
from asynclb.observe.metrics import Snapshot, render
from tests.unit.control.fakes import Bench, FakeDatapath, FakeLoader, FakeParsed, web_model


def read(bench: Bench, text: bytes) -> FakeParsed:
    """Read a configuration: `broken`, or the names of a pool's members."""
    if text == b"broken" or not text.isascii():
        raise ConfigError([Problem(("rules",), "", "is wrong", "mend it")])
    names = dict.fromkeys(text.decode().split()[:9])
    loader = FakeLoader(web_model(*names, rules=2))
    return loader(bench.loader.__class__.__name__)


class Site:
    """A running API and what is behind it."""

    def __init__(self, bench: Bench, controller: Controller, server: AdminServer) -> None:
        self.bench = bench
        self.controller = controller
        self.address = server.address

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Return status, decoded JSON and headers."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"http://{self.address}{path}", headers=headers, **more) as answer,
        ):
            return answer.status, json.loads(await answer.text()), answer.headers

    async def raw(self, data: bytes) -> bytes:
        """Send bytes on a connection of their own and return all that comes back."""
        host, port = self.address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        return answer


@asynccontextmanager
async def site(admin: Admin = Admin(port=0), *, load: bool = True) -> AsyncIterator[Site]:  # noqa: B008  # frozen
    """Serve the API for a pool of three members, two of them up."""
    bench = Bench(FakeLoader(web_model("a", "b", "c", rules=2)), [FakeDatapath("proxy")])
    controller = bench.controller()
    task = asyncio.create_task(controller.run())

    def scrape() -> partial[tuple[bytes, str]]:
        return partial(render, Snapshot(controller.status(), controller.counters(), Results({}, {})))

    candidates = [Candidate(datapath.name, datapath.refusal) for datapath in bench.datapaths]
    planner = Planner(controller, lambda text, _name: read(bench, text), candidates, lambda _model: 7)
    sources = Sources(controller, controller, scrape, planner)
    server = AdminServer(open_socket(admin), admin, sources, bench.log)
    await server.start()
    if load:
        await controller.reload("start")
        for name, state in (("a", HealthState.UP), ("b", HealthState.UP), ("c", HealthState.DOWN)):
            bench.prober.say(name, state)
        controller.health_changed()
        await controller.reload("signal")
    try:
        yield Site(bench, controller, server)
    finally:
        await server.close()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_ready_only_between_the_first_tables_and_the_end() -> None:
    """503 with a reason before the tables are applied and while stopping, 200 in between; alive all the time."""
    async with site(load=False) as here:
        early = await here.ask("GET", "/readyz")
        await here.controller.reload("start")
        serving = await here.ask("GET", "/readyz")
        here.controller.stop()
        late = await here.ask("GET", "/readyz")
        alive = await here.ask("GET", "/healthz")
    assert (early[0], early[1]["reason"]) == (503, "the first tables are not applied yet")
    assert serving[:2] == (200, {"ready": True, "generation": 1})
    assert (late[0], late[1]["reason"]) == (503, "stopping")
    assert alive[:2] == (200, {"alive": True})


async def test_the_state_document() -> None:
    """The state names what is active: rules with their datapath and table, members with health and share of slots."""
    async with site() as here:
        status, state, _ = await here.ask("GET", "/api/v1/state")
    assert status == 200
    assert {key for key, value in state.items() if value is None} == set()
    assert (state["ready"], state["stopping"], state["generation"]) == (True, False, 2)
    assert state["config"]["path"] == "asynclb.yaml"
    assert state["last_reload"]["result"] == "unchanged"
    assert state["datapaths"] == [
        {
            "name": "proxy",
            "mode": "memory",
            "generation": 2,
            "since": "2027-01-15T08:00:00.000Z",
            "rules": 2,
            "interfaces": [],
        }
    ]
    first = state["rules"][0]
    assert (first["name"], first["state"], first["eligible"], first["members"]) == ("web-0", "serving", 2, 3)
    assert first["table"] == state["rules"][1]["table"] == 0
    shares = {member["name"]: member["share"] for member in state["tables"][0]["members"]}
    assert shares == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.05)
    (pool,) = state["pools"]
    health = {member["name"]: member["health"][0]["state"] for member in pool["members"]}
    assert health == {"a": "up", "b": "up", "c": "down"}


async def test_reload_answers_with_what_became_of_it() -> None:
    """200 when applied or unchanged; 422 with every problem, in parts and as a line, when refused."""
    async with site() as here:
        same = await here.ask("POST", "/api/v1/reload")
        here.bench.loader.put(web_model("a"))
        applied = await here.ask("POST", "/api/v1/reload")
        here.bench.loader.break_it()
        refused = await here.ask("POST", "/api/v1/reload")
    assert (same[0], same[1]["result"]) == (200, "unchanged")
    assert (applied[0], applied[1]["result"], applied[1]["trigger"]) == (200, "applied", "api")
    assert (refused[0], refused[1]["result"], refused[1]["generation"]) == (422, "refused", applied[1]["generation"])
    (problem,) = refused[1]["problems"]
    assert (problem["where"], problem["remedy"]) == ("rules[0].protocl", "write protocol")
    assert problem["text"] == "rules[0].protocl: 'tcp': is not a key; write protocol"


async def test_metrics_are_exposed_in_both_formats() -> None:
    """Text by default, OpenMetrics by the Accept header; both show the members' health."""
    async with site() as here, aiohttp.ClientSession() as session:
        url = f"http://{here.address}/metrics"
        async with session.get(url) as answer:
            plain, plain_type = await answer.text(), answer.headers["Content-Type"]
        accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
        async with session.get(url, headers=accept) as answer:
            open_type, open_text = answer.headers["Content-Type"], await answer.text()
        async with session.get(url, headers={"Accept": "application/openmetrics-text;version=x,;;;"}) as answer:
            assert answer.status == 200
    samples = {
        sample.labels["member"]: sample.value
        for family in text_string_to_metric_families(plain)
        for sample in family.samples
        if sample.name == "asynclb_member_up"
    }
    assert samples == {"a": 1, "b": 1, "c": 0}
    assert plain_type.startswith("text/plain; version=0.0.4")
    assert open_type.startswith("application/openmetrics-text")
    assert open_text.endswith("# EOF\n")


async def test_explain_answers_for_the_tables_of_now() -> None:
    """The running process explains with the members that are eligible now; nonsense is answered with an example."""
    async with site() as here:
        found = await here.ask("GET", "/api/v1/explain?flow=tcp%20192.0.2.1:1000%20%3E%20203.0.113.10:80")
        wrong = await here.ask("GET", "/api/v1/explain?flow=hello")
        missing = await here.ask("GET", "/api/v1/explain")
    assert found[1]["verdict"] == "member"
    assert found[1]["member"] in ("a", "b")
    assert found[1]["datapath"] == "proxy"
    assert wrong[0] == missing[0] == 400
    assert "is not a flow" in wrong[1]["error"]


async def test_errors_are_json() -> None:
    """Unknown paths and wrong methods are answered in JSON, with what would have been right."""
    async with site() as here:
        unknown = await here.ask("GET", "/nothing/here")
        wrong = await here.ask("GET", "/api/v1/reload")
        deleted = await here.ask("DELETE", "/metrics")
    assert (unknown[0], unknown[1]["error"]) == (404, "Not Found")
    assert (wrong[0], wrong[1]["remedy"]) == (405, "/api/v1/reload takes POST")
    assert wrong[2]["Allow"] == "POST"
    assert deleted[0] == 405


@pytest.mark.parametrize(
    "garbage",
    [
        b"\r\n\r\n\r\n\x00\x01",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"b" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
        b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    ],
)
async def test_garbage_is_survived(garbage: bytes) -> None:
    """Whatever is sent, the connection ends and the next request is answered."""
    async with site() as here:
        answer = await here.raw(garbage)
        assert answer == b"" or answer.startswith(b"HTTP/1.")
        assert (await here.ask("GET", "/healthz"))[0] == 200


async def test_a_token_guards_everything_under_api(tmp_path: Path) -> None:
    """With a token file, reads and writes need the token, also after it was rotated; probes and metrics do not."""
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    async with site(Admin(port=0, token_file=str(token))) as here:
        bare = await here.ask("GET", "/api/v1/state")
        wrong = await here.ask("POST", "/api/v1/reload", {"Authorization": "Bearer s3creT"})
        right = await here.ask("POST", "/api/v1/reload", {"Authorization": "Bearer s3cret"})
        token.write_text("next")
        stale = await here.ask("GET", "/api/v1/state", {"Authorization": "Bearer s3cret"})
        fresh = await here.ask("GET", "/api/v1/state", {"Authorization": "Bearer next"})
        token.unlink()
        gone = await here.ask("GET", "/api/v1/state", {"Authorization": "Bearer "})
        open_to_all = await here.ask("GET", "/readyz")
    assert [answer[0] for answer in (bare, wrong, right, stale, fresh, gone, open_to_all)] == [
        401,
        401,
        200,
        401,
        200,
        401,
        200,
    ]
    assert "token" in bare[1]["error"]


async def test_commands_are_not_taken_from_other_pages() -> None:
    """A browser that posts for another site is turned away; the same origin is let in."""
    async with site() as here:
        other = await here.ask("POST", "/api/v1/reload", {"Origin": "https://example.net"})
        same = await here.ask("POST", "/api/v1/reload", {"Origin": f"http://{here.address}"})
    assert (other[0], same[0]) == (403, 200)


async def test_a_unix_socket(tmp_path: Path) -> None:
    """The API is served on a UNIX socket with mode 0660, which is removed at the end."""
    path = tmp_path / "admin.sock"
    async with site(Admin(unix_path=str(path))) as here:
        assert path.stat().st_mode & 0o777 == 0o660
        connector = aiohttp.UnixConnector(str(path))
        async with aiohttp.ClientSession(connector=connector) as session, session.post("http://x/api/v1/reload") as a:
            assert a.status == 200
        assert here.address == str(path)
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    """What a killed instance left is replaced; a socket that somebody answers, or a file, is left alone."""
    path = tmp_path / "admin.sock"
    admin = Admin(unix_path=str(path))
    open_socket(admin).close()
    living = open_socket(admin)
    with pytest.raises(HostError, match="another asynclb or another program has it"):
        open_socket(admin)
    living.close()
    path.unlink()
    path.write_text("precious")
    with pytest.raises(HostError, match="not a socket"):
        open_socket(admin)
    assert path.read_text() == "precious"


def test_a_taken_port_is_told_with_a_remedy() -> None:
    """The second instance learns from one message that the port is taken, by whom to look and what to change."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(HostError, match=rf"cannot listen on 127.0.0.1:{port}.*ss -ltnp.*change admin.listen"):
            open_socket(Admin(port=port))


@pytest.mark.parametrize("host", ["203.0.113.77", "2001:db8::77"])
def test_an_address_of_another_host_is_told(host: str) -> None:
    """An address that this host does not have is named, with the command that shows which it has."""
    with pytest.raises(HostError, match="this host has no such address"):
        open_socket(Admin(host=host, port=0))
