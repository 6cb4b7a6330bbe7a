"""Members from a real etcd, whose keys change, whose revisions are compacted, and that is killed."""

import asyncio
import json
import urllib.request
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from asynclb.config import check_members
from asynclb.discovery import Answer, Finding
from asynclb.discovery.etcd import EtcdMembers
from asynclb.lab import PATIENCE_S
from asynclb.model import AdminState, AdminTls, EtcdSource
from tests.faults.servers import encoded, etcd
from tests.unit.admin.test_tls import certify
from tests.unit.discovery.fakes import Listener, listening_to


def listening(
    source: EtcdSource, directory: Path, listener: Listener | None = None
) -> AbstractAsyncContextManager[Listener]:
    """Listen to a source that asks twice a second whether the endpoint is still there."""
    return listening_to(EtcdMembers(source, directory, check_members, ask_s=0.5), listener)


async def test_members_follow_the_keys(tmp_path: Path) -> None:
    """A key is a member with the key's name or its own; one that is written, changed or removed is seen at once."""
    async with etcd(tmp_path) as server:
        await server.put("/web/web-1", {"address": "10.0.0.1"})
        await server.put("/elsewhere/x", {"address": "10.9.9.9"})
        source = EtcdSource((server.endpoint,), "/web/", timeout_s=2.0)
        async with listening(source, tmp_path) as listener:
            await listener.until_addresses("10.0.0.1")
            changed = {"name": "two", "address": "10.0.0.2", "weight": 5, "zone": "1", "admin_state": "drain"}
            await server.put("/web/web-2", changed)
            await listener.until_addresses("10.0.0.1", "10.0.0.2")
            found = listener.last
            await server.delete("/web/web-1")
            await listener.until_addresses("10.0.0.2")
    assert isinstance(found, Answer)
    assert [member.name for member in found.members] == ["web-1", "two"]
    two = found.members[1]
    assert (two.weight, two.zone, two.admin_state) == (5, "1", AdminState.DRAIN)


async def test_a_value_that_is_no_member_is_a_failure_until_it_is_mended(tmp_path: Path) -> None:
    """Garbage under one key is told with the key; nothing is taken from the others until it has gone."""
    async with etcd(tmp_path) as server:
        await server.put("/web/a", {"address": "10.0.0.1"})
        source = EtcdSource((server.endpoint,), "/web/", timeout_s=2.0)
        async with listening(source, tmp_path) as listener:
            await listener.until_addresses("10.0.0.1")
            await server.put("/web/b", "not json")
            why = await listener.until_failed()
            assert why.startswith("etcd /web/ at http://127.0.0.1:")
            assert "/web/b: 'not json': this must be a mapping, not text" in why
            await server.put("/web/b", {"address": "10.0.0.2", "wight": 3})
            await listener.until(lambda: "unknown key; did you mean `weight`?" in str(listener.last))
            await server.delete("/web/b")
            await listener.until_addresses("10.0.0.1")


async def test_a_killed_etcd_is_a_failure_and_its_return_an_answer(tmp_path: Path) -> None:
    """Members that changed while nobody listened are known once the etcd is back."""
    async with etcd(tmp_path) as server:
        await server.put("/web/a", {"address": "10.0.0.1"})
        source = EtcdSource((server.endpoint,), "/web/", timeout_s=2.0)
        async with listening(source, tmp_path) as listener:
            await listener.until_addresses("10.0.0.1")
            await server.child.kill()
            assert (await listener.until_failed()).startswith(server.endpoint)
            await server.child.start()
            await server.put("/web/a", {"address": "10.0.0.7"})
            await listener.until_addresses("10.0.0.7")


async def test_the_next_endpoint_is_asked_when_one_is_dead(tmp_path: Path) -> None:
    """A dead endpoint in the list is a failure that passes by itself."""
    async with etcd(tmp_path) as server:
        await server.put("/web/a", {"address": "10.0.0.1"})
        source = EtcdSource(("http://127.0.0.1:9", server.endpoint), "/web/", timeout_s=2.0)
        async with listening(source, tmp_path) as listener:
            await listener.until_addresses("10.0.0.1")
    assert len(listener.heard) == 2  # the failure of the first, the answer of the second


