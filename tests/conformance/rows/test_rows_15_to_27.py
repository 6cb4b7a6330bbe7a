"""Rows 15 to 27: probes, as members and clients see them."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asynclb.lab.process import Process
from tests.conformance.rows.bed import PROBE_PORT, TCP_PROBE, Bed, address_of, frontend, health, rule, vip
from tests.conformance.rows.services import listen

pytestmark = pytest.mark.asyncio(loop_scope="session")

SLOW_S = 0.2
"""The interval where checks are counted: long enough to tell them apart on a busy machine."""

HTTP: dict[str, Any] = {"protocol": "http", "port": 9001, "path": "/health", "interval": "100ms", "timeout": "100ms"}
PROBED = {"probe": "tcp"}


async def load(bed: Bed, row: int, probe: dict[str, Any] | None = None, **parts: Any) -> None:
    """Load a rule that is probed; the probe is the bed's, or another one."""
    probes = {} if probe is None else {"probes": {"tcp": probe}}
    await bed.load(**{"frontends": {"vip": frontend(vip(row))}, "rules": [rule(**PROBED)], **probes, **parts})


async def test_row_15_tcp_probe(bed: Bed) -> None:
    """A member goes after as many failures as the threshold says, and comes back after as many successes."""
    await load(bed, 15, {**TCP_PROBE, "interval": "200ms", "timeout": "200ms", "threshold": 3, "flap_damping": False})
    with bed.serving():
        await bed.eligible("web", *bed.members)
        for change in (bed.probed["be2"].down, bed.probed["be2"].up):
            before = takers_of = set(await bed.visits(vip(15), range(42_000, 42_040)))
            change()
            changed_s = time.monotonic()
            while takers_of == before:
                takers_of = set(await bed.visits(vip(15), range(42_000, 42_040)))
            assert 1.5 * SLOW_S < time.monotonic() - changed_s < 5 * SLOW_S
            assert takers_of ^ before == {"be2"}


async def test_row_16_reset_is_a_failure(bed: Bed) -> None:
    """A closed port takes the member out, with the reason that it was reset."""
    await load(bed, 16)
    with bed.serving():
        await bed.eligible("web", *bed.members)
        bed.probed["be1"].down()
        await bed.eligible("web", "be2", "be3", "be4")
        assert health(await bed.state(), "be1")["reason"] == "Down_Probe_TcpReset"
        assert "be1" not in await bed.visits(vip(16), range(42_000, 42_040))


@asynccontextmanager
async def captured(bed: Bed, member: str, what: str) -> AsyncIterator[Process]:
    """Run tcpdump at a member for the length of a block; what it prints is in `stdout` afterwards."""
    process = await bed.members[member].run("tcpdump", "-lnni", "any", what, name="tcpdump")
    await process.wait_for_log("listening on")
    try:
        yield process
    finally:
        await process.stop()


async def test_row_17_probes_close_in_order(bed: Bed) -> None:
    """A TCP probe opens with a handshake and closes with FIN, never with a reset."""
    await load(bed, 17)
    await bed.eligible("web", *bed.members)
    async with captured(bed, "be1", f"tcp dst port {PROBE_PORT}") as dump:
        await asyncio.sleep(0.4)
    flags = [line.partition("Flags [")[2].partition("]")[0] for line in dump.stdout.splitlines() if "Flags" in line]
    assert {"S", "F."} <= set(flags)
    assert not [found for found in flags if "R" in found]


