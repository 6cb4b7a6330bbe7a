"""Members from a real name server, that changes its mind, is killed, and answers with too much."""

import asyncio
import random
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from asynclb.config import check_members
from asynclb.discovery import Answer
from asynclb.discovery.dns import DnsMembers
from asynclb.model import DnsSource, Record
from tests.faults.servers import NameServer, name_server
from tests.unit.discovery.fakes import Listener, listening_to


def listening(source: DnsSource) -> AbstractAsyncContextManager[Listener]:
    """Listen to a source."""
    return listening_to(DnsMembers(source, check_members, random.random))


def asked(server: NameServer, *names: str, record: Record = Record.A, version: int = 4) -> DnsSource:
    """Return a source that asks the server often."""
    bounds = {"min_interval_s": 0.1, "max_interval_s": 0.3, "timeout_s": 1.0}
    return DnsSource(names or ("web.test",), record, (server.server,), version, **bounds)


async def test_members_follow_the_records(tmp_path: Path) -> None:
    """Members are the addresses of all names, called by them, in their order; what changes is seen when it expires."""
    async with name_server(tmp_path) as server:
        server.say([("10.0.0.2", "web.test"), ("10.0.0.10", "web.test"), ("10.0.0.3", "more.test")])
        async with listening(asked(server, "web.test", "more.test.")) as listener:
            await listener.until_addresses("10.0.0.2", "10.0.0.3", "10.0.0.10")
            assert listener.addresses == ["10.0.0.2", "10.0.0.3", "10.0.0.10"]
            assert isinstance(listener.last, Answer)
            assert listener.last.members[0].name == "10.0.0.2"
            server.say([("10.0.0.3", "more.test")])
            await listener.until_addresses("10.0.0.3")


async def test_ipv6_members(tmp_path: Path) -> None:
    """AAAA records are members whose names have no colons."""
    async with name_server(tmp_path) as server:
        server.say([("fd00::1", "web.test")])
        async with listening(asked(server, record=Record.AAAA)) as listener:
            await listener.until_addresses("fd00::1")
            assert isinstance(listener.last, Answer)
            assert [member.name for member in listener.last.members] == ["fd00--1"]


async def test_a_name_that_does_not_exist_is_an_answer(tmp_path: Path) -> None:
    """NXDOMAIN, and a name without records of the kind, mean nobody; others decide whether that is taken."""
    async with name_server(tmp_path) as server:
        async with listening(asked(server, "nobody.test")) as listener:
            await listener.until_addresses()
        server.say([("fd00::1", "six.test")])
        async with listening(asked(server, "six.test")) as listener:
            await listener.until_addresses()


async def test_a_server_that_knows_nothing_is_a_failure(tmp_path: Path) -> None:
    """REFUSED is told with the server and its answer, and one name that fails fails all of them."""
    async with name_server(tmp_path) as server:
        server.say([("10.0.0.2", "web.test")])
        async with listening(asked(server, "web.test", "web.elsewhere")) as listener:
            why = await listener.until_failed()
    assert why == f"dns A web.test, web.elsewhere: 127.0.0.1:{server.child.port} answered REFUSED"


async def test_a_server_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    """A dead server is a failure and no answer; when it is back, so are the answers."""
    async with name_server(tmp_path) as server:
        server.say([("10.0.0.2", "web.test")])
        async with listening(asked(server)) as listener:
            await listener.until_addresses("10.0.0.2")
            await server.child.kill()
            why = await listener.until_failed()
            assert why == f"dns A web.test: 127.0.0.1:{server.child.port} did not answer"
            server.say([("10.0.0.4", "web.test")])
            await server.child.start()
            await listener.until_addresses("10.0.0.4")


async def test_a_thousand_members_come_over_tcp(tmp_path: Path) -> None:
    """An answer that does not fit a datagram is asked for again over TCP, and is whole."""
    wanted = [f"10.1.{number // 250}.{number % 250 + 1}" for number in range(1000)]
    async with name_server(tmp_path) as server:
        server.say([(address, "web.test") for address in wanted])
        async with listening(asked(server)) as listener:
            await listener.until_addresses(*wanted)


async def test_srv_records_have_weight_priority_and_names(tmp_path: Path) -> None:
    """Targets give names, the records weight and priority; ports are told, a target without address is noted."""
    records = ("web-1.test,8080,0,10", "web-2.test,8080,1,0", "gone.test,8080,0,10")
    options = [f"--srv-host=_web._tcp.test,{record}" for record in records]
    async with name_server(tmp_path, *options) as server:
        server.say([("10.0.0.1", "web-1.test"), ("10.0.0.2", "web-2.test")])
        async with listening(asked(server, "_web._tcp.test", record=Record.SRV)) as listener:
            await listener.until_addresses("10.0.0.1", "10.0.0.2")
            found = listener.last
    assert isinstance(found, Answer)
    assert [(m.name, m.weight, m.priority) for m in found.members] == [("web-1.test", 10, 0), ("web-2.test", 1, 1)]
    assert found.ports == {8080}
    assert found.notes == ("target gone.test has no IPv4 address and is left out",)


async def test_addresses_that_are_none_of_a_member_are_a_failure(tmp_path: Path) -> None:
    """An answer is checked as a configuration is: the unspecified address is no member, and the record is named."""
    async with name_server(tmp_path) as server:
        server.say([("0.0.0.0", "web.test"), ("10.0.0.1", "web.test")])
        async with listening(asked(server)) as listener:
            why = await listener.until_failed()
    rule = "the unspecified address names no host; write the address of one host"
    assert why == f"dns A web.test: 0.0.0.0.address: '0.0.0.0': {rule}"


async def test_garbage_is_no_answer() -> None:
    """A server that answers with anything but DNS is a failure after the time-out."""

    class Garbage(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: Any = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.transport.sendto(data[:2] + b"garbage", addr)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Garbage, ("127.0.0.1", 0))
    try:
        server = transport.get_extra_info("sockname")
        async with listening(DnsSource(("web.test",), servers=(server,), timeout_s=0.5)) as listener:
            assert await listener.until_failed() == f"dns A web.test: {server[0]}:{server[1]} did not answer"
    finally:
        transport.close()