class Late(Listener):
    """A listener during whose first answer others write four times and have the etcd forget all but the last."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self.endpoint = endpoint

    def __call__(self, finding: Finding) -> None:
        super().__call__(finding)
        if len(self.heard) == 1:
            key = encoded("/web/a")
            for number in range(2, 6):
                value = encoded(f'{{"address": "10.0.0.{number}"}}')
                written = self.ask("put", {"key": key, "value": value})
            self.ask("compaction", {"revision": written["header"]["revision"], "physical": True})

    def ask(self, path: str, question: Any) -> Any:
        """Ask while the loop stands still: nothing of the source runs in between."""
        request = urllib.request.Request(f"{self.endpoint}/v3/kv/{path}", json.dumps(question).encode())  # noqa: S310
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:  # noqa: S310  # the test's own etcd
            return json.load(response)


async def test_compacted_revisions_are_read_anew(tmp_path: Path) -> None:
    """A watch from a revision that is gone ends as compacted; the keys are read again and nothing is missed."""
    async with etcd(tmp_path) as server:
        await server.put("/web/a", {"address": "10.0.0.1"})
        listener = Late(server.endpoint)
        async with listening(EtcdSource((server.endpoint,), "/web/", 2.0), tmp_path, listener):
            await listener.until_addresses("10.0.0.5")
            await server.put("/web/b", {"address": "10.0.0.9"})
            await listener.until_addresses("10.0.0.5", "10.0.0.9")
    assert all(isinstance(finding, Answer) for finding in listener.heard)


async def test_users_authenticate(tmp_path: Path) -> None:
    """With authentication on, a user with the right password may read; a wrong one is told as such."""
    (tmp_path / "password").write_text("s3cret\n")
    (tmp_path / "wrong").write_text("guess\n")
    async with etcd(tmp_path) as server:
        await server.put("/web/a", {"address": "10.0.0.1"})
        await server.ask("auth/user/add", {"name": "root", "password": "s3cret"})
        await server.ask("auth/role/add", {"name": "root"})
        await server.ask("auth/user/grant", {"user": "root", "role": "root"})
        await server.ask("auth/enable", {})
        right = EtcdSource((server.endpoint,), "/web/", 2.0, "root", "password")
        async with listening(right, tmp_path) as listener:
            await listener.until_addresses("10.0.0.1")
        wrong = EtcdSource((server.endpoint,), "/web/", 2.0, "root", "wrong")
        async with listening(wrong, tmp_path) as listener:
            assert "user root cannot authenticate" in await listener.until_failed()
        nobody = EtcdSource((server.endpoint,), "/web/", 2.0)
        async with listening(nobody, tmp_path) as listener:
            assert "user name is empty" in await listener.until_failed()
        missing = EtcdSource((server.endpoint,), "/web/", 2.0, "root", "no-such-file")
        async with listening(missing, tmp_path) as listener:
            assert "no-such-file" in await listener.until_failed()


async def test_tls_with_certificates_on_both_sides(tmp_path: Path) -> None:
    """The files of the configuration's directory are used; without them, or with none that fit, it is a failure."""
    certify(tmp_path, "etcd")
    async with etcd(tmp_path, AdminTls(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))) as server:
        await server.put("/web/a", {"address": "10.0.0.1"})
        trusted = EtcdSource((server.endpoint,), "/web/", 2.0, None, None, "cert.pem", "cert.pem", "key.pem")
        async with listening(trusted, tmp_path) as listener:
            await listener.until_addresses("10.0.0.1")
        async with listening(replace(trusted, ca_file=None), tmp_path) as listener:
            assert "certificate verify failed" in await listener.until_failed()
        async with listening(replace(trusted, certificate_file=None, key_file=None), tmp_path) as listener:
            assert server.endpoint in await listener.until_failed()
        async with listening(replace(trusted, ca_file="none.pem"), tmp_path) as listener:
            assert "No such file" in await listener.until_failed()


async def test_a_thousand_keys(tmp_path: Path) -> None:
    """A thousand members that are written one after the other are all there in the end."""
    async with etcd(tmp_path) as server:
        wanted = [f"10.1.{number // 250}.{number % 250 + 1}" for number in range(1000)]
        source = EtcdSource((server.endpoint,), "/web/", timeout_s=5.0)
        async with listening(source, tmp_path) as listener:
            for some in range(0, 1000, 50):
                await asyncio.gather(*(server.put(f"/web/{a}", {"address": a}) for a in wanted[some : some + 50]))
            await listener.until_addresses(*wanted)


async def test_a_server_that_is_no_etcd(tmp_path: Path) -> None:
    """Whatever a web server answers, it is a failure with what it said."""
    bodies = iter([b"<html>hello</html>", b"[1, 2]", b"{}", b'{"header": {"revision": "1"}, "kvs": [{"key": "%"}]}'])

    async def anything(_request: web.Request) -> web.Response:
        return web.Response(body=next(bodies, b""), status=200)

    app = web.Application()
    app.router.add_post("/v3/kv/range", anything)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with listening(EtcdSource((f"http://127.0.0.1:{port}",), "/web/", 1.0), tmp_path) as listener:
            await listener.until(lambda: len(listener.heard) >= 4)
    finally:
        await runner.cleanup()
    told = [str(finding) for finding in listener.heard[:4]]
    for text, said in zip(
        told, ("is no JSON", "no JSON object", "'header'", "does not answer as an etcd"), strict=True
    ):
        assert said in text