class Http:
    """An HTTP server on a member whose status and delay a test sets. Owner: a test."""

    def __init__(self, bed: Bed, member: str, port: int = 9001, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.status, self.delay_s, self.asked = 200, 0.0, 0
        self._sock = listen(bed.members[member], address_of(member), port, socket.SOCK_STREAM)

    async def __aenter__(self) -> "Http":
        self._server = await asyncio.start_server(self._serve, sock=self._sock, ssl=self._tls)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            await asyncio.sleep(self.delay_s)
            writer.write(f"HTTP/1.1 {self.status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return  # the prober has given up
        finally:
            writer.close()


async def test_row_18_http_statuses(bed: Bed) -> None:
    """Only 200 is healthy; any other status, and 200 again, acts at once although the threshold is 3."""
    backend = {"web": {"members": [{"name": "be1", "address": address_of("be1")}]}}
    async with Http(bed, "be1") as server:
        await load(bed, 18, {**HTTP, "threshold": 3, "flap_damping": False}, backend_pools=backend)
        with bed.serving():
            for status in (204, 301, 404, 500):
                server.status, before = 200, server.asked
                await bed.eligible("web", "be1")
                assert server.asked - before <= 2
                await bed.visit(vip(18))
                server.status, before = status, server.asked
                await bed.eligible("web")
                assert server.asked - before <= 2
                assert health(await bed.state(), "be1")["reason"] == "Down_Probe_HttpStatusCodeError"
                assert await bed.is_silent(vip(18))


async def test_row_19_http_timeout(bed: Bed) -> None:
    """An answer after the interval is none; it takes as many as the threshold says."""
    backend = {"web": {"members": [{"name": "be1", "address": address_of("be1")}]}}
    async with Http(bed, "be1") as server:
        await load(bed, 19, {**HTTP, "interval": "200ms", "timeout": "200ms", "threshold": 3}, backend_pools=backend)
        with bed.serving():
            await bed.eligible("web", "be1")
            server.delay_s, before, started_s = 1.0, server.asked, time.monotonic()
            await bed.eligible("web")
            assert time.monotonic() - started_s > 2 * SLOW_S
            assert server.asked - before >= 3
            assert health(await bed.state(), "be1")["reason"] == "Down_Probe_HttpNoResponse"
            assert await bed.is_silent(vip(19))


async def test_row_21_probes_go_to_the_members_address(bed: Bed) -> None:
    """With floating IP, probes are sent to the member's own address and not to the VIP."""
    async with captured(bed, "be1", f"tcp dst port {PROBE_PORT}") as dump:
        await load(bed, 21, rules=[rule(**PROBED, floating_ip=True)])
        await bed.eligible("web", *bed.members)
        await asyncio.sleep(0.2)
    asked = [line for line in dump.stdout.splitlines() if "Flags [S]" in line]
    assert asked
    assert all(f"> {address_of('be1')}.{PROBE_PORT}:" in line for line in asked)


async def test_row_22_source_of_probes(bed: Bed) -> None:
    """Probes come from the address that is configured; a member that blocks it is down."""
    source = "10.0.2.99"
    lb, member = bed.site.lb, bed.members["be1"]
    await lb.check_output("ip", "addr", "add", f"{source}/24", "dev", "back")
    try:
        async with captured(bed, "be1", f"tcp dst port {PROBE_PORT}") as dump:
            await load(bed, 22, {**TCP_PROBE, "source_address": source})
            await bed.eligible("web", *bed.members)
            await asyncio.sleep(0.2)
        asked = [line for line in dump.stdout.splitlines() if "Flags [S]" in line]
        assert asked
        assert all(f"IP {source}." in line for line in asked)
        table = f"table ip blocked {{ chain in {{ type filter hook input priority 0; ip saddr {source} drop; }}; }}"
        await member.check_output("nft", table)
        try:
            await bed.eligible("web", "be2", "be3", "be4")
        finally:
            await member.check_output("nft", "delete table ip blocked")
    finally:
        await lb.check_output("ip", "addr", "del", f"{source}/24", "dev", "back")


async def test_row_23_before_the_first_probe(bed: Bed) -> None:
    """Until a probe has said that a member is up it takes nothing, and its reason is NA."""
    with bed.serving():
        bed.probed["be1"].down()
        await load(bed, 23, {**TCP_PROBE, "interval": "60s", "timeout": "60s", "threshold": 2})
        state = await bed.state()
        found = {name: health(state, name) for name in bed.members}
        assert {one["reason"] for one in found.values()} <= {
            "NA",
            "Down_Probe_ApproachingHealthyThreshold",
            "Down_Probe_TcpReset",
        }
        assert "NA" in {one["reason"] for one in found.values()}
        assert await bed.is_silent(vip(23))


async def test_row_24_rule_without_a_probe(bed: Bed) -> None:
    """Every member takes flows, whatever listens; there is no health to show."""
    for probed in bed.probed.values():
        probed.down()
    await load(bed, 24, rules=[rule()])
    with bed.serving():
        assert set(await bed.visits(vip(24), range(42_000, 42_040))) == set(bed.members)
    (pool,) = (await bed.state())["pools"]
    assert [member["health"] for member in pool["members"]] == [[], [], [], []]


async def still_serving(bed: Bed, address: str) -> None:
    """Check that what was active still carries flows."""
    with bed.serving():
        await bed.visit(address)


async def test_row_25_shortest_interval(bed: Bed) -> None:
    """Less than 5 s is refused with `compat: azure`, and works without."""
    await load(bed, 25)
    await bed.eligible("web", *bed.members)
    probes = {"tcp": {**TCP_PROBE, "interval": "1s", "timeout": "1s"}}
    refused = await bed.refused(
        frontends={"vip": frontend(vip(25))}, rules=[rule(**PROBED)], probes=probes, compat="azure"
    )
    assert [problem["where"] for problem in refused.problems] == ["probes.tcp.interval"]
    await still_serving(bed, vip(25))


async def test_row_26_path_of_http_probes(bed: Bed) -> None:
    """A path is required for HTTP and HTTPS, and refused for TCP."""
    await load(bed, 26)
    await bed.eligible("web", *bed.members)
    for probe in ({"protocol": "http", "port": 80}, {"protocol": "https", "port": 80}, {**TCP_PROBE, "path": "/"}):
        refused = await bed.refused(frontends={"vip": frontend(vip(26))}, rules=[rule(**PROBED)], probes={"tcp": probe})
        assert refused.problems[0]["where"].startswith("probes.tcp")
    await still_serving(bed, vip(26))


async def test_row_27_number_of_probes(bed: Bed) -> None:
    """`number_of_probes` is accepted, warned of, and not used: one failure takes a member out."""
    await load(bed, 27, {**TCP_PROBE, "number_of_probes": 5, "interval": "200ms", "timeout": "200ms"})
    assert [warning["where"] for warning in bed.warnings] == ["probes.tcp.number_of_probes"]
    with bed.serving():
        await bed.eligible("web", *bed.members)
        bed.probed["be3"].down()
        down_s = time.monotonic()
        await bed.eligible("web", "be1", "be2", "be4")
        assert time.monotonic() - down_s < 3 * SLOW_S
        assert "be3" not in await bed.visits(vip(27), range(42_000, 42_040))
