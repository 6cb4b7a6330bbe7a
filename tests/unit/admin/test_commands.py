"""Reads of single objects and flows, and writes with their lock and their audit, over real sockets."""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from asynclb.admin.flows import FlowFilter, Page, address_of, read_cursor, read_prefix, write_cursor
from asynclb.datapath.base import FlowRecord
from asynclb.events import Event
from asynclb.model import Admin
from tests.unit.admin.test_api import site

MEMBER = "/api/v1/pools/web/members/a"
JSON = {"Content-Type": "application/json"}


def record(number: int, rule: str = "web-0", protocol: str = "tcp", member: str = "a") -> FlowRecord:
    """Return a flow of client 198.51.100.<number>."""
    client = f"198.51.100.{number}:41000"
    return FlowRecord(
        rule, protocol, client, "vip", "web", member, "10.1.0.11:80", "open", number, 2 * number, 1.0, 0.5
    )


async def test_single_objects_and_names_that_nothing_has() -> None:
    """A rule, a pool and a member are found by name; what is not there is told with what is."""
    async with site() as here:
        rule = await here.ask("GET", "/api/v1/rules/web-1")
        pool = await here.ask("GET", "/api/v1/pools/web")
        member = await here.ask("GET", MEMBER)
        missing = await here.ask("GET", "/api/v1/pools/web/members/z")
    assert (rule[1]["port"], pool[1]["name"], member[1]["health"][0]["state"]) == (81, "web", "up")
    assert rule[2]["ETag"] == '"2"'
    assert (missing[0], missing[1]["remedy"]) == (404, "the first ones here are: a, b, c")


async def test_pages_hold_each_flow_once_while_flows_come_and_go() -> None:
    """Turning pages yields every flow that stays open exactly once, in order, whatever ends meanwhile."""
    async with site() as here:
        flows = here.bench.datapaths[0]
        flows.records = [record(number) for number in range(250, 0, -1)]
        seen, cursor, turns = [], "", 0
        while cursor is not None:
            _, page, _ = await here.ask("GET", f"/api/v1/flows?limit=60{cursor and f'&cursor={cursor}'}")
            seen += [flow["client"] for flow in page["flows"]]
            cursor, turns = page["next"], turns + 1
            flows.records = [one for one in flows.records if one.bytes_in != 3]
            flows.records.append(record(0))
    assert turns == 5
    assert len(seen) == len(set(seen))
    assert set(seen) >= {record(number).client for number in range(4, 251)}
    assert seen == sorted(seen)


async def test_flows_are_filtered_and_streamed() -> None:
    """Rule, member, protocol and client prefix filter pages and streams alike; a stream has a document a line."""
    async with site() as here:
        here.bench.datapaths[0].records = [record(1), record(2, "web-1", "udp", "b"), record(130)]

        async def of(query: str) -> list[int]:
            _, page, _ = await here.ask("GET", f"/api/v1/flows?{query}")
            return [flow["bytes_in"] for flow in page["flows"]]

        found = [await of(query) for query in ("rule=web-1", "member=a", "protocol=UDP", "client=198.51.100.128/25")]
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{here.address}/api/v1/flows/stream?member=a") as answer,
        ):
            lines = [json.loads(line) for line in (await answer.text()).splitlines()]
        clients = (await here.ask("GET", "/api/v1/clients?limit=1"))[1]
    assert found == [[2], [130, 1], [2], [130]]
    assert [line["bytes_in"] for line in lines] == [1, 130]
    assert (clients["open"], clients["addresses"], len(clients["clients"])) == (3, 3, 1)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=%D9%A1",
        "client=x",
        "cursor=x",
        "cursor=bnVsbA",
        "rul=web",
        "rule=",
        "rule=a&rule=b",
    ],
)
async def test_a_wrong_query_is_told(query: str) -> None:
    """Bounds, words, unknown and repeated parameters are answered with 400 and what would be right."""
    async with site() as here:
        status, document, _ = await here.ask("GET", f"/api/v1/flows?{query}")
    assert status == 400
    assert document.keys() == {"error", "remedy"}


async def test_a_member_is_drained_weighed_and_given_back() -> None:
    """PATCH, drain and reset change what is in force, say so in the state, and are told with who and what."""
    async with site() as here:
        heavy = await here.ask("PATCH", MEMBER, JSON, data='{"weight": 7}')
        drained = await here.ask("POST", f"{MEMBER}/drain")
        again = await here.ask("POST", f"{MEMBER}/drain")
        reset = await here.ask("DELETE", f"{MEMBER}/override")
        unknown = await here.ask("POST", "/api/v1/pools/web/members/z/drain")
        history = (await here.ask("GET", "/api/v1/generations"))[1]["history"]
        told = here.bench.log.of(Event.ADMIN_WRITE)
    assert (heavy[0], heavy[1]["result"], heavy[1]["member"]["weight"]) == (200, "applied", 7)
    assert drained[1]["member"]["override"] | {"at": ""} == {
        "admin_state": "drain",
        "weight": 7,
        "by": "127.0.0.1",
        "at": "",
    }
    assert (drained[1]["member"]["health"][0]["state"], again[1]["result"]) == ("down", "unchanged")
    assert (reset[1]["member"]["override"], reset[1]["member"]["weight"], unknown[0]) == (None, 1, 404)
    assert [one["cause"] for one in history] == ["member", "member", "member", "health", "start"]
    assert [one["status"] for one in told] == [200, 200, 200, 200, 404]
    assert told[0] == {
        "who": "127.0.0.1",
        "peer": "127.0.0.1",
        "method": "PATCH",
        "path": MEMBER,
        "what": "Say something of a member that holds until the file changes it or the process ends.",
        "status": 200,
    }


async def test_a_stale_generation_is_412() -> None:
    """If-Match with the ETag of an answer is let in once; after a change it is stale, and nothing happens."""
    async with site() as here:
        tag = (await here.ask("GET", MEMBER))[2]["ETag"]
        first = await here.ask("POST", f"{MEMBER}/drain", {"If-Match": tag})
        second = await here.ask("DELETE", f"{MEMBER}/override", {"If-Match": tag})
        third = await here.ask("POST", "/api/v1/reload", {"If-Match": tag})
        any_one = await here.ask("POST", "/api/v1/reload", {"If-Match": "*"})
        wrong = await here.ask("POST", "/api/v1/reload", {"If-Match": "yesterday"})
        member = (await here.ask("GET", MEMBER))[1]
    assert [answer[0] for answer in (first, second, third, any_one, wrong)] == [200, 412, 412, 200, 400]
    assert second[1]["generation"] == first[1]["generation"]
    assert member["admin_state"] == "drain"


@pytest.mark.parametrize(
    ("body", "content", "status"),
    [
        ('{"weight": 1001}', "application/json", 400),
        ('{"weight": true}', "application/json", 400),
        ('{"weight": null}', "application/json", 400),
        ('{"admin_state": "off"}', "application/json", 400),
        ('{"admin_state": ["up"]}', "application/json", 400),
        ('{"wieght": 1}', "application/json", 400),
        ("{}", "application/json", 400),
        ("[" * 60_000, "application/json", 400),
        ("hello", "application/json", 400),
        ('{"weight": 1}', "text/plain", 415),
        (" " * 65_537, "application/json", 413),
    ],
)
async def test_a_wrong_body_is_told(body: str, content: str, status: int) -> None:
    """A body that is not what is asked for changes nothing."""
    async with site() as here:
        found = await here.ask("PATCH", MEMBER, {"Content-Type": content}, data=body)
        override = (await here.ask("GET", MEMBER))[1]["override"]
    assert (found[0], override) == (status, None)
    assert found[1].keys() == {"error", "remedy"}


async def test_a_plan_is_made_of_the_body_and_changes_nothing() -> None:
    """The plan names what differs, the share of slots and the flows; a broken text is refused with its problems."""
    async with site() as here:
        here.bench.datapaths[0].records = [record(1, member="b")]
        found = await here.ask("POST", "/api/v1/plan", data=b"a c")
        broken = await here.ask("POST", "/api/v1/plan", data=b"broken")
        generation = (await here.ask("GET", "/api/v1/state"))[1]["generation"]
    assert found[0] == 200
    assert ("member", "web/b", "removed") in [(d["kind"], d["name"], d["change"]) for d in found[1]["differences"]]
    assert found[1]["moves"][0]["share"] > 0.3
    assert found[1]["flows"]["ending"] == {"member web/b is removed": 1}
    assert (broken[0], broken[1]["problems"][0]["remedy"], generation) == (422, "mend it", 2)


async def test_who_asks_is_the_name_of_the_token_or_the_user(tmp_path: Path) -> None:
    """Each token has a name, which the audit tells; on a UNIX socket it is the user that the kernel says."""
    tokens = tmp_path / "tokens"
    tokens.write_text("# people\ns3cret alice\nother  the deploy job\nbare\n")
    async with site(Admin(port=0, token_file=str(tokens))) as here:
        for token in ("s3cret", "other", "bare"):
            assert (await here.ask("POST", f"{MEMBER}/drain", {"Authorization": f"Bearer {token}"}))[0] == 200
        for token in ("s3creT", "s3cre", "s3crett", "alice", "#", "", "s\udcc3cret"):
            head = {"Authorization": f"Bearer {token}"} if token.isascii() else {}
            assert (await here.ask("POST", f"{MEMBER}/drain", head))[0] == 401
        assert [one["who"] for one in here.bench.log.of(Event.ADMIN_WRITE)] == ["alice", "the deploy job", "token"]
        assert [one["times"] for one in here.bench.log.of(Event.ADMIN_DENIED)] == [1]
    path = tmp_path / "admin.sock"
    async with site(Admin(unix_path=str(path))) as here:
        connector = aiohttp.UnixConnector(str(path))
        async with aiohttp.ClientSession(connector=connector) as session, session.post(f"http://x{MEMBER}/drain") as a:
            assert a.status == 200
        (told,) = here.bench.log.of(Event.ADMIN_WRITE)
    assert str(told["who"]).startswith("uid ")


@pytest.mark.parametrize("header", ["X-A: b\r\nX-B", 'If-Match: "1"\r\nAuthorization: Bearer x'])
async def test_header_injection_stays_in_its_place(header: str) -> None:
    """Line feeds in a path or a parameter come back neither as headers nor as events of their own."""
    evil = "%0d%0aX-Evil:%201%0d%0a%0d%0a<html>"
    async with site() as here:
        close = "HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        get = f"GET /api/v1/rules/{evil}?flow={evil} {close}{header}: c\r\n\r\n"
        answer = await here.raw(get.encode())
        path = await here.raw(f"POST /api/v1/pools/web/members/{evil}/drain {close}\r\n".encode())
        told = here.bench.log.of(Event.ADMIN_WRITE)
    for head in (answer.partition(b"\r\n\r\n")[0], path.partition(b"\r\n\r\n")[0]):
        assert b"X-Evil" not in head
        assert head.startswith(b"HTTP/1.1 4")
    assert len(told) == 1


async def test_slow_clients_lose_their_connection_and_nobody_else_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that never ends, a body that never comes and idle connections all end by themselves."""
    monkeypatch.setattr("asynclb.admin.server._IDLE_S", 0.3)
    monkeypatch.setattr("asynclb.admin.limits.BODY_S", 0.3)
    async with site() as here:
        body = b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        slow = [
            here.raw(b"GET /api/v1/st"),
            here.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "),
            here.raw(f"PATCH {MEMBER} HTTP/1.1\r\nHost: localhost\r\n".encode() + body),
            *(here.raw(b"") for _ in range(200)),
        ]
        answers = asyncio.gather(*slow)
        assert (await here.ask("GET", "/healthz"))[0] == 200
        found = await answers
    assert (found[0], found[3]) == (b"", b"")
    assert found[2].startswith(b"HTTP/1.1 408")


async def test_a_crowd_is_answered_with_503_and_health_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """More requests at once than are let in get 503 with Retry-After; the probes of orchestrators are answered."""
    monkeypatch.setattr("asynclb.admin.limits.AT_ONCE", 0)
    monkeypatch.setattr("asynclb.admin.limits.Crowd.__init__.__defaults__", (0,))
    async with site() as here:
        found = await here.ask("GET", "/api/v1/state")
        health = await here.ask("GET", "/healthz")
    assert (found[0], found[2]["Retry-After"], health[0]) == (503, "1", 200)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
async def test_wrong_methods_say_which_are_right(method: str) -> None:
    """A method that a path does not take is 405 with the ones that it takes."""
    async with site() as here:
        found = await here.ask(method, "/api/v1/state")
    assert found[0] == 405
    assert "GET" in found[2]["Allow"]


async def test_our_own_bug_is_an_event_and_a_500(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that fails answers 500 in the shape of every error, and the traceback goes to the log alone."""
    async with site() as here:
        monkeypatch.setattr(here.bench.datapaths[0], "counters", lambda: None)
        status, document, _ = await here.ask("GET", "/api/v1/counters")
        (told,) = here.bench.log.of(Event.TASK_FAILED)
    assert (status, document["error"]) == (500, "this is a bug of asynclb")
    assert "Traceback" in str(told["traceback"])


def test_cursors_and_addresses() -> None:
    """A cursor comes back as it went; what was not made here is refused; addresses lose their ports."""
    key = ("web", "tcp", "[2001:db8::1]:80", "vip", "x")
    assert read_cursor(write_cursor(key)) == key
    for text in ("", "AAAA", "bnVsbA", "W10", write_cursor(key)[:-4]):
        with pytest.raises(ValueError, match="not made here"):
            read_cursor(text)
    found = [address_of(text) for text in ("192.0.2.1:80", "[2001:db8::1]:80", "192.0.2.1", "2001:db8::1")]
    assert found == ["192.0.2.1", "2001:db8::1", "192.0.2.1", "2001:db8::1"]


def test_a_page_keeps_no_more_than_its_limit() -> None:
    """However many flows come, a page holds its limit, the first by order, and says how many more there are."""
    page = Page(FlowFilter(client=read_prefix("198.51.100.0/24")), 2)
    for number in (9, 5, 7, 3):
        page.add([record(number)])
    document = page.document()
    assert [flow["bytes_in"] for flow in document["flows"]] == [3, 5]
    assert (document["matching"], document["next"] is None) == (4, False)
